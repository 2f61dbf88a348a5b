"""
Checks of configuration values: each raises a `ConfigurationError` that names the key, the value and
what is allowed, because that line is all that a user of `allennlp train` gets to see.
"""

import math
import re
from typing import Any, Iterable, List, Optional, Sequence

from allennlp.common.checks import ConfigurationError

from allennlp_ema.common.json_values import written
from allennlp_ema.common.nearest_names import did_you_mean


def check_number(
    key: str,
    value: Any,
    minimum: Optional[float] = None,
    maximum: Optional[float] = None,
    above: Optional[float] = None,
    below: Optional[float] = None,
) -> float:
    """
    Returns `value` as a `float` if it is a finite number within the (inclusive) `minimum` and
    `maximum` and the (exclusive) bounds `above` and `below`.

    # Raises

    `ConfigurationError` : if it is not.
    """
    bounds = [
        f"{words} {bound:g}"
        for words, bound in (
            (">=", minimum),
            (">", above),
            ("<=", maximum),
            ("<", below),
        )
        if bound is not None
    ]
    allowed = "a finite number" + (" " + " and ".join(bounds) if bounds else "")
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not math.isfinite(value)
        or (minimum is not None and value < minimum)
        or (maximum is not None and value > maximum)
        or (above is not None and value <= above)
        or (below is not None and value >= below)
    ):
        raise ConfigurationError(f'"{key}" is {written(value)}, but has to be {allowed}')
    return float(value)


def check_integer(key: str, value: Any, minimum: int) -> int:
    """
    Returns `value` if it is an integer of at least `minimum`.

    # Raises

    `ConfigurationError` : if it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < minimum:
        raise ConfigurationError(
            f'"{key}" is {written(value)}, but has to be an integer >= {minimum}'
        )
    return value


def check_choice(key: str, value: Any, choices: Sequence[Any]) -> Any:
    """
    Returns `value` if it is one of `choices`.

    # Raises

    `ConfigurationError` : if it is not.
    """
    if value not in choices:
        listed = ", ".join(map(written, choices))
        raise ConfigurationError(
            f'"{key}" is {written(value)}, but has to be one of {listed}'
            f"{did_you_mean(value, choices)}"
        )
    return value


def matching_names(key: str, regex: Any, names: Iterable[str]) -> List[str]:
    """
    # Returns

    matching : `List[str]`
        The `names` in which `regex` is found (`re.search`).

    # Raises

    `ConfigurationError` : if `regex`, which stands in the list of `key`, is not a regular
        expression.
    """
    try:
        return [name for name in names if re.search(regex, name)]
    except (re.error, TypeError) as error:
        raise ConfigurationError(
            f'"{key}" has {regex!r}, which is not a regular expression: {error}'
        ) from None
