"""
The exchange of values between parameters and shadows, whole or undone whatever is raised in it.
"""

from typing import Any, Collection, Dict, List, Optional, Sequence, Set

from torch import Tensor

from allennlp_ema.shadow_weights.blocks import blocks_of, scratch_for
from allennlp_ema.shadow_weights.kernels import copy_

# What a block is about to do, or has done. Each step can be done a second time, so that one that
# was interrupted is taken up again from where it is.
_RAW, _FILLING, _KEEPING, _FILLED, _EMPTYING, _GIVING_BACK = range(6)


class Swap:
    """
    Parameters that hold the values of shadows, and where their own values are meanwhile. A
    parameter and a shadow of one dtype change places through a small scratch; elsewhere, and for
    parameters that share a part of their memory, the parameter's own value is set aside.

    Nothing is allocated once values begin to move, and each block knows how far it has come: after
    an exception (Ctrl-C, say) `restore` brings the parameters' own values from wherever they are.

    # Parameters

    parameters : `Sequence[Tensor]`
    shadows : `Sequence[Tensor]`
        One for each parameter, of its shape.
    chosen : `Collection[int]`
        The positions of the parameters that take part.
    """

    def __init__(
        self, parameters: Sequence[Tensor], shadows: Sequence[Tensor], chosen: Collection[int]
    ) -> None:
        #: A copy is given its own.
        self.parameters = parameters
        self._shadows = shadows
        overlapping = _overlapping(parameters)
        # Where the values of the chosen parameters are while the shadows' are assigned.
        self._raw: Dict[int, Tensor] = {
            index: shadows[index]
            if shadows[index].dtype == parameters[index].dtype and index not in overlapping
            else parameters[index].data.clone()
            for index in sorted(chosen)
        }
        self._blocks: Optional[List[_Block]] = self._cut()

    def is_exchanged(self, index: int) -> bool:
        """Whether parameter and shadow `index` have changed places."""
        return self._raw.get(index) is self._shadows[index]

    def raw(self, index: int) -> Tensor:
        """Where the own value of parameter `index` is at present."""
        return self._raw.get(index, self.parameters[index].detach())

    def assign(self) -> None:
        """Gives the parameters the shadows' values."""
        # Nothing here asks for a gradient, and a context that an interrupt leaves open would last.
        for block in self._all_blocks():
            block.assign()
        for index in self._raw:
            if not self.is_exchanged(index):
                self.parameters[index].data.copy_(self._shadows[index])

    def restore(self) -> None:
        """Gives the parameters their own values again, bit for bit, also halfway through."""
        # From the end, so that a block that was interrupted is done with the scratch first.
        for block in reversed(self._all_blocks()):
            block.restore()
        for index, raw in self._raw.items():
            if not self.is_exchanged(index):
                self.parameters[index].data.copy_(raw)

    def _all_blocks(self) -> List["_Block"]:
        if self._blocks is None:
            # A copy: the values have changed places in whole.
            self._blocks = self._cut()
            for block in self._blocks:
                block.step = _FILLED
        return self._blocks

    def _cut(self) -> List["_Block"]:
        groups: Dict[object, List[List[Tensor]]] = {}
        for index, (parameter, shadow) in enumerate(zip(self.parameters, self._shadows)):
            if self.is_exchanged(index):
                key = (parameter.dtype, parameter.device, shadow.device)
                # `data` has a version of its own: a graph in which a parameter was used can go on
                # backwards when the parameter has its own value again.
                groups.setdefault(key, []).append([parameter.data, shadow])
        blocks: List[_Block] = []
        for rows in groups.values():
            columns = list(blocks_of(rows))
            scratch = scratch_for([parameters for parameters, _ in columns], rows[0][0])
            for (parameters, shadows), room in zip(columns, scratch):
                blocks.append(_Block(parameters, shadows, room))
        return blocks

    def __getstate__(self) -> Dict[str, Any]:
        # Blocks are views, which a copy cuts out of tensors of its own.
        return {**vars(self), "_blocks": None}


class _Block:
    """Tensors that change places. `scratch` is shared with the other blocks."""

    def __init__(
        self, parameters: List[Tensor], shadows: List[Tensor], scratch: List[Tensor]
    ) -> None:
        self._parameters = parameters
        self._shadows = shadows
        self._scratch = scratch
        self.step = _RAW

    def assign(self) -> None:
        copy_(self._scratch, self._parameters)
        self.step = _FILLING
        copy_(self._parameters, self._shadows)
        self.step = _KEEPING
        copy_(self._shadows, self._scratch)
        self.step = _FILLED

    def restore(self) -> None:
        if self.step == _FILLING:
            copy_(self._parameters, self._scratch)
            self.step = _RAW
        if self.step == _KEEPING:
            copy_(self._shadows, self._scratch)
            self.step = _FILLED
        if self.step == _FILLED:
            copy_(self._scratch, self._parameters)
            self.step = _EMPTYING
        if self.step == _EMPTYING:
            copy_(self._parameters, self._shadows)
            self.step = _GIVING_BACK
        if self.step == _GIVING_BACK:
            copy_(self._shadows, self._scratch)
            self.step = _RAW


def _overlapping(tensors: Sequence[Tensor]) -> Set[int]:
    """The positions of the tensors whose stretch of memory is not theirs alone."""
    overlapping: Set[int] = set()
    stretches = []
    for index, tensor in enumerate(tensors):
        if tensor.numel():
            length = 1 + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride()))
            start = tensor.data_ptr()
            end = start + length * tensor.element_size()
            stretches.append((str(tensor.device), start, end, index))
    reaching = ("", 0, 0, 0)
    for stretch in sorted(stretches):
        if stretch[0] == reaching[0] and stretch[1] < reaching[2]:
            overlapping |= {stretch[3], reaching[3]}
            reaching = max(reaching, stretch, key=lambda each: each[2])
        else:
            reaching = stretch
    return overlapping
