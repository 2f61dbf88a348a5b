"""
Checks of states of averages, which are parts of checkpoints, entry by entry.
"""

from typing import Any, Dict, Iterable

from allennlp.common.checks import ConfigurationError
from torch import Tensor

from allennlp_ema.averages.parameters import without_prefixes

STATE_VERSION = 1


def check_header(state_dict: Any, type_name: str) -> None:
    """
    # Raises

    `ConfigurationError` : if `state_dict` is not the state of an average of type `type_name`.
    """
    if not isinstance(state_dict, dict):
        raise ConfigurationError(
            f"the state of an average has to be a dictionary, but is a {type(state_dict).__name__}"
        )
    if state_dict.get("version") != STATE_VERSION:
        raise ConfigurationError(
            "this is not the state of a moving average that can be read here: its version is "
            f"{state_dict.get('version')!r}, not {STATE_VERSION}"
        )
    if state_dict.get("type") != type_name:
        raise ConfigurationError(
            f'the state is that of a moving average of type "{state_dict.get("type")}", which '
            f'one of type "{type_name}" cannot continue'
        )


def check_entries(
    what: str, given: Any, expected: Iterable[str], optional: Iterable[str] = ()
) -> None:
    """
    # Raises

    `ConfigurationError` : naming the missing or unknown entry.
    """
    if not isinstance(given, dict):
        raise ConfigurationError(
            f"the {what} of the average has to be a dictionary, but is a {type(given).__name__}"
        )
    expected = list(expected)
    for key in expected:
        if key not in given:
            raise ConfigurationError(f'the {what} of the average has no "{key}"')
    for key in given:
        if key not in expected and key not in optional:
            raise ConfigurationError(
                f'the {what} of the average has "{key}", but only {", ".join(expected)} are known'
            )


def matched(what: str, values: Any, expected: Dict[str, Tensor]) -> Dict[str, Tensor]:
    """
    # Returns

    values : `Dict[str, Tensor]`
        The values of the state under their names in `expected`. The prefixes of
        `DistributedDataParallel` and `torch.compile` do not matter.

    # Raises

    `ConfigurationError` : naming the entry that is missing, unexpected or misshapen.
    """
    if not isinstance(values, dict):
        raise ConfigurationError(
            f'the state\'s "{what}" has to be a dictionary, but is a {type(values).__name__}'
        )
    here = {without_prefixes(name): name for name in expected}
    there = {without_prefixes(str(name)): name for name in values}
    if len(here) != len(expected) or len(there) != len(values):
        here, there = {name: name for name in expected}, {name: name for name in values}
    for name in here:
        if name not in there:
            raise ConfigurationError(f'the state\'s "{what}" has no entry for "{here[name]}"')
    for name in there:
        if name not in here:
            raise ConfigurationError(
                f'the state\'s "{what}" has an entry "{there[name]}", which is not averaged here'
            )
    found = {here[name]: values[there[name]] for name in here}
    for name, value in found.items():
        if not isinstance(value, Tensor):
            raise ConfigurationError(
                f'the state\'s "{what}" has a {type(value).__name__} for "{name}", but has to '
                "have a tensor"
            )
        if value.is_complex() != expected[name].is_complex():
            raise ConfigurationError(
                f'the state\'s "{what}" is of dtype {value.dtype} for "{name}", whose '
                f"average is of {expected[name].dtype}"
            )
        if value.shape != expected[name].shape:
            raise ConfigurationError(
                f'the state\'s "{what}" has shape {tuple(value.shape)} for "{name}", whose '
                f"shape is {tuple(expected[name].shape)}"
            )
    return found


def copied(state: Any) -> Any:
    """A copy of a state that later updates and swaps do not change. Tied tensors stay tied."""
    copies: Dict[int, Tensor] = {}

    def copy(value: Any) -> Any:
        if isinstance(value, Tensor):
            if id(value) not in copies:
                copies[id(value)] = value.detach().clone()
            return copies[id(value)]
        if isinstance(value, dict):
            return {key: copy(each) for key, each in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)([copy(each) for each in value])
        return value

    return copy(state)
