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
    nums_updates = sorted({cell.num_updates for cell in cells})
    values = list(dict.fromkeys(cell.value for cell in cells))
    metrics, reached = numpy.full((2, len(values), len(nums_updates)), math.nan)
    for cell in cells:
        place = values.index(cell.value), nums_updates.index(cell.num_updates)
        metrics[place], reached[place] = cell.metric, cell.is_reached
    axes = figure.add_subplot()
    bar = _fill(axes, metrics, reached == 1.0, best.metric, is_higher_better)
    bar.set_label(f"{metric} ({'higher' if is_higher_better else 'lower'} is better)")
    middle = nums_updates.index(best.num_updates) + 0.5, values.index(best.value) + 0.5
    star = {"marker": "*", "markersize": 18, "color": "white", "markeredgecolor": "black"}
    words = f"best: {key} {best.value:.4g} after {best.num_updates:,} updates, {best.metric:.4f}"
    handles: List[Any] = axes.plot(*middle, linestyle="", label=words, **star)
    hatches = [_hatch(axes, column, row) for row, column in numpy.argwhere(reached == 0.0)]
    for hatch in hatches[:1]:
        hatch.set_label(hatched)
        handles.append(hatch)
    axes.set_xlabel("updates")
    axes.set_ylabel(key)
    _set_labels(axes.xaxis, [f"{number:,}" for number in nums_updates], rotation=45)
    _set_labels(axes.yaxis, [f"{value:.3g}" for value in values])
    figure.legend(handles=handles, loc="outside lower center", ncol=2)
    return axes


def _fill(
    axes: Any, metrics: ndarray, is_reached: ndarray, best: float, is_higher_better: bool
) -> Any:
    """Colours the cells, and returns the bar that says which colour is what."""
    # The better half of what can be chosen: the first updates of a training are far off.
    middle = numpy.median(numpy.unique(metrics[is_reached & numpy.isfinite(metrics)]))
    low, high = min(middle, best), max(middle, best)
    mesh = axes.pcolormesh(
        metrics,
        cmap="viridis" if is_higher_better else "viridis_r",
        vmin=low,
        vmax=high,
        edgecolors="white",
        linewidth=0.5,
    )
    beyond = bool(numpy.nanmin(metrics) < low), bool(numpy.nanmax(metrics) > high)
    extend = {(True, False): "min", (False, True): "max", (True, True): "both"}
    bar = axes.figure.colorbar(mesh, ax=axes, extend=extend.get(beyond, "neither"))
    bar.formatter.set_useOffset(False)
    return bar


def _hatch(axes: Any, column: int, row: int) -> Any:
    # Takes its time, which every start of `allennlp` would pay.
    from matplotlib.patches import Rectangle

    style: Any = {"fill": False, "hatch": "////", "edgecolor": "#999999", "linewidth": 0}
    return axes.add_patch(Rectangle((column, row), 1.0, 1.0, **style))


def _set_labels(axis: Any, labels: Sequence[str], **how: Any) -> None:
    step = math.ceil(len(labels) / _MOST_LABELS)
    axis.set_ticks([n + 0.5 for n in range(0, len(labels), step)], labels=labels[::step], **how)
