"""
Checks of documents that are read from files. Each error is one line that names the place.
"""

import contextlib
import json
import math
from typing import Any, Dict, Iterator, Union

from allennlp.common.checks import ConfigurationError

_NAMES = {
    bool: "true or false",
    dict: "an object",
    float: "a finite number",
    int: "an integer",
    list: "a list",
    str: "a string",
    type(None): "null",
}

# Deeper than any real configuration, and far below Python's recursion limit.
_MAX_DEPTH = 100


def read_json(place: Any, text: Union[str, bytes]) -> Any:
    """
    # Parameters

    place : `Any`
        Where the text stands, for messages.
    text : `Union[str, bytes]`

    # Raises

    `ConfigurationError` : if the text is not JSON, or nested too deeply.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{place} is truncated or not JSON: {error}") from error
    check_depth(place, document)
    return document


def check_depth(place: Any, document: Any) -> None:
    """
    # Raises

    `ConfigurationError` : if `document` is nested so deeply that a recursion over it may fail.
    """
    level, depth = [document], 0
    while level:
        depth += 1
        if depth > _MAX_DEPTH:
            raise ConfigurationError(f"{place} is nested more than {_MAX_DEPTH} levels deep")
        level = [
            inner
            for each in level
            if isinstance(each, (dict, list))
            for inner in (each.values() if isinstance(each, dict) else each)
        ]


def check_kind(place: Any, value: Any, *kinds: type) -> Any:
    """
    Returns `value` if it is of one of `kinds`. For `float` it may be any finite number. For `str`
    all its characters have to be printable.

    # Raises

    `ConfigurationError` : if it is not.
    """
    if not any(_is_of(value, kind) for kind in kinds):
        allowed = " or ".join(_NAMES.get(kind, f"a {kind.__name__}") for kind in kinds)
        raise ConfigurationError(f"{place} is {value!r:.60}, but has to be {allowed}")
    return value


def entry(place: Any, document: Dict[str, Any], key: str, *kinds: type) -> Any:
    """
    Returns the value of `key` in `document` if it is of one of `kinds`, as `check_kind` does. A
    missing key counts as null.
    """
    if key not in document and type(None) not in kinds:
        raise ConfigurationError(f'{place} has no "{key}"')
    return check_kind(f'{place}: "{key}"', document.get(key), *kinds)


def check_range(place: Any, value: Any, minimum: float, maximum: float) -> Any:
    """
    Returns `value` if it is within the inclusive bounds.

    # Raises

    `ConfigurationError` : if it is not.
    """
    if not minimum <= value <= maximum:
        raise ConfigurationError(
            f"{place} is {value!r:.60}, but has to be within {minimum:g} and {maximum:g}"
        )
    return value


@contextlib.contextmanager
def explained(place: Any) -> Iterator[None]:
    """
    A context that adds the place to the message of an exception. Classes that are made from a
    file's content may raise anything, because users write such classes too.
    """
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:
        reason = (
            error.message
            if isinstance(error, ConfigurationError)
            else f"{type(error).__name__}: {error}"
        )
        raise ConfigurationError(f"{place}: {reason}") from error


def _is_of(value: Any, kind: type) -> bool:
    if kind in (int, float):
        is_number = isinstance(value, (int, kind)) and not isinstance(value, bool)
        return is_number and (kind is int or abs(value) < math.inf)
    return isinstance(value, kind) and (not isinstance(value, str) or value.isprintable())
