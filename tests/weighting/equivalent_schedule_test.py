import math

import numpy
import pytest
import torch

from allennlp_ema import MovingAverage
from allennlp_ema.averages.specifications import build_average
from allennlp_ema.weighting.equivalent_schedule import (
    fall_in_words,
    learning_rate_factors,
    summary,
    updates_of_fall,
)
from allennlp_ema.weighting.profiles import AverageState, profile, profiles
from allennlp_ema.weighting.relative_width import sigma_rel_to_gamma
from tests.support.trajectories import averages_along, random_walk
from tests.weighting.profiles_test import SAMPLING, SPECIFICATIONS, make

NAMES = ("exponential", "lawa", "polynomial", "power_function", "swa", "uniform", "window")
EVERY_TYPE = [*SPECIFICATIONS, {"type": "swa"}, {"type": "lawa", "window_size": 4}]


def numbers(num_updates, **specification):
    state = AverageState(build_average(specification).weighting, num_updates)
    return summary(state, profile(state))


def test_no_registered_average_of_ours_is_left_out_below():
    assert {specification["type"] for specification in EVERY_TYPE} == set(NAMES)
    ours = {
        name
        for name in MovingAverage.list_available()
        if MovingAverage.by_name(name).__module__.startswith("allennlp_ema.")
    }
    assert ours == {*NAMES, "bank"}


@pytest.mark.parametrize("sampling", SAMPLING, ids=str)
@pytest.mark.parametrize("specification", EVERY_TYPE, ids=str)
def test_an_average_is_where_training_with_the_equivalent_rates_ends(specification, sampling):
    trajectory = random_walk(60)
    averages = averages_along(trajectory, lambda ps: make(ps, **specification, **sampling))
    steps = (trajectory[1:] - trajectory[:-1]).numpy()
    weighting = build_average({**specification, **sampling}).weighting
    for after in (1, 6, 7, 33, 60):
        factors = learning_rate_factors(profile(AverageState(weighting, after)))
        trained = trajectory[0].numpy() + factors @ steps[:after]
        numpy.testing.assert_allclose(trained, averages[after].numpy(), rtol=0, atol=1e-12)
        assert (numpy.diff(factors) <= 1e-14).all() and factors[-1] >= 0.0


def test_profiles_are_those_of_each_number_alone():
    weighting = build_average({"type": "window", "window_size": 3, "start_step": 4}).weighting
    for number, found in zip((2, 9, 5), profiles(weighting, (2, 9, 5))):
        assert found.tolist() == profile(AverageState(weighting, number)).tolist()


def test_a_mean_of_four_parameters():
    # Those after updates 7 to 10, a quarter each, of which the last tenth is the last.
    found = numbers(10, type="uniform", start_step=7)
    assert found.effective_window == pytest.approx(4.0)
    assert (found.initial_share, found.last_tenth_share) == (0.0, pytest.approx(0.25))
    assert found.mean_age == pytest.approx((3 + 2 + 1 + 0) / 4)
    # At full rate up to update 7, then 3/4, 2/4 and 1/4 of it.
    assert found.updates_of_fall == 3
    shares = profile(
        AverageState(build_average({"type": "window", "window_size": 4}).weighting, 10)
    )
    expected = [1.0] * 7 + [0.75, 0.5, 0.25]
    numpy.testing.assert_allclose(learning_rate_factors(shares), expected, atol=1e-15)


def test_a_constant_decay():
    decay, num_updates = 0.9, 50
    found = numbers(50, type="exponential", decay={"type": "constant", "decay": decay})
    assert found.initial_share == pytest.approx(decay**num_updates, rel=1e-12)
    assert found.last_tenth_share == pytest.approx(1.0 - decay**5, rel=1e-12)
    # The shares are 0.1 * 0.9^age, and 0.9^50 at the age of 50: the sum of 0.9^1 to 0.9^50.
    assert found.mean_age == pytest.approx(decay * (1.0 - decay**num_updates) / (1.0 - decay))
    squares = 0.1**2 * (1.0 - decay**100) / (1.0 - decay**2) + decay**100
    assert found.effective_window == pytest.approx(1.0 / squares, rel=1e-12)
    # `1 - 0.9^k` at the update with k - 1 after it, of `1 - 0.9^50` at the first.
    rates = [1.0 - decay**k for k in range(50, 0, -1)]
    assert found.updates_of_fall == sum(rate < 0.99 * rates[0] for rate in rates) == 39


def test_a_power_function_falls_from_where_its_hundredth_lies_on():
    # The rate at update s is 1 - ((s - 1) / T)^(gamma + 1).
    gamma = sigma_rel_to_gamma(0.1)
    first = 320 * 0.01 ** (1.0 / (gamma + 1.0))
    found = numbers(320, type="power_function", sigma_rel=0.1)
    assert found.updates_of_fall == 320 - 1 - math.floor(first) == 140


def test_before_there_is_a_sample():
    found = numbers(5, type="uniform", start_step=7)
    assert found == (None, 0.0, 1.0, 0.0, 0)
    # Of what keeps its initial value, nothing else is there.
    found = numbers(5, type="exponential", update_every=7)
    assert found == (None, 1.0, 0.0, 5.0, 0)


def test_nothing_falls_where_the_newest_parameters_are_all():
    falls = updates_of_fall(torch.ones(4).numpy())
    assert (falls, fall_in_words(falls)) == (0, "not at all")
    assert fall_in_words(1204) == "over the last 1,204 updates"
