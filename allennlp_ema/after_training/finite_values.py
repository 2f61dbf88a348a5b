"""
Checks for values that spoil a mean: NaN, and infinities that differ between files.
"""

from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Optional, Tuple

import torch
from allennlp.common.checks import ConfigurationError
from torch import Tensor

# The largest number of names in one message.
_MAX_NAMES = 3


class InfiniteConstants:
    """
    Accepts infinite values that are the same in all files (those of a mask, for example), and keeps
    them by name. It refuses all other values that are not finite.
    """

    def __init__(self) -> None:
        self._constants: Dict[str, Optional[Tensor]] = {}

    def check(self, path: Path, name: str, value: Any) -> None:
        """
        # Parameters

        path : `Path`
            The file, for error messages.
        name : `str`
        value : `Any`
            The value of this name in the file. Only floating-point and complex tensors are checked.

        # Raises

        `ConfigurationError` : if the value has a NaN, or if its infinities differ from those in the
            earlier files.
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
        """Checks all values of a file."""
        for name, value in state.items():
            self.check(path, name, value)

    def restore(self, name: str, value: Tensor) -> None:
        """Puts the constants into `value`, in place."""
        constant = self._constants[name]
        if constant is not None:
            value.copy_(torch.where(constant.isinf(), constant.to(value.dtype), value))


def not_finite(values: Iterable[Tuple[str, Any]]) -> str:
    """A description of the `values` that hold NaN or infinity. Empty if none does."""
    names: Dict[str, List[str]] = {"NaN": [], "infinity": []}
    for name, value in values:
        if _is_averaged(value):
            stored = _stored(value)
            for kind, found in (("NaN", stored.isnan()), ("infinity", stored.isinf())):
                if found.any():
                    names[kind].append(name)
    return "; ".join(
        f"{kind} in {', '.join(found[:_MAX_NAMES])}"
        + (f" and {len(found) - _MAX_NAMES:,} more" if len(found) > _MAX_NAMES else "")
        for kind, found in names.items()
        if found
    )


def _is_averaged(value: Any) -> bool:
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())


def _stored(value: Tensor) -> Tensor:
    return value.detach().coalesce().values() if value.is_sparse else value.detach()
