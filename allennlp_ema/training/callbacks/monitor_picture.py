"""
The table of an average along a training, and the picture of it.
"""

import csv
import io
from typing import Any, Dict, Sequence

# What is known of one epoch, by column; validation metrics in columns with these prefixes.
Row = Dict[str, Any]
AVERAGED = "validation_"
RAW = "validation_raw_"

# Told apart without colours too, and where one lies on the other.
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

# Where a legend lies on no line.
_ABOVE: Dict[str, Any] = {
    "loc": "lower right",
    "bbox_to_anchor": (1.0, 1.0),
    "frameon": False,
    "borderaxespad": 0.2,
}


def table(rows: Sequence[Row]) -> str:
    """`rows` as comma-separated values. What a row does not have is left empty."""
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
        With the columns `epoch`, `distance` and `effective_window`, which is `None` as long as
        there is no sample.
    metrics : `Sequence[str]`
        The names of the metrics to draw, where there are such columns.

    # Returns

    png : `bytes`
        Above the metrics of the averaged and the raw weights against the epoch, below the distance
        of the two and the effective window.
    """
    # It takes its time to be imported, for which only whoever draws should have to wait.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    columns = {column for row in rows for column in row}
    metrics = [metric for metric in metrics if AVERAGED + metric in columns]
    heights = [2.4] * len(metrics) + [1.6, 1.6]
    figure = Figure(figsize=(6.0, sum(heights) + 0.4), constrained_layout=True)
    FigureCanvasAgg(figure)
    all_axes = figure.subplots(
        len(heights), sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights}
    )[:, 0]

    def plot(axes: Any, column: str, **style: Any) -> None:
        points = [(row["epoch"], row[column]) for row in rows if row.get(column) is not None]
        axes.plot([epoch for epoch, _ in points], [value for _, value in points], **style)

    for axes, metric in zip(all_axes, metrics):
        plot(axes, AVERAGED + metric, label="averaged weights", **_AVERAGED_STYLE)
        if RAW + metric in columns:
            plot(axes, RAW + metric, label="raw weights", **_RAW_STYLE)
        axes.set_ylabel(f"validation {metric}")
    if metrics:
        all_axes[0].legend(ncol=2, **_ABOVE)
    distance_axes, window_axes = all_axes[-2:]
    plot(distance_axes, "distance", **_WEIGHTS_STYLE)
    distance_axes.set_ylabel("distance from raw\nweights (relative)")
    plot(window_axes, "effective_window", **_WEIGHTS_STYLE)
    window_axes.set_ylabel("effective window\n(updates)")
    _mark_without_samples(window_axes, rows)
    for axes in (distance_axes, window_axes):
        axes.set_ylim(bottom=0.0)
    window_axes.set_xlabel("epoch")
    window_axes.set_xlim(rows[0]["epoch"] - 0.5, rows[-1]["epoch"] + 0.5)
    window_axes.xaxis.set_major_locator(
        MaxNLocator(integer=True, steps=[1, 2, 5, 10], min_n_ticks=1)
    )
    for axes in all_axes:
        axes.ticklabel_format(axis="y", useOffset=False)
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.spines["top"].set_visible(False)
        axes.spines["right"].set_visible(False)
    figure.align_ylabels()
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=150)
    return png.getvalue()


def _mark_without_samples(axes: Any, rows: Sequence[Row]) -> None:
    without = [row["epoch"] for row in rows if row["effective_window"] is None]
    if without:
        axes.axvspan(
            without[0] - 0.5, without[-1] + 0.5, color="#e8e8e8", linewidth=0, label="no sample yet"
        )
        axes.legend(**_ABOVE)
