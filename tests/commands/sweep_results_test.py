from typing import Any, List

import pytest
from allennlp.common.checks import ConfigurationError

from allennlp_ema.commands.sweep_results import SweepResults
from allennlp_ema.commands.sweep_values import RAW, SYNTHESIZED, TRACKED, Measurement


def measured(
    value: float, accuracy: float, residual: float = 0.01, num_updates: int = 1200
) -> Measurement:
    return Measurement(
        SYNTHESIZED,
        "power_function",
        {"accuracy": accuracy, "note": "not a number"},
        num_updates,
        value,
        effective_window=1000.0 * value,
        residual=residual,
        noise_amplification=1.5,
    )


RAW_WEIGHTS = Measurement(
    RAW, "raw weights after update 1,234,567", {"accuracy": 0.99, "note": ""}, 1234567
)
TAKEN = Measurement(
    TRACKED, '"long" as taken in training', {"accuracy": 0.1}, 1200, effective_window=250.0
)


def results(measurements: List[Measurement], metric: str = "+accuracy") -> SweepResults:
    return SweepResults("sigma_rel", metric, 0.05, measurements)


@pytest.mark.parametrize(
    "metric, residuals, best",
    [
        ("+accuracy", [0.0, 0.0, 0.0], 0.2),
        ("-accuracy", [0.0, 0.0, 0.0], 0.3),
        # What is not what it says cannot be the best, what is just within can.
        ("+accuracy", [0.05, 0.051, 0.0], 0.1),
        ("-accuracy", [0.0, 0.0, 1.0], 0.1),
    ],
)
def test_the_best_is_the_best_synthesized_average_that_is_what_it_says(metric, residuals, best):
    measurements = [
        measured(value, accuracy, residual)
        for (value, accuracy), residual in zip(((0.1, 0.7), (0.2, 0.8), (0.3, 0.6)), residuals)
    ]
    assert results([RAW_WEIGHTS, TAKEN, *measurements], metric).best.value == best


def test_what_is_not_a_number_is_never_the_best():
    nan = float("nan")
    assert results([measured(0.1, nan), measured(0.2, 0.7), measured(0.3, nan)]).best.value == 0.2
    with pytest.raises(ConfigurationError, match='"accuracy" is NaN for every average with a resi'):
        _ = results([measured(0.1, nan), measured(0.2, 0.7, residual=0.1)]).best


def test_the_table_says_all_of_it(capsys):
    results([RAW_WEIGHTS, TAKEN, measured(0.1, 0.7), measured(0.25, 0.8, 0.2)]).print_table()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("│")]
    assert [[cell.strip() for cell in line.strip("│").split("│")] for line in lines] == [
        ["raw weights after update 1,234,567", "", "1,234,567", "", "", "", "0.9900", ""],
        ['"long" as taken in training', "", "1,200", "250.0", "", "", "0.1000", ""],
        ["power_function", "0.1", "1,200", "100.0", "0.0100", "1.50", "0.7000", "best"],
        ["power_function", "0.25", "1,200", "250.0", "0.2000", "1.50", "0.8000"]
        + ["residual above 0.05"],
    ]


def test_the_picture_shows_what_was_measured(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    figures: List[Any] = []
    savefig = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda f, *a, **k: [figures.append(f), savefig(f, *a, **k)]
    )
    everything = [RAW_WEIGHTS, TAKEN, measured(0.1, 0.7), measured(0.2, 0.6), measured(0.4, 0.8, 1)]
    results(everything).draw(tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.png"]
    ((axes,), (legend,)) = figures[0].axes, figures[0].legends
    assert axes.get_xscale() == "log"
    assert "updates" in axes.get_xlabel() and "accuracy" in axes.get_ylabel()
    drawn = {line.get_label(): line.get_xydata().tolist() for line in axes.lines}
    assert drawn["made from snapshots"] == [[100.0, 0.7], [200.0, 0.6]]
    assert drawn["the same, residual above 0.05"] == [[400.0, 0.8]]
    assert drawn["best: sigma_rel 0.1, 0.7000"] == [[100.0, 0.7]]
    assert drawn['"long" as taken in training'] == [[250.0, 0.1]]
    assert [y for _, y in drawn["raw weights after update 1,234,567"]] == [0.99, 0.99]
    assert len(legend.get_texts()) == 5
    # Nothing of the legend is outside the picture.
    box = legend.get_window_extent()
    assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figures[0].bbox.x1


def test_the_picture_of_lengths_against_updates(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    figures: List[Any] = []
    savefig = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda f, *a, **k: [figures.append(f), savefig(f, *a, **k)]
    )
    everything = [
        RAW_WEIGHTS,
        TAKEN,
        *[measured(0.1, 0.5, 0.2, 600), measured(0.2, 0.6, num_updates=600)],
        *[measured(0.1, 0.9, num_updates=1200), measured(0.2, 0.7, num_updates=1200)],
    ]
    results(everything).draw(tmp_path / "sweep.png")
    axes, bar = figures[0].axes
    (mesh,) = axes.collections
    assert mesh.get_array().reshape(2, 2).tolist() == [[0.5, 0.9], [0.6, 0.7]]
    # From the median of 0.6, 0.7 and 0.9 to the best.
    assert (mesh.norm.vmin, mesh.norm.vmax) == (0.7, 0.9)
    assert bar.get_ylabel() == "accuracy (higher is better)"
    assert [text.get_text() for text in axes.get_xticklabels()] == ["600", "1,200"]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["0.1", "0.2"]
    assert [patch.get_xy() for patch in axes.patches] == [(0, 0)]
    (star,) = axes.lines
    assert star.get_xydata().tolist() == [[1.5, 0.5]]
    (legend,) = figures[0].legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "best: sigma_rel 0.1 after 1,200 updates, 0.9000",
        "residual above 0.05",
    ]
    assert axes.get_title() == "raw weights after update 1,234,567: 0.9900"
    # The less the better: the best end of the colours is the same.
    results(everything, "-accuracy").draw(tmp_path / "sweep.png")
    mesh = figures[1].axes[0].collections[0]
    assert (mesh.norm.vmin, mesh.norm.vmax, mesh.cmap.name) == (0.6, 0.7, "viridis_r")
    # Where half of them are the best, there is a scale too.
    results([*everything, *[measured(0.3, 0.9, num_updates=n) for n in (600, 1200)]]).draw(
        tmp_path / "sweep.png"
    )
    mesh = figures[2].axes[0].collections[0]
    assert (mesh.norm.vmin, mesh.norm.vmax) == (0.7, 0.9)


def test_an_interrupted_picture_leaves_the_one_before(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    def fail(figure: Any, path: str, **how: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(Figure, "savefig", fail)
    (tmp_path / "sweep.png").write_text("before")
    with pytest.raises(OSError):
        results([measured(0.1, 0.7)]).draw(tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").read_text() == "before"
