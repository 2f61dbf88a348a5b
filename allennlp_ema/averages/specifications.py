"""
Averages for their weights alone: from what a configuration says, and along one of its keys.
"""

import contextlib
import copy
import logging
import math
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import numpy
from allennlp.common import Params
from allennlp.common.checks import ConfigurationError

from allennlp_ema.averages import BankMovingAverage
from allennlp_ema.averages.moving_average import WEIGHTING_ALONE, MovingAverage
from allennlp_ema.common.documents import check_kind, explained
from allennlp_ema.common.registered_names import check_names
from allennlp_ema.common.terminal import progress

# What stands under "moving_average" in a configuration, {"type": ...}, in plain JSON values.
Specification = Dict[str, Any]

# The key that makes an average of each type longer or shorter.
LENGTH_KEYS = {
    "exponential": "decay",
    "lawa": "window_size",
    "polynomial": "eta",
    "power_function": "sigma_rel",
    "swa": "start_step",
    "uniform": "start_step",
    "window": "window_size",
}

# Of these 0 is the plain mean, which has a length too.
_EXPONENTS = ("eta", "gamma")

# A search for a length goes by this factor, and so many times at the most.
_SEARCH_FACTOR = 1.25
_SEARCH_STEPS = 16


def build_average(specification: Specification) -> MovingAverage:
    """
    # Returns

    average : `MovingAverage`
        As specified, but of no parameters: only its `weighting` can be asked.

    # Raises

    `ConfigurationError` : if it cannot be built, is a bank, or is not one of allennlp_ema's.
    """
    average = _constructed(specification)
    if isinstance(average, BankMovingAverage):
        raise ConfigurationError(
            f"a bank is several averages ({', '.join(average.averages)}): name one of them"
        )
    return average


def build_averages(specification: Specification) -> Dict[str, MovingAverage]:
    """
    As `build_average`, but of a bank each of its averages.

    # Returns

    averages : `Dict[str, MovingAverage]`
        By name, those of a bank in a bank by `"inner.name"`. One that is no bank has the name `""`.
    """
    return dict(_named("", _constructed(specification)))


def _named(name: str, average: MovingAverage) -> Iterator[Tuple[str, MovingAverage]]:
    if isinstance(average, BankMovingAverage):
        for key, member in average.averages.items():
            yield from _named(f"{name}.{key}" if name else key, member)
    else:
        yield name, average


def _constructed(specification: Specification) -> MovingAverage:
    with _quietly():
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
    Checks what a file says of an average. Nothing that a file names is imported, and nothing is
    called but averages and what they take.

    # Parameters

    place : `Any`
        Where it stands, for messages.
    given : `Any`
        As a configuration has it: an object, whose `"type"` may be left out, or the type alone.

    # Returns

    specification : `Specification`
        With its `"type"`.

    # Raises

    `ConfigurationError` : if it is something else, or names, at whatever depth, what is neither
        registered nor a class of the kind that is asked for, of a module that is loaded.
    """
    check_kind(place, given, dict, str)
    given = {"type": given} if isinstance(given, str) else given
    specification = {"type": MovingAverage.default_implementation, **given}
    with explained(place):
        check_names(MovingAverage, specification)
    return specification


def specification_of(average: MovingAverage) -> Specification:
    """What `build_average` builds `average` from."""
    return _plain(average.to_params())


def with_value(specification: Specification, key: str, value: Any) -> Specification:
    """
    `specification` with `value` under `key`, in which a dot leads into a nested object. The
    `half_life` of an exponential average is that of a decay schedule of this name.
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
        How many values; of integers there may be fewer.
    num_updates : `int`
        The length of the training.

    # Returns

    values : `List[Any]`
        Each by one factor apart from the one before: in `1 / (1 - decay)` for a decay, in the
        number of updates from there to the end for `start_step`, in `eta + 1` and `gamma + 1`, in
        the value itself for others.

    # Raises

    `ConfigurationError` : if no factor leads from `start` to `end`.
    """
    first, last = (_position(key, value, num_updates) for value in (start, end))
    for value, position in ((start, first), (end, last)):
        if not 0 < position < math.inf:
            raise ConfigurationError(f'"{key}": an average with {value:g} has no length')
    values = [
        _value(key, position, num_updates)
        for position in numpy.geomspace(first, last, points).tolist()
    ]
    values[1:-1] = [_rounded(key, value, digits=4) for value in values[1:-1]]
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
        An average that differs from the specified one in length alone, no more than it must for
        `residual_of` to be within `max_residual`; or just as long, but without the initial value.
        `None` if there is none, or the key is not known that makes it longer or shorter.
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
        # Perhaps it is at its default.
        key = LENGTH_KEYS.get(specification["type"], "")
        default = getattr(build_average(specification), key, None)
        if not isinstance(default, (int, float)):
            return None
        specification = with_value(specification, key, default)
    position = _position(key, _value_in(specification, key), num_updates)

    def candidate_at(power: float) -> Specification:
        value = _value(key, position * _SEARCH_FACTOR**power, num_updates)
        return with_value(specification, key, _rounded(key, value, digits=3))

    steps = [sign * step for step in range(1, _SEARCH_STEPS + 1) for sign in (1, -1)]
    for power in progress(steps, desc="looking for what can be reached"):
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


def _position(key: str, value: float, num_updates: int) -> float:
    """Where an average is on a scale on which a factor makes it longer or shorter."""
    if key.endswith("decay"):
        return 1.0 / (1.0 - value) if value != 1.0 else math.inf
    if key in _EXPONENTS:
        return value + 1.0
    return num_updates + 1 - value if key == "start_step" else value


def _value(key: str, position: float, num_updates: int) -> Any:
    if key.endswith("decay"):
        return round(1.0 - 1.0 / position, 12)
    if key in _EXPONENTS:
        return round(position - 1.0, 12)
    if key == "start_step":
        return round(num_updates + 1 - position)
    return round(position) if key in ("window_size", "update_every") else position


def _rounded(key: str, value: Any, digits: int) -> Any:
    """For people to type: so many digits of what counts."""
    if isinstance(value, int):
        return value
    if key.endswith("decay"):
        return round(1.0 - float(f"{1.0 - value:.{digits}g}"), 12)
    return float(f"{value:.{digits}g}")


def _plain(value: Any) -> Any:
    if isinstance(value, Params):
        return _plain(value.params)
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    # It logs each key, which here is of no average that anybody trains with.
    params_logger = logging.getLogger("allennlp.common.params")
    level = params_logger.level
    params_logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        params_logger.setLevel(level)
