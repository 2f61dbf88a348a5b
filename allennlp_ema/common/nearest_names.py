"""
Suggestions for misspelt names.
"""

import difflib
from typing import Any, Iterable, Optional


def nearest_name(name: Any, known: Iterable[Any]) -> Optional[str]:
    """
    # Returns

    nearest : `Optional[str]`
        The string in `known` whose spelling is nearest to `name`. `None` if none is near.
    """
    if not isinstance(name, str):
        return None
    by_spelling = {each.lower(): each for each in known if isinstance(each, str)}
    # A lower cutoff would take "gpu" for a misspelt "cpu".
    found = difflib.get_close_matches(name.lower(), by_spelling, n=1, cutoff=0.7)
    return by_spelling[found[0]] if found else None


def did_you_mean(name: Any, known: Iterable[Any]) -> str:
    """
    # Returns

    ending : `str`
        A question that suggests the nearest of the `known` names, for the end of an error message.
        Empty if there is none.
    """
    nearest = nearest_name(name, known)
    return "" if nearest is None else f'; did you mean "{nearest}"?'
