"""
Durations in the place of numbers of updates.
"""

import logging
from pathlib import Path
from typing import Any, Dict

import pytest
import torch
from allennlp.common import Params
from allennlp.common.checks import ConfigurationError

from allennlp_ema import ExponentialMovingAverage, HalfLifeDecay, MovingAverage
from allennlp_ema.weighting.duration import Duration, TrainingLength
from tests.support.every_average import EVERY_AVERAGE, built
from tests.support.training_runs import (
    best_weights,
    differences,
    latest_checkpoint,
    tagger_config,
    train_here,
)
from tests.support.trajectories import averages_along, move, named_parameter, random_walk

# 4 epochs of 6 updates.
LENGTH = TrainingLength(6, 4)


@pytest.mark.parametrize(
    "duration, num_updates",
    [
        (Duration(epochs=2), 12.0),
        (Duration(epochs=0.5), 3.0),
        (Duration(fraction=0.5), 12.0),
        (Duration(fraction=1), 24.0),
    ],
)
def test_a_duration_in_updates(duration: Duration, num_updates: float) -> None:
    assert duration.resolve("start_step", LENGTH) == num_updates
    params = duration.to_params()
    assert Duration.from_params(params) == duration


@pytest.mark.parametrize(
    "params, message",
    [
        ({"epochs": -1}, '"epochs" is -1, but has to be a finite number > 0'),
        ({"epochs": 0}, '"epochs" is 0, but has to be'),
        ({"fraction": 1.5}, '"fraction" is 1.5, but has to be a finite number > 0 and <= 1'),
        ({"epochs": 1, "fraction": 0.5}, 'exactly one of "epochs" and "fraction"'),
        ({}, 'exactly one of "epochs" and "fraction"'),
        ({"epoch": 1}, 'unknown key "epoch" for Duration; its keys are epochs, fraction'),
    ],
)
def test_what_is_no_duration_is_said_through_the_union(
    params: Dict[str, Any], message: str
) -> None:
    for key in ("start_step", "update_every"):
        with pytest.raises(ConfigurationError) as raised:
            built({"type": "uniform", key: params}, named_parameter(torch.zeros(2)))
        assert message in str(raised.value)


DURATIONS: Dict[str, Any] = {
    "start_step": ({"start_step": {"epochs": 1}}, {"start_step": 6}),
    "fraction": ({"start_step": {"fraction": 0.5}}, {"start_step": 12}),
    "update_every": ({"update_every": {"epochs": 0.5}}, {"update_every": 3}),
    "both": (
        {"start_step": {"epochs": 2}, "update_every": {"fraction": 0.125}},
        {"start_step": 12, "update_every": 3},
    ),
}


@pytest.mark.parametrize("name", DURATIONS)
@pytest.mark.parametrize("params", EVERY_AVERAGE.values(), ids=EVERY_AVERAGE)
def test_the_average_is_that_of_the_numbers_bit_for_bit(params: Dict[str, Any], name: str) -> None:
    durations, numbers = DURATIONS[name]
    trajectory = random_walk(24)

    def resolved(parameters: Any) -> MovingAverage:
        average = built(params, parameters, **durations)
        assert average.has_unresolved_durations
        average.resolve(num_updates_per_epoch=6, num_epochs=4)
        assert not average.has_unresolved_durations
        return average

    plain = averages_along(trajectory, lambda p: built(params, p, **numbers))
    assert torch.equal(averages_along(trajectory, resolved), plain)


@pytest.mark.parametrize(
    "schedule, resolved",
    [
        ({"type": "half_life", "half_life": {"epochs": 0.25}}, {"half_life": 1.5}),
        ({"type": "cosine", "num_updates": {"fraction": 0.5}}, {"num_updates": 12}),
    ],
)
def test_schedules_have_durations_too(schedule: Dict[str, Any], resolved: Dict[str, Any]) -> None:
    trajectory = random_walk(24)

    def with_duration(parameters: Any) -> MovingAverage:
        average = built({"decay": schedule}, parameters)
        average.resolve(6, 4)
        assert average.to_params()["decay"].params == {**schedule, **resolved}
        return average

    plain = averages_along(trajectory, lambda p: built({"decay": {**schedule, **resolved}}, p))
    assert torch.equal(averages_along(trajectory, with_duration), plain)


def test_an_unresolved_duration_is_refused_at_the_first_update() -> None:
    average = built({"start_step": {"epochs": 2}}, named_parameter(torch.zeros(2)))
    with pytest.raises(ConfigurationError, match=r'"start_step" is {"epochs": 2}, and nobody'):
        average.apply(1)
    with pytest.raises(ConfigurationError, match="nobody knows how many epochs"):
        built({"start_step": {"fraction": 0.5}}, named_parameter(torch.zeros(2))).resolve(6)


# What is resolved late, and the numbers, for epochs of 6 updates.
LATE: Dict[str, Any] = {
    "update_every": ({"update_every": {"epochs": 2}}, {"update_every": 12}),
    "sample before it": (
        {"start_step": 2, "update_every": {"epochs": 1}},
        {"start_step": 2, "update_every": 6},
    ),
    "sample with it": (
        {"start_step": 6, "update_every": {"epochs": 1}},
        {"start_step": 6, "update_every": 6},
    ),
}
# A first sample that replaces what was before it makes these equal too.
LATE_START: Dict[str, Any] = {
    "start_step": ({"start_step": {"epochs": 2}}, {"start_step": 12}),
    "both at once": (
        {"start_step": {"epochs": 2}, "update_every": {"epochs": 2}},
        {"start_step": 12, "update_every": 12},
    ),
    "start_step first": (
        {"start_step": {"epochs": 1}, "update_every": {"epochs": 2}},
        {"start_step": 6, "update_every": 12},
    ),
    "update_every first": (
        {"start_step": {"epochs": 2}, "update_every": {"epochs": 1}},
        {"start_step": 12, "update_every": 6},
    ),
}
FORGETTING = ["uniform", "power_function", "window", "exponential_schedule"]


@pytest.mark.parametrize(
    "late, params",
    [(late, params) for late in LATE for params in EVERY_AVERAGE]
    + [(late, params) for late in LATE_START for params in FORGETTING],
)
def test_without_a_length_whole_epochs_are_resolved_when_they_end(late: str, params: str) -> None:
    durations, numbers = {**LATE, **LATE_START}[late]
    trajectory = random_walk(24)
    parameters, plain_parameters = (named_parameter(trajectory[0]) for _ in range(2))
    average = built(EVERY_AVERAGE[params], parameters, **durations)
    average.resolve(num_updates_per_epoch=None, num_epochs=4)
    plain = built(EVERY_AVERAGE[params], plain_parameters, **numbers)
    for number, value in enumerate(trajectory[1:], start=1):
        move(parameters, value)
        move(plain_parameters, value)
        average.apply(number)
        plain.apply(number)
        if number % 6 == 0:
            average.epoch_ended(number // 6)
            assert average.num_averaged == plain.num_averaged
        assert number < 12 or torch.equal(average.average("weight"), plain.average("weight"))
    assert average.effective_window() == pytest.approx(plain.effective_window())


def test_without_a_length_what_ended_before_averaging_began_is_resolved() -> None:
    trajectory = random_walk(24)
    parameters = named_parameter(trajectory[0])
    average = built(
        {"type": "uniform"}, parameters, start_step={"epochs": 1}, update_every={"epochs": 2}
    )
    average.resolve(num_updates_per_epoch=None, num_epochs=4)
    # The first two epochs were trained without an average.
    for number in range(13, 25):
        move(parameters, trajectory[number])
        average.apply(number)
        if number % 6 == 0:
            average.epoch_ended(number // 6)
    assert not average.has_unresolved_durations
    assert (average.start_step, average.update_every) == (6, 12)
    assert average.num_averaged == 1
    assert torch.equal(average.average("weight"), trajectory[18])


def test_averages_may_share_a_schedule_that_has_a_duration() -> None:
    schedule = HalfLifeDecay(Duration(epochs=2))
    averages = [ExponentialMovingAverage(named_parameter(torch.zeros(2)), schedule) for _ in "ab"]
    for average in averages:
        average.resolve(num_updates_per_epoch=6)
    assert schedule.half_life == 12 and not averages[1].has_unresolved_durations


@pytest.mark.parametrize(
    "settings",
    [
        {"start_step": {"fraction": 0.5}},
        {"update_every": {"epochs": 0.5}},
        {"decay": {"type": "half_life", "half_life": {"epochs": 1}}},
    ],
)
def test_without_a_length_others_are_refused(settings: Dict[str, Any]) -> None:
    average = built(settings, named_parameter(torch.zeros(2)))
    with pytest.raises(ConfigurationError, match="has no length.*number of updates"):
        average.resolve(num_updates_per_epoch=None, num_epochs=4)


def test_what_was_resolved_stays_over_another_length(caplog: pytest.LogCaptureFixture) -> None:
    def average(num_epochs: int) -> MovingAverage:
        made = built({"start_step": {"fraction": 0.5}}, named_parameter(torch.zeros(2)))
        made.resolve(6, num_epochs)
        return made

    state = average(4).state_dict()
    assert state["durations"] == {"start_step": 12}
    longer = average(8)
    longer.load_state_dict(state)
    assert longer.start_step == longer.weighting.start_step == 12
    (warning,) = [r.message for r in caplog.records if r.levelno == logging.WARNING]
    assert '"start_step" stays at 12 updates' in warning and "would be 24" in warning


class TestTraining:
    def test_in_a_training_a_duration_is_the_number(self, tmp_path: Path) -> None:
        for name, settings in (
            ("numbers", {"start_step": 12, "update_every": 2}),
            ("durations", {"start_step": {"fraction": 0.5}, "update_every": {"fraction": 0.0834}}),
        ):
            average = {"type": "uniform", **settings}
            # Two batches are one update.
            plain = tagger_config(moving_average=average)
            train_here(plain, tmp_path / name)
        assert differences(*(best_weights(tmp_path / n) for n in ("numbers", "durations"))) == []
        _, state = latest_checkpoint(tmp_path / "durations")
        assert state["moving_average"]["durations"] == {"start_step": 12, "update_every": 2}
        log = (tmp_path / "durations" / "out.log").read_text()
        assert "from update 12 on, at every 2th update" in log

    def test_a_loader_without_a_length(self, tmp_path: Path) -> None:
        for name, average in (
            ("numbers", {"type": "window", "window_size": 2, "update_every": 6}),
            ("durations", {"type": "window", "window_size": 2, "update_every": {"epochs": 1}}),
        ):
            plain = tagger_config(moving_average=average)
            plain["data_loader"]["max_instances_in_memory"] = 4
            train_here(plain, tmp_path / name)
        assert differences(*(best_weights(tmp_path / n) for n in ("numbers", "durations"))) == []

    def test_snapshots_are_taken_by_a_duration(self, tmp_path: Path) -> None:
        callback = {"type": "moving_average_snapshots", "every_num_updates": {"epochs": 0.5}}
        plain = tagger_config(moving_average={"type": "uniform"}, callbacks=[callback])
        train_here(plain, tmp_path / "run")
        names = sorted(path.name for path in (tmp_path / "run" / "averages").iterdir())
        assert [int(name[7:17]) for name in names] == list(range(3, 25, 3))


def test_an_average_of_durations_is_built_from_its_own_params() -> None:
    params = {"type": "uniform", "start_step": {"epochs": 2.0}, "update_every": {"fraction": 0.1}}
    average = built(params, named_parameter(torch.zeros(2)))
    again = MovingAverage.from_params(
        Params(average.to_params().as_dict(quiet=True)), parameters=named_parameter(torch.zeros(2))
    )
    assert again.start_step == average.start_step and again.update_every == average.update_every
