"""
The picture of a sweep over averaging lengths and over the updates after which to stop.
"""

import math
from typing import Any, List, NamedTuple, Sequence

import numpy
from numpy import ndarray

# How many labels fit beside each side.
_MOST_LABELS = 12


class Cell(NamedTuple):
    """
    # Parameters

    num_updates : `int`
    value : `float`
        Of the key that the sweep goes along.
    metric : `float`
    is_reached : `bool`
        Whether the average is what it says, by its residual.
    """

    num_updates: int
    value: float
    metric: float
    is_reached: bool


def draw_plane(
    figure: Any,
    cells: Sequence[Cell],
    best: Cell,
    key: str,
    metric: str,
    is_higher_better: bool,
    hatched: str,
) -> Any:
    """
    Draws each length against each number of updates, with the metric as colour.

    # Parameters

    figure : `matplotlib.figure.Figure`
    cells : `Sequence[Cell]`
        One of each length after each number of updates.
    best : `Cell`
        Which gets a star.
    key : `str`
    metric : `str`
        What it is called.
    is_higher_better : `bool`
    hatched : `str`
        What is said of the averages that are not what they say.

    # Returns

    axes : `matplotlib.axes.Axes`
    """
    # Takes its time, which every start of `allennlp` would pay.
    from matplotlib.patches import Patch

    nums_updates = sorted({cell.num_updates for cell in cells})
    values = list(dict.fromkeys(cell.value for cell in cells))
    metrics, reached = numpy.full((2, len(values), len(nums_updates)), math.nan)
    for cell in cells:
        place = values.index(cell.value), nums_updates.index(cell.num_updates)
        metrics[place], reached[place] = cell.metric, cell.is_reached
    axes = figure.add_subplot()
    # The better half of what can be chosen: the first updates of a training are far off.
    chosen = metrics[(reached == 1.0) & numpy.isfinite(metrics)]
    scale = numpy.sort([numpy.median(chosen), best.metric])
    mesh = axes.pcolormesh(
        metrics,
        cmap="viridis" if is_higher_better else "viridis_r",
        vmin=scale[0],
        vmax=scale[1],
        edgecolors="white",
        linewidth=0.5,
    )
    bar = figure.colorbar(mesh, ax=axes, extend=_extend(metrics, scale))
    bar.set_label(f"{metric} ({'higher' if is_higher_better else 'lower'} is better)")
    bar.formatter.set_useOffset(False)
    for row, column in numpy.argwhere(reached == 0.0):
        axes.add_patch(_hatched((column, row)))
    words = f"best: {key} {best.value:.4g} after {best.num_updates:,} updates, {best.metric:.4f}"
    handles: List[Any] = axes.plot(
        nums_updates.index(best.num_updates) + 0.5,
        values.index(best.value) + 0.5,
        marker="*",
        markersize=18,
        color="white",
        markeredgecolor="black",
        linestyle="",
        label=words,
    )
    axes.set_xlabel("updates")
    axes.set_ylabel(key)
    _label(axes.xaxis, [f"{number:,}" for number in nums_updates], rotation=45)
    _label(axes.yaxis, [f"{value:.3g}" for value in values])
    if (reached == 0.0).any():
        handles.append(Patch(facecolor="none", hatch="////", edgecolor="#666666", label=hatched))
    figure.legend(handles=handles, loc="outside lower center", ncol=2)
    return axes


def _extend(metrics: ndarray, scale: ndarray) -> str:
    """At which ends there are values beyond the scale."""
    below, above = numpy.nanmin(metrics) < scale[0], numpy.nanmax(metrics) > scale[1]
    return {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}[below, above]


def _hatched(corner: Any) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(corner, 1.0, 1.0, fill=False, hatch="////", edgecolor="#666666", linewidth=0)


def _label(axis: Any, labels: Sequence[str], **how: Any) -> None:
    step = math.ceil(len(labels) / _MOST_LABELS)
    axis.set_ticks([n + 0.5 for n in range(0, len(labels), step)], labels=labels[::step], **how)
