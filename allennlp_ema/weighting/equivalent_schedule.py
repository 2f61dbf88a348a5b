"""
The learning rate schedule that would give the same weights as an average, and summary numbers.

Let training add `u_t = -eta g_t` at update `t`, so that the parameters are `x_t = x_0 + u_1 + ... +
u_t`. The profile `p_0, ..., p_T` has the sum 1. The average is

    sum_t p_t x_t = x_0 + sum_t p_t (u_1 + ... + u_t) = x_0 + sum_s (p_s + ... + p_T) u_s,

because all parameters from `x_s` on contain update `s`. So training with the learning rates
`eta c_s`, `c_s = p_s + ... + p_T`, would have ended at the average, if the gradients had been the
same. This is exact for every optimizer, because `u_t` is the whole change at update `t`. No `p_t`
is below 0, so these rates never rise: averaging has the effect of learning rate annealing.
"""

from typing import NamedTuple, Optional

import numpy
from numpy import ndarray

from allennlp_ema.weighting.profiles import AverageState

#: The computations go through all updates. Beyond this number they take minutes and gigabytes.
MAX_UPDATES = 10_000_000

# The learning rate counts as falling once it is below this share of the first rate.
_FALL_THRESHOLD = 0.99


class AverageSummary(NamedTuple):
    """
    Numbers that summarize an average.

    # Parameters

    effective_window : `Optional[float]`
        In updates, see `Weighting.effective_window`. `None` before the first sample.
    initial_share : `float`
        The share of the initial value.
    last_tenth_share : `float`
        The share of the parameters after the last tenth of the updates.
    mean_age : `float`
        The mean age of the averaged parameters, in updates, weighted by their shares.
    updates_of_fall : `int`
        The number of last updates over which the equivalent learning rate falls, see the function
        `updates_of_fall`.
    """

    effective_window: Optional[float]
    initial_share: float
    last_tenth_share: float
    mean_age: float
    updates_of_fall: int


def learning_rate_factors(shares: ndarray) -> ndarray:
    """
    # Parameters

    shares : `ndarray`
        The profile of an average, `(num_updates + 1,)`.

    # Returns

    factors : `ndarray`
        The factor for the learning rate of each update, `(num_updates,)`. Training with these
        factors would end at the average.
    """
    return numpy.cumsum(shares[:0:-1])[::-1]


def updates_of_fall(factors: ndarray) -> int:
    """
    # Returns

    num_updates : `int`
        The number of updates whose learning rate is below 0.99 of the first rate. The rate never
        rises, so these are the last updates.
    """
    return int(numpy.count_nonzero(factors < _FALL_THRESHOLD * factors[:1]))


def fall_in_words(num_updates: int) -> str:
    """The end of a sentence that begins with "as if the learning rate had fallen"."""
    return f"over the last {num_updates:,} updates" if num_updates else "not at all"


def summary(state: AverageState, shares: ndarray) -> AverageSummary:
    """
    # Parameters

    state : `AverageState`
    shares : `ndarray`
        The profile of `state`.
    """
    weighting, num_updates = state
    has_sample = len(weighting.sampled_updates(num_updates)) > 0
    return AverageSummary(
        effective_window=weighting.update_every / float(shares @ shares) if has_sample else None,
        initial_share=float(shares[0]),
        last_tenth_share=float(shares[-max(1, num_updates // 10) :].sum()),
        mean_age=float(shares @ numpy.arange(num_updates, -1, -1)),
        updates_of_fall=updates_of_fall(learning_rate_factors(shares)),
    )
