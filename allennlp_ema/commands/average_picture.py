"""
The picture of averages before training: the share of each update, and the learning rate schedule
that gives the same weights.
"""

import io
import itertools
from typing import Any, NamedTuple, Sequence

import numpy
from numpy import ndarray

from allennlp_ema.weighting.equivalent_schedule import learning_rate_factors

# Line styles differ too, for readers who cannot tell the colours apart.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#333333", "#e69f00", "#56b4e9")
_LINE_STYLES = ("-", "--", "-.", ":")

# The smallest share on the axis, relative to the largest share.
_MIN_SHARE = 1e-4

# Lines with more points than this are thinned.
_MAX_POINTS = 1000


class DrawnAverage(NamedTuple):
    """
    # Parameters

    name : `str`
        The name in the legend.
    shares : `ndarray`
        The profile of the average, `(num_updates + 1,)`.
    update_every : `int`
        The number of updates between two samples.
    """

    name: str
    shares: ndarray
    update_every: int


def picture(averages: Sequence[DrawnAverage]) -> bytes:
    """
    # Parameters

    averages : `Sequence[DrawnAverage]`
        All after the same number of updates.

    # Returns

    png : `bytes`
        Two plots over the updates: at the top the share of each update in the averages, at the
        bottom the equivalent learning rate. At the first update, the difference of this rate from 1
        is the share of the initial value.
    """
    # Importing matplotlib is slow, so only drawing imports it.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    figure = Figure(figsize=(7.0, 5.0 + 0.2 * len(averages)), constrained_layout=True)
    FigureCanvasAgg(figure)
    share_axes, rate_axes = figure.subplots(2, sharex=True)
    for average, color, line in zip(
        averages, itertools.cycle(_COLORS), itertools.cycle(_LINE_STYLES)
    ):
        _draw(share_axes, rate_axes, average, color=color, linestyle=line, linewidth=1.6)
    share_axes.set_yscale("log")
    greatest = max(average.shares[1:].max() / average.update_every for average in averages)
    if greatest > 0.0:
        share_axes.set_ylim(greatest * _MIN_SHARE, greatest * 2.0)
    share_axes.set_ylabel("share of one update")
    rate_axes.set_ylim(-0.03, 1.05)
    rate_axes.set_ylabel("equivalent learning rate\n(share of the one trained with)")
    rate_axes.set_xlabel("update")
    rate_axes.set_xlim(0, len(averages[0].shares) - 1)
    rate_axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    rate_axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (share_axes, rate_axes):
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.spines["top"].set_visible(False)
        axes.spines["right"].set_visible(False)
    figure.align_ylabels()
    figure.legend(loc="outside lower center", frameon=False)
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=150)
    return png.getvalue()


def _draw(share_axes: Any, rate_axes: Any, average: DrawnAverage, **style: Any) -> None:
    sampled = numpy.flatnonzero(average.shares[1:] > 0.0) + 1
    updates = sampled[_thinned_indices(len(sampled))]
    values = average.shares[updates] / average.update_every
    # Vertical lines mark the first and the last sampled update.
    ends = numpy.concatenate([updates[:1], updates, updates[-1:]])
    values = numpy.pad(values, min(1, len(values)))
    # Text between two dollar signs would be a formula.
    label = average.name.replace("$", r"\$")
    share_axes.plot(ends, values, label=label, **style)
    factors = learning_rate_factors(average.shares)
    updates = _thinned_indices(len(factors))
    rate_axes.plot(updates + 1, factors[updates], **style)


def _thinned_indices(length: int) -> ndarray:
    """Indices below `length`: evenly spaced, and dense at both ends, where the lines bend."""
    if length <= _MAX_POINTS:
        return numpy.arange(length)
    evenly = numpy.linspace(0, length - 1, _MAX_POINTS)
    from_end = numpy.geomspace(1, length, _MAX_POINTS) - 1
    return numpy.unique(
        numpy.concatenate([evenly, from_end, length - 1 - from_end]).round().astype(int)
    )
