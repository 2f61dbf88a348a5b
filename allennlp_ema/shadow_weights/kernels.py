"""
Kernels over lists of tensors, by torch's foreach functions where it has them.
"""

from typing import Dict, FrozenSet, List, Sequence

import torch
from torch import Tensor

_HAS_FOREACH_LERP = hasattr(torch, "_foreach_lerp_")
_HAS_FOREACH_COPY = hasattr(torch, "_foreach_copy_")


def has_foreach_lerp() -> bool:
    """Whether one kernel moves tensors in place, however many values they have."""
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
        # What `lerp_` computes, which before torch 2 is not vectorized.
        torch._foreach_add_(shadows, torch._foreach_sub(towards, shadows), alpha=weight)
    else:
        for shadow, value in zip(shadows, towards):
            shadow.lerp_(value, weight)


def lerp_with_infinities_(shadows: List[Tensor], towards: List[Tensor], weight: float) -> None:
    """The same, but an infinity that stays is no NaN: `inf + weight * (inf - inf)` would be."""
    for shadow, value in zip(shadows, towards):
        moved = shadow.lerp(value, weight)
        mixed = shadow * (1.0 - weight) + value * weight
        shadow.copy_(moved.where(moved.isfinite(), mixed))


def not_finite(tensors: Sequence[Tensor]) -> FrozenSet[int]:
    """
    The positions of tensors with a value that is not finite, or whose sum is not. Each device is
    asked once.
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
