"""
Values that poison a mean: NaN, and infinite ones that are no constants.
"""

from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Optional, Tuple

import torch
from allennlp.common.checks import ConfigurationError
from torch import Tensor

# How many names one message has.
_MOST_NAMES = 3


class InfiniteConstants:
    """
    The infinite values that several files have alike (those of a mask, say), by name. Anything else
    that is not finite is refused.
    """

    def __init__(self) -> None:
        self._constants: Dict[str, Optional[Tensor]] = {}

    def check(self, path: Path, name: str, value: Any) -> None:
        """
        # Parameters

        path : `Path`
            Of the file, for messages.
        name : `str`
        value : `Any`
            What the file has under this name. Only floating-point and complex tensors count.

        # Raises

        `ConfigurationError` : if it has a NaN, or infinite values that are not those of the files
            before.
        """
        if not _is_averaged(value):
            return
        values = _stored(value)
        if values.isnan().any():
            raise ConfigurationError(f'{path}: "{name}" has a NaN, which no mean can do without')
        is_infinite = values.isinf()
        found = torch.where(is_infinite, values, torch.zeros_like(values))
        constant = found if is_infinite.any() else None
        before = self._constants.setdefault(name, constant)
        if (before is None) != (constant is None) or (
            before is not None and constant is not None and not torch.equal(before, constant)
        ):
            raise ConfigurationError(
                f'{path}: "{name}" is infinite where others are not, which no mean can do without'
            )

    def check_state(self, path: Path, state: Mapping[str, Any]) -> None:
        """The same of all that a file has."""
        for name, value in state.items():
            self.check(path, name, value)

    def restore(self, name: str, value: Tensor) -> None:
        """Puts the constants into `value`, in place."""
        constant = self._constants[name]
        if constant is not None:
            value.copy_(torch.where(constant.isinf(), constant.to(value.dtype), value))


def not_finite(values: Iterable[Tuple[str, Any]]) -> str:
    """Which of `values`, by name, hold NaN or infinity, in words; nothing if none does."""
    names: Dict[str, List[str]] = {"NaN": [], "infinity": []}
    for name, value in values:
        if _is_averaged(value):
            stored = _stored(value)
            for kind, found in (("NaN", stored.isnan()), ("infinity", stored.isinf())):
                if found.any():
                    names[kind].append(name)
    return "; ".join(
        f"{kind} in {', '.join(found[:_MOST_NAMES])}"
        + (f" and {len(found) - _MOST_NAMES:,} more" if len(found) > _MOST_NAMES else "")
        for kind, found in names.items()
        if found
    )


def _is_averaged(value: Any) -> bool:
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())


def _stored(value: Tensor) -> Tensor:
    return value.detach().coalesce().values() if value.is_sparse else value.detach()
