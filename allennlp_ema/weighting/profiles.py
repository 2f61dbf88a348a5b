"""
Profiles of averages, and combinations of them that approximate another average.

Every average here is a known linear combination of the initial parameters and of the parameters
after each update. The coefficients are its profile, `p[0]` to `p[num_updates]`, whose sum is 1.
Karras et al. (2023), "Analyzing and Improving the Training Dynamics of Diffusion Models", appendix
C, combine saved averages so that the profile of the combination comes close to a wanted profile.
They integrate power functions. This module computes the exact profile of any average from its
updates.

A profile follows from the weight `w_t` of each update: `p *= 1 - w_t`, then `p[t] = w_t`. So the
profile of an earlier state, times a factor, is the beginning of the profile of a later state. One
pass over the weights of two averages therefore gives the inner products of all their states, and
the profiles themselves are not stored.
"""

import math
from typing import Dict, Iterable, Iterator, List, NamedTuple, Sequence, Tuple

import numpy
from numpy import ndarray

from allennlp_ema.common.terminal import progress
from allennlp_ema.weighting.weighting import AveragingCounts, Weighting

# Keeps the coefficients of nearly equal states small, far below any residual that matters.
_RIDGE = 1e-12

# The relative difference that rounding may cause between inner products of equal profiles.
_ROUNDING = 1e-12


class AverageState(NamedTuple):
    """
    An average after a number of updates.

    # Parameters

    weighting : `Weighting`
    num_updates : `int`
        0 or more.
    """

    weighting: Weighting
    num_updates: int


class Combination(NamedTuple):
    """
    The combination `sum x_i p_i` of the states' profiles that is closest to a wanted profile `q`.

    # Parameters

    coefficients : `ndarray`
        The `x_i`, one for each state, `(num_states,)`. Their sum is 1.
    residual : `float`
        `|sum x_i p_i - q| / |q|`, the relative error of the profile, in the Euclidean norm.
    effective_window : `float`
        Of the wanted average, in updates, see `Weighting.effective_window`.
    """

    coefficients: ndarray
    residual: float
    effective_window: float

    @property
    def noise_amplification(self) -> float:
        """`sum |x_i|`: the largest factor by which errors of the states can grow."""
        return float(numpy.abs(self.coefficients).sum())


class Synthesis:
    """
    Combines states of averages into other averages of the same trajectory.

    # Parameters

    states : `Sequence[AverageState]`
        The states to combine. States of one average share one weighting.
    """

    def __init__(self, states: Sequence[AverageState]) -> None:
        self._states = _States(states)
        self._gram = self._states.inner_products(self._states)

    def solve(self, wanted: AverageState) -> Combination:
        """
        Minimizes the residual over the combinations whose coefficients have the sum 1.

        Without this condition, the sum of the coefficients would scale parameters that do not
        change: by 0.997 for `sigma_rel` 0.20 from 16 states each of 0.05 and 0.10. The condition
        raises the residual only from 0.0231 to 0.0232 there.
        """
        wanted_states = _States([wanted])
        square = float(wanted_states.inner_products(wanted_states)[0, 0])
        products = self._states.inner_products(wanted_states)[:, 0]
        coefficients = _minimize(self._gram, products, square)
        error = coefficients @ self._gram @ coefficients - 2.0 * coefficients @ products + square
        return Combination(
            coefficients,
            residual=float(numpy.sqrt(max(error, 0.0) / square)),
            effective_window=wanted.weighting.update_every / square,
        )


def _minimize(gram: ndarray, products: ndarray, square: float) -> ndarray:
    """The `x` of sum 1 that minimizes `x gram x - 2 products x + square`."""
    norms = numpy.sqrt(numpy.diag(gram) / square)
    cosines = products / (norms * square)
    nearest = int(cosines.argmax())
    if norms[nearest] ** 2 - 2.0 * norms[nearest] * cosines[nearest] + 1.0 < _ROUNDING:
        return numpy.eye(len(norms))[nearest]
    # The profiles are scaled to length 1, so that the ridge weighs equally on all of them.
    regularized = gram / (numpy.outer(norms, norms) * square) + _RIDGE * numpy.eye(len(norms))
    sums = 1.0 / norms
    free, direction = numpy.linalg.solve(regularized, numpy.stack([cosines, sums], axis=1)).T
    return (free + (1.0 - sums @ free) / (sums @ direction) * direction) / norms


def profile(state: AverageState) -> ndarray:
    """
    # Returns

    profile : `ndarray`
        The shares of the initial parameters and of the parameters after each update in the
        average, `(num_updates + 1,)`.
    """
    (shares,) = profiles(state.weighting, [state.num_updates])
    return shares


def profiles(weighting: Weighting, nums_updates: Sequence[int]) -> Iterator[ndarray]:
    """
    The profile of one average after each of `nums_updates`. The weights are computed only once.
    """
    all_weights = weighting.recursion_weights(max(nums_updates))
    for num_updates in nums_updates:
        values = numpy.zeros(num_updates + 1)
        for coefficient, last in weighting.terms(num_updates):
            weights = all_weights[:last]
            retained = _retained_at_end(1.0 - weights)
            values[: last + 1] += coefficient * retained * numpy.append(1.0, weights)
        yield values


def expected_counts(weighting: Weighting, num_updates: Sequence[int]) -> List[AveragingCounts]:
    """
    The counts that an average has after each of `num_updates` (ascending), if its decay was not
    changed and no update was left out. `sampled_share` keeps its default, because the other counts
    determine it.
    """
    last = num_updates[-1]
    weights = weighting.update_weights(last)
    sampled = weighting.sampled_updates(last)
    nums_averaged = numpy.searchsorted(sampled, num_updates, side="right").tolist()
    squares = _products_at(weights, weights, num_updates).tolist()
    return [
        AveragingCounts(
            num_updates=number,
            num_averaged=num_averaged,
            sum_of_squares=square,
            last_weight=float(weights[sampled[num_averaged - 1] - 1]) if num_averaged else 0.0,
        )
        for number, num_averaged, square in zip(num_updates, nums_averaged, squares)
    ]


def are_expected(counts: AveragingCounts, expected: AveragingCounts) -> bool:
    """Whether `counts` agree with what `expected_counts` gave, but for rounding."""
    return counts.num_averaged == expected.num_averaged and all(
        math.isclose(found, wanted, rel_tol=1e-6, abs_tol=1e-12)
        for found, wanted in (
            (counts.last_weight, expected.last_weight),
            (counts.sum_of_squares, expected.sum_of_squares),
        )
    )


class _States:
    """
    States, and the inner products of their profiles.

    recursions : for each recursion its weights, and the numbers of updates of its states
    mixing : each row expresses a state as a combination of the states of all recursions
    """

    def __init__(self, states: Sequence[AverageState]) -> None:
        terms = [state.weighting.terms(state.num_updates) for state in states]
        weightings = {id(state.weighting): state.weighting for state in states}
        self._recursions: List[Tuple[ndarray, ndarray]] = []
        columns: Dict[Tuple[int, int], int] = {}
        for key, weighting in progress(weightings.items(), desc="weights of averages"):
            times = sorted(
                {time for s, ts in zip(states, terms) if s.weighting is weighting for _, time in ts}
            )
            for time in times:
                columns[key, time] = len(columns)
            weights = weighting.recursion_weights(times[-1])
            self._recursions.append((weights, numpy.array(times)))
        self._mixing = numpy.zeros((len(states), len(columns)))
        for row, (state, state_terms) in enumerate(zip(states, terms)):
            for coefficient, time in state_terms:
                self._mixing[row, columns[id(state.weighting), time]] = coefficient

    def inner_products(self, others: "_States") -> ndarray:
        """The inner products of all profiles with all of `others`, `(num_states, num_others)`."""
        blocks = [
            [_inner_products(weights, times, *other) for other in others._recursions]
            for weights, times in progress(self._recursions, desc="inner products of profiles")
        ]
        return self._mixing @ numpy.block(blocks) @ others._mixing.T


def _inner_products(
    weights: ndarray, times: ndarray, other_weights: ndarray, other_times: ndarray
) -> ndarray:
    """
    The inner products of one recursion's states at `times` and another recursion's states at
    `other_times`, `(num_times, num_other_times)`. After the earlier of two times only one of the
    profiles has values. Up to the earlier time, the later profile is the profile of that recursion
    at the earlier time, scaled by the factors `1 - weight` of the updates in between.
    """
    all_times = numpy.union1d(times, other_times)
    weights = numpy.append(weights, numpy.zeros(all_times[-1] - len(weights)))
    other_weights = numpy.append(other_weights, numpy.zeros(all_times[-1] - len(other_weights)))
    products = _products_at(weights, other_weights, all_times)[:, None]
    other_is_later = numpy.triu(products * _retained_between(other_weights, all_times))
    other_is_earlier = numpy.triu(products * _retained_between(weights, all_times), 1).T
    rows, columns = (numpy.searchsorted(all_times, each) for each in (times, other_times))
    return (other_is_later + other_is_earlier)[numpy.ix_(rows, columns)]


def _products_at(weights: ndarray, other_weights: ndarray, times: Iterable[int]) -> ndarray:
    """The inner product of two profiles after the same number of updates, at each of `times`."""
    retained, added = (1.0 - weights) * (1.0 - other_weights), weights * other_weights
    products = []
    product, before = 1.0, 0
    for time in times:
        retained_later = _retained_at_end(retained[before:time])
        product = retained_later[0] * product + retained_later[1:] @ added[before:time]
        products.append(product)
        before = time
    return numpy.array(products)


def _retained_between(weights: ndarray, times: ndarray) -> ndarray:
    """
    For two of `times`, `[earlier, later]`, the factor by which the updates in between scale what
    was in the average: above the diagonal of the matrix, whose other entries are 1.
    """
    retained = numpy.ones((len(times), len(times)))
    steps = [numpy.prod(1.0 - weights[a:b]) for a, b in zip(times[:-1], times[1:])]
    for row in range(len(times)):
        retained[row, row + 1 :] = numpy.cumprod(steps[row:])
    return retained


def _retained_at_end(retained: ndarray) -> ndarray:
    """
    The share that remains at the end of the initial value and of what each update added,
    `(num_updates + 1,)`. Each update scales what was there before by `retained`,
    `(num_updates,)`.
    """
    return numpy.cumprod(numpy.append(retained, 1.0)[::-1])[::-1]
