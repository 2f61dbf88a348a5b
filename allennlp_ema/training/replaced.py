"""
The temporary replacement of an attribute of an object.
"""

import contextlib
from typing import Any, Iterator


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """
    A context in which `owner.name` is `value`. An attribute of the class is not left in the object
    afterwards, because it would be copied with the object.
    """
    own = dict(vars(owner))
    setattr(owner, name, value)
    try:
        yield
    finally:
        if name in own:
            setattr(owner, name, own[name])
        else:
            delattr(owner, name)
