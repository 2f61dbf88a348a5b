"""
The swap of values between parameters and shadows. An exception leaves it complete or undone.
"""

from typing import Any, Collection, Dict, List, Optional, Sequence, Set

import torch
from torch import Tensor

from allennlp_ema.shadow_weights.blocks import blocks_of, scratch_for
from allennlp_ema.shadow_weights.kernels import copy_

# How far the swap of a block has come. Each step can be repeated, so that `restore` can continue
# from a step that was interrupted.
(
    _RAW,
    _ASSIGNING_PARAMETERS,
    _ASSIGNING_SHADOWS,
    _SWAPPED,
    _RESTORING_PARAMETERS,
    _RESTORING_SHADOWS,
) = range(6)


class Swap:
    """
    Gives the shadows' values to the parameters, and keeps the parameters' raw values meanwhile. A
    parameter and a shadow of the same dtype are exchanged through a small scratch buffer. If the
    dtypes differ, or if parameters share a part of their memory, the raw value is copied instead.

    No memory is allocated after the first value has moved, and each block records how far it has
    come. So `restore` recovers the raw values after any exception, Ctrl-C for example.

    # Parameters

    parameters : `Sequence[Tensor]`
    shadows : `Sequence[Tensor]`
        One for each parameter, with the same shape.
    chosen : `Collection[int]`
        The positions of the parameters that take part.
    """

    def __init__(
        self, parameters: Sequence[Tensor], shadows: Sequence[Tensor], chosen: Collection[int]
    ) -> None:
        #: `ShadowWeights` sets these again before each use.
        self.parameters = parameters
        self._shadows = shadows
        overlapping = _overlapping(parameters)
        # The tensors that hold the raw values while the shadows' values are assigned.
        self._raw: Dict[int, Tensor] = {
            index: shadows[index]
            if shadows[index].dtype == parameters[index].dtype and index not in overlapping
            else parameters[index].data.clone()
            for index in sorted(chosen)
        }
        # The memory of the exchanged parameters. Meanwhile a parameter may be given another memory,
        # by `model.half()` for example.
        self._memories: Dict[int, Tensor] = {}
        self._blocks: Optional[List[_Block]] = self._cut()

    def is_exchanged(self, index: int) -> bool:
        """Whether parameter `index` is exchanged with its shadow, and not copied."""
        return self._raw.get(index) is self._shadows[index]

    def raw(self, index: int) -> Tensor:
        """The tensor that holds the raw value of parameter `index` at present."""
        return self._raw.get(index, self.parameters[index].detach())

    def average(self, index: int) -> Tensor:
        """The tensor that holds the value of shadow `index` at present."""
        self._all_blocks()
        return self._memories.get(index, self._shadows[index])

    def load(self, index: int, value: Tensor) -> None:
        """Changes the value of shadow `index`, and of the parameter that it is assigned to."""
        self.average(index).copy_(value)
        if index in self._raw:
            self.parameters[index].data.copy_(value)
            torch.clear_autocast_cache()

    def assign(self) -> None:
        """Gives the parameters the shadows' values."""
        # No tensor here requires a gradient, so `no_grad` is not needed. An interrupt could leave
        # that context open.
        for block in self._all_blocks():
            block.assign()
        for index in self._raw:
            if not self.is_exchanged(index):
                self.parameters[index].data.copy_(self._shadows[index])
        # Within `torch.autocast` the model would go on with half-precision copies of raw values.
        torch.clear_autocast_cache()

    def restore(self) -> None:
        """Gives the parameters their raw values again, bit for bit, after half a swap too."""
        # In reverse order: an interrupted block still needs the shared scratch buffer.
        for block in reversed(self._all_blocks()):
            block.restore()
        # The blocks bring raw values to the memory that the parameters had.
        for index, raw in self._raw.items():
            raw = self._memories.get(index, raw)
            if raw.data_ptr() != self.parameters[index].data_ptr():
                self.parameters[index].data.copy_(raw)
        torch.clear_autocast_cache()

    def _all_blocks(self) -> List["_Block"]:
        if self._blocks is None:
            # Only a copy has no blocks, and it is made while the swap is complete.
            self._blocks = self._cut()
            for block in self._blocks:
                block.step = _SWAPPED
        return self._blocks

    def _cut(self) -> List["_Block"]:
        groups: Dict[object, List[List[Tensor]]] = {}
        for index, (parameter, shadow) in enumerate(zip(self.parameters, self._shadows)):
            if self.is_exchanged(index):
                # `data` has its own version counter, so that backward works after `restore` for a
                # graph that used the parameter before.
                memory = self._memories[index] = parameter.data
                key = (parameter.dtype, parameter.device, shadow.device)
                groups.setdefault(key, []).append([memory, shadow])
        blocks: List[_Block] = []
        for rows in groups.values():
            columns = list(blocks_of(rows))
            scratch = scratch_for([parameters for parameters, _ in columns], rows[0][0])
            for (parameters, shadows), block_scratch in zip(columns, scratch):
                blocks.append(_Block(parameters, shadows, block_scratch))
        return blocks

    def __getstate__(self) -> Dict[str, Any]:
        # Blocks are views of these tensors, so a copy has to make its own.
        return {**vars(self), "_memories": {}, "_blocks": None}


class _Block:
    """Tensors to exchange. All blocks share `scratch`."""

    def __init__(
        self, parameters: List[Tensor], shadows: List[Tensor], scratch: List[Tensor]
    ) -> None:
        self._parameters = parameters
        self._shadows = shadows
        self._scratch = scratch
        self.step = _RAW

    def assign(self) -> None:
        copy_(self._scratch, self._parameters)
        self.step = _ASSIGNING_PARAMETERS
        copy_(self._parameters, self._shadows)
        self.step = _ASSIGNING_SHADOWS
        copy_(self._shadows, self._scratch)
        self.step = _SWAPPED

    def restore(self) -> None:
        if self.step == _ASSIGNING_PARAMETERS:
            copy_(self._parameters, self._scratch)
            self.step = _RAW
        if self.step == _ASSIGNING_SHADOWS:
            copy_(self._shadows, self._scratch)
            self.step = _SWAPPED
        if self.step == _SWAPPED:
            copy_(self._scratch, self._parameters)
            self.step = _RESTORING_PARAMETERS
        if self.step == _RESTORING_PARAMETERS:
            copy_(self._parameters, self._shadows)
            self.step = _RESTORING_SHADOWS
        if self.step == _RESTORING_SHADOWS:
            copy_(self._shadows, self._scratch)
            self.step = _RAW


def _overlapping(tensors: Sequence[Tensor]) -> Set[int]:
    """The positions of the tensors whose memory range overlaps with that of another tensor."""
    overlapping: Set[int] = set()
    ranges = []
    for index, tensor in enumerate(tensors):
        if tensor.numel():
            length = 1 + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride()))
            start = tensor.data_ptr()
            end = start + length * tensor.element_size()
            ranges.append((str(tensor.device), start, end, index))
    furthest = ("", 0, 0, 0)
    for memory_range in sorted(ranges):
        if memory_range[0] == furthest[0] and memory_range[1] < furthest[2]:
            overlapping |= {memory_range[3], furthest[3]}
            furthest = max(furthest, memory_range, key=lambda each: each[2])
        else:
            furthest = memory_range
    return overlapping
