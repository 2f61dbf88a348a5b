"""
What somebody with a mistake in the configuration gets to read at the end of the output.
"""

import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Dict, List, Tuple

import pytest
from allennlp.common.checks import ConfigurationError

from allennlp_ema import DecaySchedule, MovingAverage
from tests.support.training_runs import tagger_config, train, train_here

EVERY_KEY = "exclude, include, sequential_update, shadow_device, shadow_dtype, start_step, "
EVERY_KEY += "update_every"
KEYS_OF_EXPONENTIAL = "decay, denominator, exclude, include, numerator, sequential_update, "
KEYS_OF_EXPONENTIAL += "shadow_device, shadow_dtype, start_step, update_every, zero_debias"
# All that are registered, of which other tests add some.
AVERAGES, SCHEDULES = "<averages>", "<schedules>"
YOURS = "or a class of yours: --include-package loads it"
NUMBER_OR_SCHEDULE = 'a number or a schedule: {"type": "half_life", "half_life": 1000}'
DURATION = 'a duration: {"epochs": 2} or {"fraction": 0.5}'
AN_AVERAGE = 'an average: {"type": "exponential", "decay": 0.999}'


def bank(member: Any, **keys: Any) -> Dict[str, Any]:
    return {"type": "bank", "averages": {"fast": member}, "active": "fast", **keys}


def schedule(**keys: Any) -> Dict[str, Any]:
    return {"type": "exponential", "decay": keys}


# Values of "moving_average", and all that the last line says.
MISTAKES: List[Tuple[Any, str]] = [
    (0.999, f'"moving_average" is 0.999, but has to be {AN_AVERAGE}'),
    (False, f'"moving_average" is false, but has to be {AN_AVERAGE}'),
    ([0.9], f'"moving_average" is [0.9], but has to be {AN_AVERAGE}'),
    (
        "exponental",
        f"\"moving_average\" is 'exponental', but has to be {AN_AVERAGE}; did you mean "
        '"exponential"?',
    ),
    (
        {"type": "exponental"},
        f"\"type\" is 'exponental', but has to be one of {AVERAGES}, {YOURS}; did you mean "
        '"exponential"?',
    ),
    ({"type": 3}, f'"type" is 3, but has to be one of {AVERAGES}, {YOURS}'),
    ({"decay": 1.5}, '"decay" is 1.5, but has to be a finite number >= 0 and <= 1'),
    ({"decay": float("nan")}, '"decay" is nan, but has to be a finite number >= 0 and <= 1'),
    ({"decay": "0.99"}, f"\"decay\" is '0.99', but has to be {NUMBER_OR_SCHEDULE}"),
    ({"decay": [0.9]}, f'"decay" is [0.9], but has to be {NUMBER_OR_SCHEDULE}'),
    ({"decay": None}, f'"decay" is null, but has to be {NUMBER_OR_SCHEDULE}'),
    ({"decay": True}, f'"decay" is true, but has to be {NUMBER_OR_SCHEDULE}'),
    (
        {"decay": "halflife"},
        f'"decay" is \'halflife\', but has to be {NUMBER_OR_SCHEDULE}; did you mean "half_life"?',
    ),
    (
        {"deacy": 0.9},
        f'unknown key "deacy" for ExponentialMovingAverage; its keys are {KEYS_OF_EXPONENTIAL}; '
        'did you mean "decay"?',
    ),
    ({"numerator": -1}, '"numerator" is -1, but has to be a finite number >= 0'),
    ({"numerator": "1"}, "\"numerator\" is '1', but has to be a number"),
    ({"denominator": 0}, '"denominator" is 0, but has to be a finite number > 0'),
    ({"zero_debias": "yes"}, "\"zero_debias\" is 'yes', but has to be true or false"),
    (
        schedule(half_life=9),
        f'"decay": "type" is missing, but has to be one of {SCHEDULES}, {YOURS}',
    ),
    (
        schedule(type="cosin", num_updates=9),
        f'"decay": "type" is \'cosin\', but has to be one of {SCHEDULES}, {YOURS}; did you mean '
        '"cosine"?',
    ),
    (
        schedule(type="half_life", half_life=0),
        '"decay": "half_life" is 0, but has to be a finite number > 0',
    ),
    (
        schedule(type="half_life", halflife=9),
        '"decay": unknown key "halflife" for HalfLifeDecay; its keys are half_life; did you mean '
        '"half_life"?',
    ),
    (
        schedule(type="half_life", half_life={"epoch": 1}),
        '"decay.half_life": unknown key "epoch" for Duration; its keys are epochs, fraction; did '
        'you mean "epochs"?',
    ),
    (
        schedule(type="cosine", num_updates="9"),
        f'"decay": "num_updates" is \'9\', but has to be a number of updates or {DURATION}',
    ),
    (
        {"start_step": "2"},
        f"\"start_step\" is '2', but has to be a number of updates or {DURATION}",
    ),
    ({"start_step": 1.5}, f'"start_step" is 1.5, but has to be a number of updates or {DURATION}'),
    ({"start_step": -1}, f'"start_step" is -1, but has to be an integer >= 0, or {DURATION}'),
    (
        {"start_step": {"epoch": 2}},
        '"start_step": unknown key "epoch" for Duration; its keys are epochs, fraction; did you '
        'mean "epochs"?',
    ),
    (
        {"start_step": {"fraction": 1.5}},
        '"start_step": "fraction" is 1.5, but has to be a finite number > 0 and <= 1',
    ),
    (
        {"type": "uniform", "update_every": 0},
        f'"update_every" is 0, but has to be an integer >= 1, or {DURATION}',
    ),
    (
        {"shadow_dtype": "flaot32"},
        "\"shadow_dtype\" is 'flaot32', but has to be one of null, 'float32', 'float64'; did you "
        'mean "float32"?',
    ),
    ({"shadow_device": 0}, '"shadow_device" is 0, but has to be a string'),
    (
        {"include": "encoder"},
        "\"include\" is 'encoder', but has to be a list of strings: ['encoder']",
    ),
    ({"include": [5]}, '"include" is [5], but has to be a list of strings'),
    (
        {"type": "uniform", "decay": 0.9},
        f'unknown key "decay" for UniformMovingAverage; its keys are {EVERY_KEY}',
    ),
    (
        {"type": "power_function"},
        'exactly one of "sigma_rel" and "gamma" has to be given, but "sigma_rel" is None and '
        '"gamma" is None',
    ),
    (
        {"type": "power_function", "sigma_rel": 0.3},
        '"sigma_rel" is 0.3, but has to be a finite number > 0 and < 0.28868',
    ),
    ({"type": "polynomial", "eta": -1}, '"eta" is -1, but has to be a finite number >= 0'),
    ({"type": "window", "window_size": 0}, '"window_size" is 0, but has to be an integer >= 1'),
    ({"type": "window", "window_size": "9"}, "\"window_size\" is '9', but has to be an integer"),
    (
        bank({"type": "uniform"}, active="fsat"),
        "\"active\" is 'fsat', but has to be one of 'fast'; did you mean \"fast\"?",
    ),
    (bank(5), f'"averages.fast" is 5, but has to be {AN_AVERAGE}'),
    (
        bank({"decay": 2}),
        '"averages.fast": "decay" is 2, but has to be a finite number >= 0 and <= 1',
    ),
    (
        bank(bank({"start_step": {"epoch": 2}})),
        '"averages.fast.averages.fast.start_step": unknown key "epoch" for Duration; its keys are '
        'epochs, fraction; did you mean "epochs"?',
    ),
    (
        bank(bank({"decay": "0.99"})),
        f'"averages.fast.averages.fast": "decay" is \'0.99\', but has to be {NUMBER_OR_SCHEDULE}',
    ),
]

UNIFORM = {"type": "uniform"}


def optimizer(**keys: Any) -> Dict[str, Any]:
    return {"optimizer": {"type": "moving_average", "optimizer": "adam", **keys}}


def callback(type: str, **keys: Any) -> Dict[str, Any]:
    return {"moving_average": UNIFORM, "callbacks": [{"type": type, **keys}]}


# What "trainer" holds, and all that the last line says.
MISTAKES_BESIDE: List[Tuple[Dict[str, Any], str]] = [
    (
        optimizer(moving_average={"decay": "0.99"}),
        f'"moving_average": "decay" is \'0.99\', but has to be {NUMBER_OR_SCHEDULE}',
    ),
    (
        optimizer(moving_average=UNIFORM, average_decay=0.9),
        'exactly one of "moving_average" and "average_decay" has to be given, but both are',
    ),
    (optimizer(average_decay="0.9"), "\"average_decay\" is '0.9', but has to be a number"),
    (
        optimizer(moving_avrage=UNIFORM),
        'unknown key "moving_avrage" for MovingAverageOptimizer; its keys are average_decay, '
        'moving_average, optimizer; did you mean "moving_average"?',
    ),
    (
        callback("moving_average_monitor", validate_rwa=True),
        'unknown key "validate_rwa" for MovingAverageMonitorCallback; its keys are validate_raw; '
        'did you mean "validate_raw"?',
    ),
    (
        callback("moving_average_selection", candidates="raw"),
        "\"candidates\" is 'raw', but has to be a list of strings: ['raw']",
    ),
    (
        callback("moving_average_selection", candidates=["unifrom"]),
        "\"candidates\" is 'unifrom', but has to be one of 'uniform', 'raw'; did you mean "
        '"uniform"?',
    ),
    (
        callback("moving_average_selection", metric="+acuracy"),
        "\"metric\" is '+acuracy', but the validation has accuracy, accuracy3, loss; did you mean "
        '"accuracy"?',
    ),
    (
        callback("moving_average_buffers", mode="averaged"),
        "\"mode\" is 'averaged', but has to be one of 'recalibrate', 'average'; did you mean "
        '"average"?',
    ),
    (
        callback("moving_average_snapshots", every_num_updates={"fraction": 2}),
        '"every_num_updates": "fraction" is 2, but has to be a finite number > 0 and <= 1',
    ),
    (
        {"moving_average": UNIFORM, "checkpointer": {"type": "swapping", "keep_most": 1}},
        'unknown key "keep_most" for SwappingCheckpointer; its keys are keep_most_recent_by_age, '
        "keep_most_recent_by_count, save_completed_epochs, save_every_num_batches, "
        "save_every_num_seconds",
    ),
]

ALL_MISTAKES = [({"moving_average": value}, message) for value, message in MISTAKES]
ALL_MISTAKES += MISTAKES_BESIDE


@pytest.mark.parametrize("trainer, message", ALL_MISTAKES, ids=[str(t) for t, _ in ALL_MISTAKES])
def test_last_line_says_what_is_wrong(
    trainer: Dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError) as error:
        train_here(tagger_config(**trainer), tmp_path / "run")
    for listed, base in ((AVERAGES, MovingAverage), (SCHEDULES, DecaySchedule)):
        message = message.replace(listed, ", ".join(map(repr, base.list_available())))
    lines = traceback.format_exception_only(error.type, error.value)
    assert lines == [f"allennlp.common.checks.ConfigurationError: {message}\n"]


@pytest.mark.parametrize(
    "trainer, place, meant",
    [
        (callback("moving_average_montor"), "callbacks.0", "moving_average_monitor"),
        ({"checkpointer": {"type": "swaping"}}, "checkpointer", "swapping"),
        ({"optimizer": {"type": "moving_avrage"}}, "optimizer", "moving_average"),
    ],
)
def test_what_allennlp_refuses_ends_with_the_type_that_was_meant(
    trainer: Dict[str, Any], place: str, meant: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError) as error:
        train_here(tagger_config(**trainer), tmp_path / "run")
    message = str(error.value)
    assert f"not in acceptable choices for trainer.{place}.type: [" in message
    assert message.endswith(f'; did you mean "{meant}"?')


def test_types_that_are_none_of_this_packages_are_refused_as_ever(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as error:
        train_here(tagger_config(optimizer={"type": "adm"}), tmp_path / "run")
    assert str(error.value).endswith("to have it imported automatically.")


@pytest.mark.parametrize("key", ["include", "exclude"])
def test_a_misspelt_parameter_is_named(key: str, tmp_path: Path) -> None:
    average = {**UNIFORM, key: ["tag_projecton_layer"]}
    config = tagger_config(moving_average=average, num_epochs=1)
    if key == "include":
        with pytest.raises(ConfigurationError, match='; did you mean "tag_projection_layer"\\?$'):
            train_here(config, tmp_path / "run")
    else:
        train_here(config, tmp_path / "run")
    log = (tmp_path / "run" / "out.log").read_text()
    assert (
        f"\"{key}\" has 'tag_projecton_layer', which matches no parameter; did you mean "
        '"tag_projection_layer"?\n'
    ) in log


def test_terminal(tmp_path: Path) -> None:
    shown: Dict[str, Tuple[Dict[str, Any], str]] = {
        "trainer": (
            {"moving_average": {"decay": "0.99"}},
            f"\"decay\" is '0.99', but has to be {NUMBER_OR_SCHEDULE}",
        ),
        "bank": (
            {"moving_average": bank({"start_step": {"fraction": 1.5}})},
            '"averages.fast.start_step": "fraction" is 1.5, but has to be a finite number > 0 and '
            "<= 1",
        ),
        "optimizer": (
            optimizer(moving_average={"type": "exponental"}),
            "\"moving_average\": \"type\" is 'exponental', but has to be one of 'exponential', "
            "'bank', 'polynomial', 'power_function', 'uniform', 'swa', 'window', 'lawa', "
            f'{YOURS}; did you mean "exponential"?',
        ),
    }

    def output(name: str) -> str:
        config = tagger_config(**shown[name][0])
        return train(config, tmp_path / name, expected_returncode=1).output

    with ThreadPoolExecutor(2) as executor:
        outputs = dict(zip(shown, executor.map(output, shown)))
    for name, (_, message) in shown.items():
        last_line = outputs[name].splitlines()[-1]
        assert last_line == f"allennlp.common.checks.ConfigurationError: {message}"
        # Nor is there anything before it of the types that AllenNLP tried.
        assert "Failed to construct argument" not in outputs[name]
        assert "typing.Union" not in outputs[name]
