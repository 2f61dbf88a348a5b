"""
The table of an average over a training, and its picture.
"""

import csv
import io
from typing import Any, Dict, Iterable, Sequence

# The figures of one epoch, by column.
Row = Dict[str, Any]

# The prefixes of columns that hold validation metrics.
AVERAGED = "validation_"
RAW = "validation_raw_"

# Line styles and markers differ too, for readers who cannot tell the colours apart and for lines
# that cover each other.
_AVERAGED_STYLE = {"color": "#0072b2", "marker": "o", "markersize": 3, "linewidth": 1.2}
_RAW_STYLE = {
    "color": "#d55e00",
    "marker": "s",
    "markersize": 5.5,
    "markerfacecolor": "none",
    "linestyle": "--",
    "linewidth": 1.2,
}
_WEIGHTS_STYLE = {**_AVERAGED_STYLE, "color": "#333333"}

# Places a legend above the axes, where it covers no line.
_ABOVE: Dict[str, Any] = {
    "loc": "lower right",
    "bbox_to_anchor": (1.0, 1.0),
    "frameon": False,
    "borderaxespad": 0.2,
}


def table(rows: Sequence[Row]) -> str:
    """`rows` as comma-separated values. A value that a row lacks is left empty."""
    text = io.StringIO()
    columns = list(dict.fromkeys(column for row in rows for column in row))
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def picture(rows: Sequence[Row], metrics: Sequence[str]) -> bytes:
    """
    # Parameters

    rows : `Sequence[Row]`
        Each row has the columns `epoch`, `distance` and `effective_window`. The effective window is
        `None` before the first sample.
    metrics : `Sequence[str]`
        The names of the metrics to draw. Metrics without a column are left out.

    # Returns

    png : `bytes`
        The upper plots show the metrics of the averaged and the raw weights by epoch. The lower
        plots show the distance between both weights and the effective window. Between them a plot
        shows which weights were selected, if any were.
    """
    # Importing matplotlib takes long, so it is imported only when a picture is drawn.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    columns = {column for row in rows for column in row}
    metrics = [metric for metric in metrics if AVERAGED + metric in columns]
    names = list(dict.fromkeys(row["selected"] for row in rows if "selected" in row))
    of_selected = [0.5 + 0.2 * len(names)] if names else []
    heights = [2.4] * len(metrics) + of_selected + [1.6, 1.6]
    figure = Figure(figsize=(6.0, sum(heights) + 0.4), constrained_layout=True)
    FigureCanvasAgg(figure)
    all_axes = figure.subplots(
        len(heights), sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights}
    )[:, 0]

    _draw_metrics(all_axes, rows, metrics, f"{'selected' if names else 'averaged'} weights")
    _draw_weights(all_axes[-2], all_axes[-1], rows)
    all_axes[-1].set_xlabel("epoch")
    all_axes[-1].set_xlim(rows[0]["epoch"] - 0.5, rows[-1]["epoch"] + 0.5)
    all_axes[-1].xaxis.set_major_locator(
        MaxNLocator(integer=True, steps=[1, 2, 5, 10], min_n_ticks=1)
    )
    for axes in all_axes:
        axes.ticklabel_format(axis="y", useOffset=False)
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.spines["top"].set_visible(False)
        axes.spines["right"].set_visible(False)
    if names:
        _draw_selected(all_axes[len(metrics)], rows, names)
    figure.align_ylabels()
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=150)
    return png.getvalue()


def _plot(axes: Any, rows: Sequence[Row], column: str, **style: Any) -> None:
    points = [(row["epoch"], row[column]) for row in rows if row.get(column) is not None]
    axes.plot([epoch for epoch, _ in points], [value for _, value in points], **style)


def _draw_metrics(
    all_axes: Iterable[Any], rows: Sequence[Row], metrics: Sequence[str], label: str
) -> None:
    for number, (axes, metric) in enumerate(zip(all_axes, metrics)):
        _plot(axes, rows, AVERAGED + metric, label=label, **_AVERAGED_STYLE)
        if any(RAW + metric in row for row in rows):
            _plot(axes, rows, RAW + metric, label="raw weights", **_RAW_STYLE)
        axes.set_ylabel(f"validation {metric}")
        if number == 0:
            axes.legend(ncol=2, **_ABOVE)


def _draw_weights(distance_axes: Any, window_axes: Any, rows: Sequence[Row]) -> None:
    _plot(distance_axes, rows, "distance", **_WEIGHTS_STYLE)
    distance_axes.set_ylabel("distance from raw\nweights (relative)")
    _plot(window_axes, rows, "effective_window", **_WEIGHTS_STYLE)
    window_axes.set_ylabel("effective window\n(updates)")
    _mark_without_samples(window_axes, rows)
    for axes in (distance_axes, window_axes):
        axes.set_ylim(bottom=0.0)


def _draw_selected(axes: Any, rows: Sequence[Row], names: Sequence[str]) -> None:
    points = [(row["epoch"], names.index(row["selected"])) for row in rows if "selected" in row]
    axes.plot(*zip(*points), **{**_WEIGHTS_STYLE, "linestyle": "none"})
    axes.set_yticks(range(len(names)))
    axes.set_yticklabels(names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_ylabel("selected")


def _mark_without_samples(axes: Any, rows: Sequence[Row]) -> None:
    without = [row["epoch"] for row in rows if row["effective_window"] is None]
    if without:
        axes.axvspan(
            without[0] - 0.5, without[-1] + 0.5, color="#e8e8e8", linewidth=0, label="no sample yet"
        )
        axes.legend(**_ABOVE)
