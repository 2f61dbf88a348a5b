"""
Kernels over lists of tensors. They use torch's foreach functions where this torch has them.
"""

from typing import Dict, FrozenSet, List, Sequence

import torch
from torch import Tensor

_HAS_FOREACH_LERP = hasattr(torch, "_foreach_lerp_")
_HAS_FOREACH_COPY = hasattr(torch, "_foreach_copy_")


def has_foreach_lerp() -> bool:
    """Whether torch can move lists of tensors in place without temporary copies."""
    return _HAS_FOREACH_LERP


def copy_(targets: Sequence[Tensor], sources: Sequence[Tensor], non_blocking: bool = False) -> None:
    """`target = source`"""
    if _HAS_FOREACH_COPY:
        torch._foreach_copy_(list(targets), list(sources), non_blocking)
    else:
        for target, source in zip(targets, sources):
            target.copy_(source, non_blocking=non_blocking)


def lerp_(shadows: List[Tensor], towards: List[Tensor], weight: float) -> None:
    """`shadow += weight * (towards - shadow)`, for a weight within (0, 1]."""
    if weight == 1.0:
        copy_(shadows, towards)
    elif _HAS_FOREACH_LERP:
        torch._foreach_lerp_(shadows, towards, weight)
    elif weight < 0.5:
        # The same formula as `lerp_`, which is not vectorized before torch 2.
        torch._foreach_add_(shadows, torch._foreach_sub(towards, shadows), alpha=weight)
    else:
        for shadow, value in zip(shadows, towards):
            shadow.lerp_(value, weight)


def lerp_with_infinities_(shadows: List[Tensor], towards: List[Tensor], weight: float) -> None:
    """
    As `lerp_`, for tensors with infinities. An infinity that both have stays, where `lerp_` gives
    NaN, because `inf - inf` is NaN.
    """
    for shadow, value in zip(shadows, towards):
        moved = shadow.lerp(value, weight)
        mixed = shadow * (1.0 - weight) + value * weight
        shadow.copy_(moved.where(moved.isfinite(), mixed))


def not_finite(tensors: Sequence[Tensor]) -> FrozenSet[int]:
    """
    The positions of the tensors whose sum is not finite: all that have an infinity or NaN, and
    those whose sum overflows. The results are read once per device, because reading waits for it.
    """
    by_device: Dict[torch.device, List[int]] = {}
    for index, tensor in enumerate(tensors):
        by_device.setdefault(tensor.device, []).append(index)
    return frozenset(
        index
        for indices in by_device.values()
        for index, is_finite in zip(
            indices, torch.stack([tensors[index].sum().isfinite() for index in indices]).tolist()
        )
        if not is_finite
    )
