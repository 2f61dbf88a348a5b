"""
The learning rate schedule that gives the same weights as an average, and what there is in one.

Let training add `u_t = -eta g_t` at update `t`, so that the parameters are `x_t = x_0 + u_1 + ... +
u_t`. With the profile `p_0, ..., p_T`, whose sum is 1, the average is

    sum_t p_t x_t = x_0 + sum_t p_t (u_1 + ... + u_t) = x_0 + sum_s (p_s + ... + p_T) u_s,

for update `s` is in all parameters from `x_s` on. So the average is where training itself would
have come to with the learning rates `eta c_s`, `c_s = p_s + ... + p_T`, had its gradients been the
same. This is exact, whatever the optimizer: `u_t` is all that it did at update `t`. No `p_t` is
below 0, so these rates never rise: to average is to anneal, after the fact.
"""

from typing import NamedTuple, Optional

import numpy
from numpy import ndarray

from allennlp_ema.weighting.profiles import AverageState

#: Beyond so many it takes minutes, and gigabytes of memory, to go through all updates.
MOST_UPDATES = 10_000_000

# A rate that is below this share of the first one has begun to fall.
_FALLEN = 0.99


class AverageSummary(NamedTuple):
    """
    An average in a few numbers.

    # Parameters

    effective_window : `Optional[float]`
        In updates, as `Weighting.effective_window` has it. `None` before the first sample.
    initial_share : `float`
        The share of the initial value.
    last_tenth_share : `float`
        The share of the parameters after the last tenth of the updates.
    mean_age : `float`
        How many updates ago what is in it was there, on average.
    updates_of_fall : `int`
        Over how many updates, the last ones, the equivalent learning rate falls, see
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
        By which the learning rate of each update is multiplied in the training that ends with the
        average, `(num_updates,)`.
    """
    return numpy.cumsum(shares[:0:-1])[::-1]


def updates_of_fall(factors: ndarray) -> int:
    """
    # Returns

    num_updates : `int`
        The number of updates whose rate is below 0.99 of the first one's: as if the learning rate
        had been constant, and had fallen over these.
    """
    return int(numpy.count_nonzero(factors < _FALLEN * factors[:1]))


def fall_in_words(num_updates: int) -> str:
    """`updates_of_fall`, after "as if the learning rate had fallen"."""
    return f"over the last {num_updates:,} updates" if num_updates else "not at all"


def summary(state: AverageState, shares: ndarray) -> AverageSummary:
    """
    # Parameters

    state : `AverageState`
    shares : `ndarray`
        Its profile.
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
