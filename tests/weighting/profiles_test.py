import tracemalloc
from typing import Any, Dict, List

import numpy
import pytest
import torch
from allennlp.common import Params
from allennlp.common.checks import ConfigurationError
from hypothesis import given
from hypothesis import strategies as st

from allennlp_ema import MovingAverage
from allennlp_ema.weighting.profiles import (
    AverageState,
    Synthesis,
    expected_counts,
    profile,
)
from allennlp_ema.weighting.relative_width import sigma_rel_to_gamma
from allennlp_ema.weighting.weighting import Weighting
from tests.support.trajectories import averages_along, named_parameter

Specification = Dict[str, Any]

SPECIFICATIONS: List[Specification] = [
    {"type": "exponential", "decay": 0.9},
    {"type": "exponential", "decay": 0.98, "numerator": 2.0, "denominator": 4.0},
    {"type": "exponential", "decay": {"type": "half_life", "half_life": 5.0}},
    {"type": "exponential", "decay": {"type": "half_life", "half_life": 5.0}, "zero_debias": True},
    {"type": "exponential", "decay": {"type": "inverse_power", "max_decay": 0.95}},
    {"type": "uniform"},
    {"type": "power_function", "sigma_rel": 0.1},
    {"type": "polynomial", "eta": 4.0},
    {"type": "window", "window_size": 4},
    {"type": "window", "window_size": 1},
]
SAMPLING: List[Specification] = [
    {},
    {"start_step": 1},
    {"start_step": 7},
    {"update_every": 3},
    {"start_step": 5, "update_every": 4},
    {"start_step": 90},
]


def make(parameters: Any = None, **specification: Any) -> MovingAverage:
    return MovingAverage.from_params(
        Params(dict(specification)), parameters=parameters or named_parameter(torch.zeros(1))
    )


def power_function(sigma_rel: float) -> MovingAverage:
    return make(type="power_function", sigma_rel=sigma_rel)


def sixteen_each(num_updates: int, sigma_rels=(0.05, 0.10)) -> List[AverageState]:
    """16 evenly spaced states of each power function average."""
    return [
        AverageState(average.weighting, round(number * num_updates / 16))
        for average in map(power_function, sigma_rels)
        for number in range(1, 17)
    ]


def dense(states: List[AverageState], num_updates: int) -> numpy.ndarray:
    """All profiles, `(num_states, num_updates + 1)`."""
    return numpy.stack([numpy.pad(p, (0, num_updates + 1 - len(p))) for p in map(profile, states)])


@pytest.mark.parametrize("sampling", SAMPLING, ids=str)
@pytest.mark.parametrize("specification", SPECIFICATIONS, ids=str)
def test_a_profile_is_what_the_average_itself_makes_of_unit_vectors(specification, sampling):
    num_updates = 30
    unit_vectors = torch.eye(num_updates + 1, dtype=torch.float64)
    averages = averages_along(unit_vectors, lambda ps: make(ps, **specification, **sampling))
    average = make(**specification, **sampling)
    for after in (0, 1, 2, 6, 7, 8, 29, 30):
        expected = averages[after].numpy()
        found = profile(AverageState(average.weighting, after))
        numpy.testing.assert_allclose(found, expected[: after + 1], rtol=0, atol=1e-14)
        assert not expected[after + 1 :].any()


@pytest.mark.parametrize("sampling", SAMPLING, ids=str)
@pytest.mark.parametrize("specification", SPECIFICATIONS, ids=str)
def test_expected_counts_are_those_that_the_average_counts(specification, sampling):
    average = make(**specification, **sampling)
    after = [1, 2, 6, 7, 8, 29, 30]
    counted = []
    for number in range(1, 31):
        average.apply(number)
        if number in after:
            counted.append(average.counts)
    for expected, counts in zip(expected_counts(average.weighting, after), counted):
        assert expected.num_updates == counts.num_updates
        assert expected.num_averaged == counts.num_averaged
        assert expected.last_weight == counts.last_weight
        assert expected.sum_of_squares == pytest.approx(counts.sum_of_squares, rel=1e-12)


states_of_any_average = st.lists(
    st.tuples(st.sampled_from(SPECIFICATIONS), st.sampled_from(SAMPLING), st.integers(0, 60)),
    min_size=1,
    max_size=6,
)


@given(states_of_any_average, states_of_any_average.map(lambda states: states[0]))
def test_the_solution_is_that_of_the_profiles_written_down(chosen, wanted):
    weightings: Dict[str, Weighting] = {}
    states = [
        AverageState(weightings.setdefault(str((s, w)), make(**s, **w).weighting), num_updates)
        for s, w, num_updates in chosen
    ]
    wanted_state = AverageState(make(**wanted[0], **wanted[1]).weighting, wanted[2])
    found = Synthesis(states).solve(wanted_state)
    num_updates = max(state.num_updates for state in [*states, wanted_state])
    profiles = dense(states, num_updates)
    target = dense([wanted_state], num_updates)[0]

    def residual(coefficients: numpy.ndarray) -> float:
        error = coefficients @ profiles - target
        return float(numpy.linalg.norm(error) / numpy.linalg.norm(target))

    assert found.coefficients.sum() == pytest.approx(1.0, abs=1e-9)
    assert found.residual == pytest.approx(residual(found.coefficients), abs=1e-6)
    assert found.effective_window == pytest.approx(
        wanted_state.weighting.update_every / (target @ target)
    )
    # Eliminating the first coefficient by the condition on their sum leaves a plain least squares.
    others, *_ = numpy.linalg.lstsq(
        (profiles[1:] - profiles[0]).T, target - profiles[0], rcond=1e-9
    )
    best = residual(numpy.append(1.0 - others.sum(), others))
    assert found.residual == pytest.approx(best, abs=1e-5)


@pytest.mark.parametrize(
    "wanted, residual, noise_amplification",
    [
        ({"type": "power_function", "sigma_rel": 0.07}, 0.0038, 1.4),
        ({"type": "power_function", "sigma_rel": 0.15}, 0.0090, 1.7),
        ({"type": "power_function", "sigma_rel": 0.20}, 0.0232, 2.0),
        (
            {"type": "exponential", "decay": {"type": "half_life", "half_life": 2000 / 30}},
            0.0085,
            2.4,
        ),
        ({"type": "uniform", "start_step": 1501}, 0.0226, 3.5),
        ({"type": "window", "window_size": 500}, 0.0226, 3.5),
        ({"type": "exponential", "decay": {"type": "half_life", "half_life": 20}}, 0.2343, 25.4),
    ],
    ids=str,
)
def test_what_16_states_each_of_two_power_functions_reach(wanted, residual, noise_amplification):
    solution = Synthesis(sixteen_each(2000)).solve(AverageState(make(**wanted).weighting, 2000))
    assert solution.residual == pytest.approx(residual, abs=5e-5)
    assert solution.noise_amplification == pytest.approx(noise_amplification, abs=0.05)


def test_a_tracked_average_is_given_back_alone():
    states = sixteen_each(2000)
    synthesis = Synthesis(states)
    for index in (0, 7, 15, 16, 31):
        sigma_rel = 0.05 if index < 16 else 0.10
        wanted = AverageState(power_function(sigma_rel).weighting, states[index].num_updates)
        solution = synthesis.solve(wanted)
        assert solution.coefficients.tolist() == numpy.eye(32)[index].tolist()
        assert solution.residual < 1e-6


def test_states_that_are_there_twice_share_their_coefficient():
    states = sixteen_each(2000)
    wanted = AverageState(power_function(0.07).weighting, 2000)
    once = Synthesis(states).solve(wanted)
    twice = Synthesis([*states, *sixteen_each(2000)]).solve(wanted)
    assert twice.residual == pytest.approx(once.residual, rel=1e-6)
    assert twice.noise_amplification == pytest.approx(once.noise_amplification, rel=1e-3)


def test_the_continuous_solution_is_approached_as_training_gets_longer():
    # Karras et al. (2023), appendix C.2: the profile (gamma + 1) / T^(gamma + 1) t^gamma up to T.
    def inner_product(sigma_rel, time, other_sigma_rel, other_time):
        gamma, other = sigma_rel_to_gamma(sigma_rel), sigma_rel_to_gamma(other_sigma_rel)
        earlier = min(time, other_time)
        return (
            (gamma + 1.0)
            * (other + 1.0)
            / (gamma + other + 1.0)
            * earlier ** (gamma + other + 1.0)
            / (time ** (gamma + 1.0) * other_time ** (other + 1.0))
        )

    tracked = [(sigma_rel, n / 16) for sigma_rel in (0.05, 0.10) for n in range(1, 17)]
    gram = numpy.array([[inner_product(*one, *other) for other in tracked] for one in tracked])
    wanted = (0.15, 1.0)
    products = numpy.array([inner_product(*one, *wanted) for one in tracked])
    by_sum = numpy.linalg.solve(gram, numpy.stack([products, numpy.ones(32)], axis=1))
    continuous = by_sum[:, 0] + (1.0 - by_sum[:, 0].sum()) / by_sum[:, 1].sum() * by_sum[:, 1]
    square = inner_product(*wanted, *wanted)
    error = continuous @ gram @ continuous - 2.0 * continuous @ products + square
    residual = numpy.sqrt(error / square)

    distances, residual_distances, product_distances = [], [], []
    for num_updates in (512, 4096, 32768):
        states = sixteen_each(num_updates)
        synthesis = Synthesis(states)
        solution = synthesis.solve(AverageState(power_function(0.15).weighting, num_updates))
        distances.append(abs(solution.coefficients - continuous).max())
        residual_distances.append(abs(solution.residual - residual))
        profiles = [profile(states[i]) for i in (7, 31)]
        ours = profiles[0] @ profiles[1][: len(profiles[0])]
        product_distances.append(abs(ours * num_updates / gram[7, 31] - 1.0))
    for series in (distances, residual_distances, product_distances):
        # Each update has the power function's integral over it, so the sums are off quadratically.
        assert series[0] / series[1] == pytest.approx(64.0, rel=0.05)
        assert series[1] / series[2] == pytest.approx(64.0, rel=0.05)
        assert series[-1] < 1e-7


def test_profiles_of_long_trainings_are_not_written_down():
    num_updates = 20_000
    averages = [power_function(sigma_rel) for sigma_rel in (0.05, 0.10)]
    states = [
        AverageState(a.weighting, n * num_updates // 100) for a in averages for n in range(1, 101)
    ]
    tracemalloc.start()
    solution = Synthesis(states).solve(AverageState(power_function(0.15).weighting, num_updates))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert solution.residual < 0.001
    # Of 200 profiles it would be 32 MB.
    assert peak < 6e6


def test_weights_that_underflow_in_a_long_training_are_exact_where_they_count():
    average = make(type="exponential", decay={"type": "half_life", "half_life": 10.0})
    states = [AverageState(average.weighting, 50_000), AverageState(average.weighting, 100_000)]
    wanted = AverageState(make(type="uniform", start_step=99_991).weighting, 100_000)
    solution = Synthesis(states).solve(wanted)
    # Nothing of the earlier state is left in the later one.
    earlier, later = dense(states, 100_000)
    assert earlier @ later == 0.0
    target = profile(wanted)
    direction = later - earlier
    share = direction @ (target - earlier) / (direction @ direction)
    assert solution.coefficients == pytest.approx([1.0 - share, share], rel=1e-9)
    error = numpy.linalg.norm((1.0 - share) * earlier + share * later - target)
    assert solution.residual == pytest.approx(error / numpy.linalg.norm(target), rel=1e-9)


def test_a_weight_outside_its_range_is_refused():
    class Wild(MovingAverage):
        def averaging_weight(self, num_averaged, num_updates):
            return 1.5 if num_averaged == 3 else 0.5

    with pytest.raises(ConfigurationError, match=r"Wild.*1\.5.*within \[0, 1\]"):
        Wild(named_parameter(torch.zeros(1))).weighting.update_weights(10)
