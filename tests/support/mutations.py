"""
Well-formed documents with wrong content: each differs from a right document in one place.
"""

import copy
from typing import Any, Iterator, List, Tuple, Union

Place = List[Union[str, int]]

# One of each kind, and those that only look right.
WRONG = (None, 5, 10**30, float("nan"), "a.b", [], {"a": {}})


def mutations(document: Any) -> Iterator[Tuple[str, Any]]:
    """
    # Returns

    mutations : `Iterator[Tuple[str, Any]]`
        What was done, and the document with it.
    """
    for value in WRONG:
        yield f"all of it is {value!r}", value
    for place in _places(document):
        *path, last = place
        for value in WRONG:
            mutated = copy.deepcopy(document)
            _inner(mutated, path)[last] = value
            yield f"{place} is {value!r}", mutated
        mutated = copy.deepcopy(document)
        del _inner(mutated, path)[last]
        yield f"{place} is not there", mutated
        mutated = copy.deepcopy(document)
        _inner(mutated, path)[last] = {"wrapped": _inner(mutated, path)[last]}
        yield f"{place} is one level deeper", mutated


def _places(document: Any) -> Iterator[Place]:
    keys: List[Any] = []
    if isinstance(document, dict):
        keys = list(document)
    elif isinstance(document, list):
        keys = list(range(len(document)))
    for key in keys:
        yield [key]
        for place in _places(document[key]):
            yield [key, *place]


def _inner(document: Any, path: Place) -> Any:
    for key in path:
        document = document[key]
    return document
