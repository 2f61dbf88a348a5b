"""
The picture of a sweep over averaging lengths and numbers of updates.
"""

import math
from typing import Any, List, NamedTuple, Sequence

import numpy
from numpy import ndarray

# The number of labels that fit beside each axis.
_MAX_LABELS = 12


class Cell(NamedTuple):
    """
    # Parameters

    num_updates : `int`
    value : `float`
        The value of the key that the sweep varies.
    metric : `float`
    is_accurate : `bool`
        Whether the residual is small enough.
    """

    num_updates: int
    value: float
    metric: float
    is_accurate: bool


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
    Draws the metric as a colour for each length and each number of updates.

    # Parameters

    figure : `matplotlib.figure.Figure`
    cells : `Sequence[Cell]`
        One cell for each length and each number of updates.
    best : `Cell`
        The cell that is marked with a star.
    key : `str`
    metric : `str`
        The name of the metric.
    is_higher_better : `bool`
    hatched : `str`
        The label for averages with too large a residual.

    # Returns

    axes : `matplotlib.axes.Axes`
    """
    nums_updates = sorted({cell.num_updates for cell in cells})
    values = list(dict.fromkeys(cell.value for cell in cells))
    metrics, accurate = numpy.full((2, len(values), len(nums_updates)), math.nan)
    for cell in cells:
        place = values.index(cell.value), nums_updates.index(cell.num_updates)
        metrics[place], accurate[place] = cell.metric, cell.is_accurate
    axes = figure.add_subplot()
    bar = _fill(axes, metrics, accurate == 1.0, best.metric, is_higher_better)
    bar.set_label(f"{metric} ({'higher' if is_higher_better else 'lower'} is better)")
    middle = nums_updates.index(best.num_updates) + 0.5, values.index(best.value) + 0.5
    star = {"marker": "*", "markersize": 18, "color": "white", "markeredgecolor": "black"}
    words = f"best: {key} {best.value:.4g} after {best.num_updates:,} updates, {best.metric:.4f}"
    handles: List[Any] = axes.plot(*middle, linestyle="", label=words, **star)
    hatches = [_hatch(axes, column, row) for row, column in numpy.argwhere(accurate == 0.0)]
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
    axes: Any, metrics: ndarray, is_accurate: ndarray, best: float, is_higher_better: bool
) -> Any:
    """Colours the cells, and returns the colour bar."""
    # The colours cover only the better half, because the first updates of a training are far worse.
    middle = numpy.median(numpy.unique(metrics[is_accurate & numpy.isfinite(metrics)]))
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
    # Importing matplotlib is slow, and `allennlp` imports this module at each start.
    from matplotlib.patches import Rectangle

    style: Any = {"fill": False, "hatch": "////", "edgecolor": "#999999", "linewidth": 0}
    return axes.add_patch(Rectangle((column, row), 1.0, 1.0, **style))


def _set_labels(axis: Any, labels: Sequence[str], **how: Any) -> None:
    step = math.ceil(len(labels) / _MAX_LABELS)
    axis.set_ticks([n + 0.5 for n in range(0, len(labels), step)], labels=labels[::step], **how)
