"""
An attribute of an object that is another one for a while.
"""

import contextlib
from typing import Any, Iterator


@contextlib.contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """
    A context in which `owner.name` is `value`. What was the class's own is so again, and nothing of
    it stays in the object to be copied with it.
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
