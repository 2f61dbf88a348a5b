"""
Checks of counts and states of averages that are read from files.
"""

import json
from typing import Any, Dict, Optional

from allennlp.common.checks import ConfigurationError
from torch import Tensor

from allennlp_ema.averages.moving_average import STATE_VERSION
from allennlp_ema.common.documents import check_depth, check_kind, check_range, entry
from allennlp_ema.weighting.weighting import AveragingCounts

# More updates than any training has, but few enough to go through in memory.
_MAX_UPDATES = 10**9

# A share is a quotient, which rounding may bring slightly above 1.
_MAX_SHARE = 1.0 + 1e-12


def read_counts(place: Any, document: Any) -> AveragingCounts:
    """
    # Parameters

    place : `Any`
        The place of the counts, for error messages.
    document : `Any`
        The result of `AveragingCounts.as_dict`.

    # Raises

    `ConfigurationError` : if `document` is not such a result.
    """
    check_kind(place, document, dict)
    defaults = AveragingCounts().as_dict()
    for key, default in defaults.items():
        value = entry(place, document, key, type(default))
        maximum = _MAX_UPDATES if isinstance(default, int) else _MAX_SHARE
        check_range(f'{place}: "{key}"', value, 0, maximum)
    for key in document:
        if key not in defaults:
            raise ConfigurationError(f'{place} has "{key}", of which nothing is known')
    counts = AveragingCounts(**document)
    # The effective window is the inverse of this value, so the value must not be 0.
    check_range(f'{place}: "sum_of_squares"', counts.sum_of_squares, 1.0 / _MAX_UPDATES, _MAX_SHARE)
    return counts


def average_state(place: Any, training_state: Dict[str, Any]) -> Optional[Dict[str, Any]]:
    """
    # Returns

    state : `Optional[Dict[str, Any]]`
        The state of the trainer's or the optimizer's moving average in a checkpoint. `None` if the
        checkpoint has none.

    # Raises

    `ConfigurationError` : if the state is malformed.
    """
    state = training_state.get("moving_average")
    optimizer = entry(place, training_state, "optimizer", dict, type(None))
    if state is None and optimizer is not None:
        state = optimizer.get("moving_average")
    return None if state is None else check_average_state(f'{place}: "moving_average"', state)


def num_updates_of(state: Optional[Dict[str, Any]]) -> Optional[int]:
    """
    The number of the update after which a state of an average was taken. `None` if the state does
    not contain it. All averages of a bank have the same number.
    """
    while isinstance(state, dict) and "counts" not in state:
        averages = state.get("averages")
        state = next(iter(averages.values()), None) if isinstance(averages, dict) else None
    counts = state["counts"] if isinstance(state, dict) else None
    return counts.get("num_updates") if isinstance(counts, dict) else None


def check_average_state(place: Any, state: Any) -> Dict[str, Any]:
    """
    Checks the state of a moving average. A state with a `"version"` is one of `allennlp_ema`. Any
    other state only has to be an object.

    # Returns

    state : `Dict[str, Any]`

    # Raises

    `ConfigurationError` : if the state is malformed.
    """
    check_kind(place, state, dict)
    check_depth(place, state)
    if "version" not in state:
        return state
    if state["version"] != STATE_VERSION:
        raise ConfigurationError(
            f"{place} is of version {state['version']!r:.60}, but only {STATE_VERSION} can be read "
            "here"
        )
    entry(place, state, "type", str)
    averages = entry(place, state, "averages", dict)
    if "counts" not in state:
        if not averages:
            raise ConfigurationError(f"{place} is that of a bank without averages")
        for name, member in averages.items():
            check_average_state(f'{place}: "{name}"', member)
            if "version" not in member:
                raise ConfigurationError(f'{place}: "{name}" has no "version"')
        return state
    read_counts(f'{place}: "counts"', state["counts"])
    settings = entry(place, state, "settings", dict)
    try:
        json.dumps(settings)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f'{place}: "settings": {error}') from error
    check_tensors(f'{place}: "averages"', averages)
    for number, sample in enumerate(entry(place, state, "samples", list, type(None)) or []):
        check_tensors(f"{place}: sample {number}", sample)
    return state


def check_tensors(place: Any, values: Any) -> Dict[str, Tensor]:
    """
    # Returns

    values : `Dict[str, Tensor]`

    # Raises

    `ConfigurationError` : if `values` is not an object, or has a value that is not a tensor.
    """
    for name, value in check_kind(place, values, dict).items():
        if not (isinstance(name, str) and isinstance(value, Tensor)):
            raise ConfigurationError(
                f"{place} has a {type(value).__name__} for {name!r:.60}, but has to have a tensor"
            )
    return values
