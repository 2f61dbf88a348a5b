"""
The picture of averages before anybody trains with them: what is in each, and the learning rate
schedule that gives the same weights.
"""

import io
import itertools
from typing import Any, NamedTuple, Sequence

import numpy
from numpy import ndarray

from allennlp_ema.weighting.equivalent_schedule import learning_rate_factors

# Told apart without colours too.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#333333", "#e69f00", "#56b4e9")
_LINES = ("-", "--", "-.", ":")

# How far down, below the greatest, shares of updates are shown.
_SHOWN = 1e-4

# How many points a line has at the most, from each end and evenly.
_POINTS = 1000


class DrawnAverage(NamedTuple):
    """
    # Parameters

    name : `str`
        For the legend.
    shares : `ndarray`
        Its profile, `(num_updates + 1,)`.
    update_every : `int`
        How many updates each of its samples stands for.
    """

    name: str
    shares: ndarray
    update_every: int


def picture(averages: Sequence[DrawnAverage]) -> bytes:
    """
    # Parameters

    averages : `Sequence[DrawnAverage]`
        After the same number of updates.

    # Returns

    png : `bytes`
        Against the updates, above the share of each in the averages, below the equivalent learning
        rate. The initial value's share is what this rate lacks at the first update.
    """
    # It takes its time to be imported, for which only whoever draws should have to wait.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    figure = Figure(figsize=(7.0, 5.0 + 0.2 * len(averages)), constrained_layout=True)
    FigureCanvasAgg(figure)
    share_axes, rate_axes = figure.subplots(2, sharex=True)
    for average, color, line in zip(averages, itertools.cycle(_COLORS), itertools.cycle(_LINES)):
        _draw(share_axes, rate_axes, average, color=color, linestyle=line, linewidth=1.6)
    share_axes.set_yscale("log")
    greatest = max(average.shares[1:].max() / average.update_every for average in averages)
    if greatest > 0.0:
        share_axes.set_ylim(greatest * _SHOWN, greatest * 2.0)
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
    updates = sampled[_few(len(sampled))]
    values = average.shares[updates] / average.update_every
    # Down to the axis where it begins, and at the last update.
    ends = numpy.concatenate([updates[:1], updates, updates[-1:]])
    values = numpy.pad(values, min(1, len(values)))
    share_axes.plot(ends, values, label=average.name, **style)
    factors = learning_rate_factors(average.shares)
    updates = _few(len(factors))
    rate_axes.plot(updates + 1, factors[updates], **style)


def _few(length: int) -> ndarray:
    """Indices up to `length`: evenly, and close together at both ends, where lines bend."""
    if length <= _POINTS:
        return numpy.arange(length)
    evenly = numpy.linspace(0, length - 1, _POINTS)
    from_end = numpy.geomspace(1, length, _POINTS) - 1
    return numpy.unique(
        numpy.concatenate([evenly, from_end, length - 1 - from_end]).round().astype(int)
    )
