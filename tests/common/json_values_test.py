from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple, Union

import pytest
from allennlp.common import Lazy, Params

from allennlp_ema import DecaySchedule, MovingAverage
from allennlp_ema.common.json_values import in_words, is_class_name, misfit, written
from allennlp_ema.weighting.duration import Duration


@pytest.mark.parametrize(
    "value, annotation",
    [
        (3, int),
        (3, float),
        (0.5, float),
        (True, bool),
        (0, bool),
        ("x", str),
        (Path("x"), str),
        (None, Optional[int]),
        (["x"], List[str]),
        ([], List[str]),
        ({"a": 3}, Dict[str, int]),
        (Params({"a": 3}), Dict[str, int]),
        (3, Union[int, Duration]),
        ({"epochs": 2}, Union[int, Duration]),
        # What it is made of is the class's own business.
        ({"anything": 2}, Union[int, Duration]),
        ("half_life", DecaySchedule),
        ("my_package.MySchedule", DecaySchedule),
        ({"type": "uniform"}, Lazy[MovingAverage]),
        ([1, "x"], Tuple[int, str]),
        ({"a"}, Any),
    ],
)
def test_fits(value, annotation):
    assert misfit("key", value, annotation) is None


@pytest.mark.parametrize(
    "value, annotation, message",
    [
        ("3", int, "\"key\" is '3', but has to be an integer"),
        (3.0, int, '"key" is 3.0, but has to be an integer'),
        (True, int, '"key" is true, but has to be an integer'),
        (True, float, '"key" is true, but has to be a number'),
        (2, bool, '"key" is 2, but has to be true or false'),
        (3, str, '"key" is 3, but has to be a string'),
        (None, int, '"key" is null, but has to be an integer'),
        ("x", List[str], "\"key\" is 'x', but has to be a list of strings: ['x']"),
        ([3], Optional[List[str]], '"key" is [3], but has to be a list of strings'),
        (3, List[Duration], '"key" is 3, but has to be a list'),
        ({"a": {"b": "c"}}, Dict[str, Dict[str, int]], "\"key.a.b\" is 'c', but has to be an "),
        ([], Dict[str, int], '"key" is [], but has to be an object in which each value is an int'),
        ("0.5", Union[float, DecaySchedule], "\"key\" is '0.5', but has to be a number or a sched"),
        ("2", Union[int, Duration], "\"key\" is '2', but has to be a number of updates or a dura"),
        ("unifrom", Lazy[MovingAverage], '0.999}; did you mean "uniform"?'),
    ],
)
def test_misfit_says_what_is_allowed(value, annotation, message):
    assert message in str(misfit("key", value, annotation))


def test_kinds_of_somebody_else_have_words_too():
    class Other:
        pass

    assert in_words(Union[int, Other, None]) == "an integer or a Other"


def test_values_are_written_as_in_a_configuration():
    assert [written(v) for v in (None, True, False, 3, "x")] == [
        "null",
        "true",
        "false",
        "3",
        "'x'",
    ]


def test_paths_of_classes_are_told_from_numbers():
    assert is_class_name(DecaySchedule, "package.module.Class")
    assert not is_class_name(DecaySchedule, "0.99")
    assert not is_class_name(DecaySchedule, "halflife")
    assert not is_class_name(DecaySchedule, 3)
