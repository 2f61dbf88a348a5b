import itertools
from typing import Any, Dict, Iterator, List
from unittest import mock

import matplotlib
import pytest
from matplotlib import figure as matplotlib_figure
from matplotlib.figure import Figure

from allennlp_ema.training.callbacks.monitor_picture import picture, table


def rows(num_epochs: int, **columns: Any) -> List[Dict[str, Any]]:
    return [
        {
            "epoch": epoch,
            "effective_window": 1000.0 * (epoch + 1),
            "distance": 0.1 / (epoch + 1),
            "validation_accuracy": 0.9 + 0.001 * epoch,
            "validation_raw_accuracy": 0.89 + 0.001 * epoch,
            "validation_loss": 1.0 / (epoch + 1),
            **columns,
        }
        for epoch in range(num_epochs)
    ]


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> Iterator[List[Figure]]:
    """The figures that were drawn."""
    drawn: List[Figure] = []
    savefig = Figure.savefig

    def save_and_keep(figure: Figure, *arguments: Any, **options: Any) -> None:
        savefig(figure, *arguments, **options)
        drawn.append(figure)

    monkeypatch.setattr(Figure, "savefig", save_and_keep)
    yield drawn


def test_table() -> None:
    text = table([{"epoch": 0, "decay": None}, {"epoch": 1, "decay": 0.5, "validation_loss": 0.1}])
    assert text == "epoch,decay,validation_loss\n0,,\n1,0.5,0.1\n"


def test_lines_are_the_numbers(figures: List[Figure]) -> None:
    png = picture(rows(3), ["accuracy", "loss", "f1"])
    assert png.startswith(b"\x89PNG")
    (figure,) = figures
    lines = [
        {line.get_label(): [list(axis) for axis in line.get_data()] for line in axes.get_lines()}
        for axes in figure.axes
    ]
    epochs = [0, 1, 2]
    assert lines[0] == {
        "averaged weights": [epochs, [0.9, 0.901, 0.902]],
        "raw weights": [epochs, [0.89, 0.891, 0.892]],
    }
    assert lines[1] == {"averaged weights": [epochs, [1.0, 0.5, 1.0 / 3]]}
    assert [list(line.values()) for line in lines[2:]] == [
        [[epochs, [0.1, 0.05, 0.1 / 3]]],
        [[epochs, [1000.0, 2000.0, 3000.0]]],
    ]
    assert [axes.get_ylabel() for axes in figure.axes] == [
        "validation accuracy",
        "validation loss",
        "distance from raw\nweights (relative)",
        "effective window\n(updates)",
    ]
    assert figure.axes[-1].get_xlabel() == "epoch"
    legend = figure.axes[0].get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["averaged weights", "raw weights"]


def test_epochs_without_a_sample_are_marked(figures: List[Figure]) -> None:
    some = rows(4)
    picture(some, ["accuracy"])
    for row in some[:2]:
        row["effective_window"] = None
    picture(some, ["accuracy"])
    for row in some:
        row["effective_window"] = None
    picture(some, [])
    legends = [figure.axes[-1].get_legend() for figure in figures]
    assert legends[0] is None
    for legend in legends[1:]:
        assert [text.get_text() for text in legend.get_texts()] == ["no sample yet"]
    (line,), (span,) = figures[1].axes[-1].get_lines(), figures[1].axes[-1].patches
    assert list(line.get_xdata()) == [2, 3]
    extent = span.get_extents().transformed(figures[1].axes[-1].transData.inverted())
    assert (extent.x0, extent.x1) == pytest.approx((-0.5, 1.5))


def test_epochs_without_a_number_are_left_out(figures: List[Figure]) -> None:
    some = rows(3)
    del some[1]["validation_accuracy"]
    some[0]["validation_raw_accuracy"] = None
    picture(some, ["accuracy"])
    averaged, raw = figures[0].axes[0].get_lines()
    assert list(averaged.get_xdata()) == [0, 2]
    assert list(raw.get_xdata()) == [1, 2]


def test_what_was_selected_stands_between(figures: List[Figure]) -> None:
    some = rows(4)
    for row, name in zip(some[1:], ["raw", "slow", "raw"]):
        row["selected"] = name
    picture(some, ["accuracy"])
    metric, selected, distance, _ = figures[0].axes
    assert [text.get_text() for text in metric.get_legend().get_texts()][0] == "selected weights"
    assert selected.get_ylabel() == "selected" and "distance" in distance.get_ylabel()
    (line,) = selected.get_lines()
    names = [text.get_text() for text in selected.get_yticklabels()]
    at = {epoch: names[place] for epoch, place in zip(*line.get_data())}
    assert at == {1: "raw", 2: "slow", 3: "raw"}


@pytest.mark.parametrize(
    "num_epochs, scale, names",
    [
        (1, 1.0, ["raw"]),
        (3, 1.0, []),
        (20, 1e-9, ["short", "a bank.of a long name"]),
        (300, 1e9, ["raw"]),
    ],
)
def test_nothing_lies_on_anything_else(
    num_epochs: int, scale: float, names: List[str], figures: List[Figure]
) -> None:
    some = rows(num_epochs, distance=scale, effective_window=scale)
    for row, name in zip(some, itertools.cycle(names)):
        row["selected"] = name
    some[0]["effective_window"] = None
    picture(some, ["accuracy", "loss"])
    figure = figures[0]
    # Everything has been where it is now only at the dots per inch of the file.
    figure.canvas.draw()
    places = []
    for axes in figure.axes:
        texts = [axes.xaxis.label, axes.yaxis.label]
        for axis in (axes.xaxis, axes.yaxis):
            texts += [axis.get_offset_text(), *axis.get_ticklabels()]
        in_view = [
            text
            for text in texts
            if text.get_visible() and text.get_text() and _is_within(axes, text)
        ]
        places += [axes.get_window_extent(), *(text.get_window_extent() for text in in_view)]
    places += [figure.axes[n].get_legend().get_window_extent() for n in (0, -1)]
    for place in places:
        assert figure.bbox.x0 <= place.x0 and place.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= place.y0 and place.y1 <= figure.bbox.y1
    for one, other in itertools.combinations(places, 2):
        assert not one.padded(-1).overlaps(other.padded(-1))
    ticks = [text.get_text() for text in figure.axes[-1].get_xticklabels()]
    assert all(float(tick.replace("\N{MINUS SIGN}", "-")).is_integer() for tick in ticks)


def _is_within(axes: Any, text: Any) -> bool:
    """Whether a tick's label is drawn: those beyond the ends of an axis are not."""
    if text in axes.get_yticklabels():
        low, high = sorted(axes.get_ylim())
        return low <= text.get_position()[1] <= high
    if text in axes.get_xticklabels():
        low, high = axes.get_xlim()
        return low <= text.get_position()[0] <= high and axes.get_subplotspec().is_last_row()
    return True


def test_nobody_elses_pictures_are_touched() -> None:
    with mock.patch.object(matplotlib, "use", side_effect=AssertionError):
        settings = dict(matplotlib.rcParams)
        picture(rows(2), ["accuracy"])
    assert dict(matplotlib.rcParams) == settings
    assert not any(name.startswith("pyplot") for name in vars(matplotlib_figure))
