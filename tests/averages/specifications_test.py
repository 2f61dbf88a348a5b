import logging
from typing import Any

import pytest
import torch
from allennlp.common.checks import ConfigurationError
from allennlp.training.moving_average import MovingAverage as AllenNLPMovingAverage

from allennlp_ema import (
    DecaySchedule,
    ExponentialMovingAverage,
    HalfLifeDecay,
    MovingAverage,
)
from allennlp_ema.averages.specifications import (
    build_average,
    nearest_within,
    spaced_values,
    specification_of,
    with_value,
)
from allennlp_ema.weighting.profiles import expected_counts
from tests.support.every_average import EVERY_AVERAGE, built
from tests.support.trajectories import named_parameter

pytestmark = pytest.mark.everywhere

HALF_LIFE = {"type": "exponential", "decay": {"type": "half_life", "half_life": 5.0}}


@pytest.mark.parametrize("name", sorted(set(EVERY_AVERAGE) - {"bank", "bank_in_a_bank"}))
def test_an_average_is_built_again_from_its_specification(name):
    average = built(
        EVERY_AVERAGE[name],
        named_parameter(torch.zeros(3)),
        start_step=3,
        update_every=2,
        include=["weight"],
        shadow_dtype="float64",
    )
    again = build_average(specification_of(average))
    assert type(again) is type(average)
    assert (again.start_step, again.update_every) == (3, 2)
    assert [again.averaging_weight(k, 3 * k) for k in range(9)] == [
        average.averaging_weight(k, 3 * k) for k in range(9)
    ]


def test_a_specification_is_left_as_it_was():
    specification = {"type": "exponential", "decay": {"type": "half_life", "half_life": 5.0}}
    build_average(specification)
    assert specification == HALF_LIFE
    with_value(specification, "decay.half_life", 7.0)
    assert specification == HALF_LIFE
    average = ExponentialMovingAverage(named_parameter(torch.zeros(1)), decay=HalfLifeDecay(5.0))
    assert specification_of(average) == HALF_LIFE


def test_a_specification_of_ones_own_average_is_left_as_it_was(own_names):
    @MovingAverage.register("scheduled")
    class Scheduled(MovingAverage):
        def __init__(self, parameters: Any, schedule: DecaySchedule) -> None:
            self.schedule = schedule
            super().__init__(parameters)

        def averaging_weight(self, num_averaged, num_updates):
            return 1.0 - self.schedule(num_updates)

    specification = {"type": "scheduled", "schedule": {"type": "constant", "decay": 0.75}}
    average = build_average(specification)
    assert average.averaging_weight(0, 1) == 0.25
    assert specification["schedule"] == {"type": "constant", "decay": 0.75}
    assert specification_of(average) == specification


def test_building_says_nothing(caplog):
    with caplog.at_level(logging.INFO):
        build_average(HALF_LIFE)
    assert not caplog.records


def test_a_bank_and_an_average_of_unknown_weights_are_refused(own_names):
    with pytest.raises(ConfigurationError, match="a bank is several averages .fast, slow, last.:"):
        build_average(EVERY_AVERAGE["bank"])

    @AllenNLPMovingAverage.register("theirs")
    class Theirs(AllenNLPMovingAverage):
        pass

    with pytest.raises(ConfigurationError, match="Theirs is not an allennlp_ema.MovingAverage"):
        build_average({"type": "theirs"})


@pytest.mark.parametrize(
    "specification, key, value, expected",
    [
        ({"type": "polynomial"}, "eta", 3.0, {"type": "polynomial", "eta": 3.0}),
        (HALF_LIFE, "decay", 0.9, {"type": "exponential", "decay": 0.9}),
        (
            HALF_LIFE,
            "decay.half_life",
            7.0,
            {"type": "exponential", "decay": {"type": "half_life", "half_life": 7.0}},
        ),
        (
            {"type": "exponential"},
            "half_life",
            7.0,
            {"type": "exponential", "decay": {"type": "half_life", "half_life": 7.0}},
        ),
    ],
)
def test_a_value_under_a_key(specification, key, value, expected):
    assert with_value(specification, key, value) == expected


def test_a_key_within_a_number_is_refused():
    with pytest.raises(ConfigurationError, match='"decay.half_life": "decay" is 0.9'):
        with_value({"type": "exponential", "decay": 0.9}, "decay.half_life", 7.0)


@pytest.mark.parametrize(
    "key, start, end, points, expected",
    [
        ("sigma_rel", 0.02, 0.25, 4, [0.02, 0.04642, 0.1077, 0.25]),
        # By a factor 10 each in half-life.
        ("decay", 0.9, 0.9999, 4, [0.9, 0.99, 0.999, 0.9999]),
        ("decay.max_decay", 0.9, 0.999, 3, [0.9, 0.99, 0.999]),
        ("window_size", 1, 4, 7, [1, 2, 3, 4]),
        # The last 1000, 100 and 10 updates of 1000.
        ("start_step", 1, 991, 3, [1, 901, 991]),
        ("half_life", 8, 8, 1, [8]),
        # From the plain mean on.
        ("eta", 0, 99, 3, [0.0, 9.0, 99.0]),
        ("gamma", 0.1, 0.1, 1, [0.1]),
    ],
)
def test_values_are_spaced_by_a_factor_in_averaging_length(key, start, end, points, expected):
    values = spaced_values(key, start, end, points, num_updates=1000)
    assert values == expected
    assert [type(value) for value in values] == [type(value) for value in expected] or key == (
        "half_life"
    )


@pytest.mark.parametrize("key, start, end", [("decay", 0.9, 1.0), ("eta", -1.0, 4.0)])
def test_what_no_factor_leads_to_is_refused(key, start, end):
    with pytest.raises(ConfigurationError, match=f'"{key}": an average with'):
        spaced_values(key, start, end, 4, num_updates=1000)


def effective_window(average: MovingAverage) -> float:
    (counts,) = expected_counts(average.weighting, [1000])
    return average.weighting.effective_window(counts)


@pytest.mark.parametrize(
    "specification",
    [
        {"type": "exponential", "decay": 0.9},
        {"type": "exponential", "decay": {"type": "half_life", "half_life": 3.0}},
        {"type": "power_function", "sigma_rel": 0.01},
        {"type": "power_function", "gamma": 150.0},
        {"type": "polynomial", "eta": 150.0},
        {"type": "uniform", "start_step": 990},
        {"type": "swa", "start_step": 990},
        {"type": "window", "window_size": 10},
        {"type": "lawa", "window_size": 10},
    ],
    ids=str,
)
def test_the_nearest_that_can_be_reached_is_as_much_longer_as_it_must_be(specification):
    def residual_of(average: MovingAverage) -> float:
        return 0.0 if effective_window(average) >= 50.0 else 1.0

    if specification["type"] == "exponential":
        specification = {**specification, "zero_debias": True}
    nearest = nearest_within(specification, 1000, residual_of, max_residual=0.5)
    assert nearest.keys() == specification.keys()
    # An eighth of a step of the search, and three digits.
    assert 50.0 <= effective_window(build_average(nearest)) <= 50.0 * 1.06


def test_the_nearest_may_be_shorter():
    def residual_of(average: MovingAverage) -> float:
        return 0.0 if effective_window(average) <= 50.0 else 1.0

    nearest = nearest_within({"type": "window", "window_size": 200}, 1000, residual_of, 0.5)
    assert 47 <= nearest["window_size"] <= 50


@pytest.mark.parametrize(
    "specification, key",
    [
        ({"type": "uniform"}, "start_step"),
        ({"type": "swa", "update_every": 2}, "start_step"),
        ({"type": "polynomial"}, "eta"),
        ({"type": "polynomial", "eta": 0}, "eta"),
        ({"type": "power_function", "gamma": 0.0}, "gamma"),
    ],
    ids=str,
)
def test_the_nearest_to_a_default_or_to_the_plain_mean_is_found(specification, key):
    def residual_of(average: MovingAverage) -> float:
        return 0.0 if effective_window(average) <= 90.0 else 1.0

    nearest = nearest_within(specification, 1000, residual_of, max_residual=0.5)
    assert nearest == {**specification, key: nearest[key]}
    assert 90.0 / 1.06 <= effective_window(build_average(nearest)) <= 90.0


def test_the_initial_value_is_left_out_where_that_is_enough():
    def residual_of(average: MovingAverage) -> float:
        return 0.0 if average.zero_debias else 1.0

    assert nearest_within(HALF_LIFE, 1000, residual_of, 0.5) == {**HALF_LIFE, "zero_debias": True}


def test_nothing_is_nearest_where_nothing_can_be_reached():
    assert nearest_within({"type": "polynomial"}, 1000, lambda average: 1.0, 0.5) is None
    schedule = {"type": "exponential", "decay": {"type": "cosine", "num_updates": 100}}
    assert nearest_within(schedule, 1000, lambda average: 1.0, 0.5) is None
