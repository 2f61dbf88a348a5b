"""
The forms of tensors (shape, strides, dtype, device), and a check whether they have changed.
"""

import importlib
from operator import attrgetter, methodcaller
from typing import Any, Callable, List, Optional, Sequence

from torch import Tensor

_PARTS: List[Callable[[Tensor], Any]] = [
    attrgetter("shape"),
    methodcaller("stride"),
    attrgetter("dtype"),
    attrgetter("device"),
]


class Forms:
    """
    Records the forms of tensors at its construction.

    # Parameters

    tensors : `Sequence[Tensor]`
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        self._tensors = tensors
        self._guards = _guards(tensors)
        self._forms = _forms(tensors) if self._guards is None else []

    def have_changed(self) -> bool:
        """
        Whether the form of a tensor has changed. Other changes, of `requires_grad` for example, may
        also give `True`.
        """
        if self._guards is not None:
            return not self._guards.check(*self._tensors)
        return self._forms != _forms(self._tensors)


def _forms(tensors: Sequence[Tensor]) -> List[List[Any]]:
    return [list(map(part, tensors)) for part in _PARTS]


def _guards(tensors: Sequence[Tensor]) -> Optional[Any]:
    """
    The guards of `torch.compile`. They compare all tensors in one call, which takes a fifth of
    Python's time for 400 tensors. They are internal to torch, so they may be missing (`None`).
    """
    try:
        guards: Any = importlib.import_module("torch._C._dynamo.guards")
        return guards.TensorGuards(
            *tensors,
            dynamic_dims_sizes=[list(each.shape) for each in tensors],
            dynamic_dims_strides=[list(each.stride()) for each in tensors],
        )
    except (ImportError, AttributeError, TypeError):
        return None
