"""
Specifications of averages: building a weighting from one, and varying one of its keys.
"""

import contextlib
import copy
import logging
import math
from typing import Any, Callable, Dict, Iterator, List, Optional

import numpy
from allennlp.common import Params
from allennlp.common.checks import ConfigurationError

from allennlp_ema.averages import BankMovingAverage
from allennlp_ema.averages.moving_average import WEIGHTING_ALONE, MovingAverage
from allennlp_ema.common.documents import check_kind, explained
from allennlp_ema.common.registered_names import check_names
from allennlp_ema.common.terminal import progress

# The value of "moving_average" in a configuration, {"type": ...}, in plain JSON values.
Specification = Dict[str, Any]

# For each type the key that sets its averaging length.
LENGTH_KEYS = {
    "exponential": "decay",
    "lawa": "window_size",
    "polynomial": "eta",
    "power_function": "sigma_rel",
    "swa": "start_step",
    "uniform": "start_step",
    "window": "window_size",
}

# For these keys the length is the value plus 1, because the value 0 is the plain mean.
_EXPONENTS = ("eta", "gamma")

# A search for a length changes it by this factor at each step.
_SEARCH_FACTOR = 1.25
_SEARCH_STEPS = 16


def build_average(specification: Specification) -> MovingAverage:
    """
    # Returns

    average : `MovingAverage`
        The specified average without parameters. Only its `weighting` can be used.

    # Raises

    `ConfigurationError` : if it cannot be built, if it is a bank, or if it is not an
        `allennlp_ema.MovingAverage`.
    """
    average = _constructed(specification)
    if isinstance(average, BankMovingAverage):
        raise ConfigurationError(
            f"a bank is several averages ({', '.join(average.averages)}): name one of them"
        )
    return average


def build_averages(specification: Specification) -> Dict[str, MovingAverage]:
    """
    As `build_average`, but a bank gives all its averages.

    # Returns

    averages : `Dict[str, MovingAverage]`
        The averages of a bank by name, `"inner.name"` in a bank within the bank. A single average
        has the name `""`.
    """
    average = _constructed(specification)
    return average.named_members() if isinstance(average, BankMovingAverage) else {"": average}


def _constructed(specification: Specification) -> MovingAverage:
    with _without_params_log():
        average = MovingAverage.from_params(
            Params(copy.deepcopy(specification)), parameters=WEIGHTING_ALONE
        )
    if not isinstance(average, MovingAverage):
        raise ConfigurationError(
            f"{type(average).__name__} is not an allennlp_ema.MovingAverage, so nothing is known "
            "of its weights"
        )
    return average


def check_specification(place: Any, given: Any) -> Specification:
    """
    Checks a specification from a file. For safety, classes that the file names are not imported,
    and only averages and the classes of their arguments may be constructed.

    # Parameters

    place : `Any`
        The place of the specification, for error messages.
    given : `Any`
        The value in the configuration: an object, whose `"type"` may be left out, or only the type.

    # Returns

    specification : `Specification`
        Always with its `"type"`.

    # Raises

    `ConfigurationError` : if `given` is neither, or if a `"type"` in it, at any depth, is neither a
        registered name nor a suitable class of a module that is imported already.
    """
    check_kind(place, given, dict, str)
    given = {"type": given} if isinstance(given, str) else given
    specification = {"type": MovingAverage.default_implementation, **given}
    with explained(place):
        check_names(MovingAverage, specification)
    return specification


def specification_of(average: MovingAverage) -> Specification:
    """The specification from which `build_average` builds `average`."""
    return _as_json(average.to_params())


def with_value(specification: Specification, key: str, value: Any) -> Specification:
    """
    A copy of `specification` with `value` under `key`. A dot in `key` leads into a nested object.
    For an exponential average, the key `half_life` sets a `half_life` decay schedule.
    """
    changed = copy.deepcopy(specification)
    if key == "half_life" and changed.get("type") == "exponential":
        return {**changed, "decay": {"type": "half_life", "half_life": value}}
    *path, last = key.split(".")
    inner = changed
    for part in path:
        inner = inner.setdefault(part, {})
        if not isinstance(inner, dict):
            raise ConfigurationError(f'"{key}": "{part}" is {inner!r}, which has no keys')
    inner[last] = value
    return changed


def spaced_values(key: str, start: float, end: float, points: int, num_updates: int) -> List[Any]:
    """
    # Parameters

    key : `str`
    start : `float`
    end : `float`
        The first and the last value.
    points : `int`
        The number of values. Rounding to integers may leave fewer.
    num_updates : `int`
        The length of the training.

    # Returns

    values : `List[Any]`
        Values whose averaging lengths have constant ratios. The length is `1 / (1 - decay)` for a
        decay, the number of updates until the end for `start_step`, `eta + 1` and `gamma + 1`, and
        the value itself for other keys.

    # Raises

    `ConfigurationError` : if `start` or `end` has no finite length above 0.
    """
    first, last = (_length(key, value, num_updates) for value in (start, end))
    for value, length in ((start, first), (end, last)):
        if not 0 < length < math.inf:
            raise ConfigurationError(f'"{key}": an average with {value:g} has no length')
    values = [
        _value_of_length(key, length, num_updates)
        for length in numpy.geomspace(first, last, points).tolist()
    ]
    values[1:-1] = [_round(key, value, digits=4) for value in values[1:-1]]
    return list(dict.fromkeys(values))


def nearest_within(
    specification: Specification,
    num_updates: int,
    residual_of: Callable[[MovingAverage], float],
    max_residual: float,
) -> Optional[Specification]:
    """
    # Parameters

    specification : `Specification`
    num_updates : `int`
        The length of the training.
    residual_of : `Callable[[MovingAverage], float]`
    max_residual : `float`

    # Returns

    nearest : `Optional[Specification]`
        An exponential average with `zero_debias`, if its residual is then within `max_residual`.
        Else the average with the closest length whose residual is. `None` if there is none, or if
        the key for the length is not known.
    """

    def is_within(candidate: Specification) -> bool:
        try:
            return residual_of(build_average(candidate)) <= max_residual
        except ConfigurationError:
            return False

    if specification.get("type") == "exponential" and not specification.get("zero_debias"):
        debiased = {**specification, "zero_debias": True}
        if is_within(debiased):
            return debiased
    key = _length_key_in(specification)
    if key is None:
        # The key may be left out because it has its default.
        key = LENGTH_KEYS.get(specification["type"], "")
        default = getattr(build_average(specification), key, None)
        if not isinstance(default, (int, float)):
            return None
        specification = with_value(specification, key, default)
    length = _length(key, _value_in(specification, key), num_updates)

    def candidate_at(power: float) -> Specification:
        value = _value_of_length(key, length * _SEARCH_FACTOR**power, num_updates)
        return with_value(specification, key, _round(key, value, digits=3))

    steps = [sign * step for step in range(1, _SEARCH_STEPS + 1) for sign in (1, -1)]
    for power in progress(steps, desc="searching for an average in reach"):
        if is_within(candidate_at(power)):
            beyond = power - math.copysign(1.0, power)
            for _ in range(3):
                middle = (power + beyond) / 2.0
                if is_within(candidate_at(middle)):
                    power = middle
                else:
                    beyond = middle
            return candidate_at(power)
    return None


def _length_key_in(specification: Specification) -> Optional[str]:
    for key in ("gamma", "decay.half_life", "decay.decay", LENGTH_KEYS.get(specification["type"])):
        if key is not None and isinstance(_value_in(specification, key), (int, float)):
            return key
    return None


def _value_in(specification: Specification, key: str) -> Any:
    value: Any = specification
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _length(key: str, value: float, num_updates: int) -> float:
    """The averaging length for a value of `key`, as `spaced_values` defines it."""
    if key.endswith("decay"):
        return 1.0 / (1.0 - value) if value != 1.0 else math.inf
    if key in _EXPONENTS:
        return value + 1.0
    return num_updates + 1 - value if key == "start_step" else value


def _value_of_length(key: str, length: float, num_updates: int) -> Any:
    if key.endswith("decay"):
        return round(1.0 - 1.0 / length, 12)
    if key in _EXPONENTS:
        return round(length - 1.0, 12)
    if key == "start_step":
        return round(num_updates + 1 - length)
    return round(length) if key in ("window_size", "update_every") else length


def _round(key: str, value: Any, digits: int) -> Any:
    """Rounds to significant digits, those of `1 - decay` for a decay, for people to read."""
    if isinstance(value, int):
        return value
    if key.endswith("decay"):
        return round(1.0 - float(f"{1.0 - value:.{digits}g}"), 12)
    return float(f"{value:.{digits}g}")


def _as_json(value: Any) -> Any:
    if isinstance(value, Params):
        return _as_json(value.params)
    if isinstance(value, dict):
        return {key: _as_json(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_as_json(each) for each in value]
    return value


@contextlib.contextmanager
def _without_params_log() -> Iterator[None]:
    # AllenNLP logs each key, but these averages are not trained.
    params_logger = logging.getLogger("allennlp.common.params")
    level = params_logger.level
    params_logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        params_logger.setLevel(level)
