"""
The name that somebody meant who wrote another one.
"""

import difflib
from typing import Any, Iterable, Optional


def nearest_name(name: Any, known: Iterable[Any]) -> Optional[str]:
    """
    # Returns

    nearest : `Optional[str]`
        Of the strings in `known` that which is written most like `name`. `None` if none is much
        like it.
    """
    if not isinstance(name, str):
        return None
    by_spelling = {each.lower(): each for each in known if isinstance(each, str)}
    # Half of a short name is like that of many others: "gpu" is no misspelt "cpu".
    found = difflib.get_close_matches(name.lower(), by_spelling, n=1, cutoff=0.7)
    return by_spelling[found[0]] if found else None


def did_you_mean(name: Any, known: Iterable[Any]) -> str:
    """
    # Returns

    ending : `str`
        For a message that refuses `name`: the nearest of the `known` names, as a question. Empty if
        there is none.
    """
    nearest = nearest_name(name, known)
    return "" if nearest is None else f'; did you mean "{nearest}"?'
