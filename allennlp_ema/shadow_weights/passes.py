"""
One pass over tensors that moves the shadows of several members towards them, prepared once.
"""

from typing import AbstractSet, Dict, List, Optional, Sequence, Tuple

import torch
from torch import Tensor

from allennlp_ema.shadow_weights.blocks import blocks_of, scratch_for
from allennlp_ema.shadow_weights.forms import Forms
from allennlp_ema.shadow_weights.kernels import (
    copy_,
    has_foreach_lerp,
    lerp_,
    lerp_with_infinities_,
)
from allennlp_ema.shadow_weights.sharded import memory_of


class Member:
    """
    What a pass moves: shadows, and the tensors that they move towards.

    # Parameters

    sources : `Sequence[Tensor]`
    shadows : `Sequence[Tensor]`
        One for each source, of its shape.
    infinite : `AbstractSet[int]`
        The positions of shadows in which there is a value that is not finite.
    """

    def __init__(
        self, sources: Sequence[Tensor], shadows: Sequence[Tensor], infinite: AbstractSet[int]
    ) -> None:
        self.sources = sources
        self.shadows = shadows
        self.infinite = infinite


class Pass:
    """
    # Parameters

    members : `Sequence[Member]`
        Sources that several of them share are read once.
    memories : `Sequence[object]`, optional (default = `()`)
        Where the sources are that may be other tensors at the next update: see `memory_of`.
    """

    def __init__(self, members: Sequence[Member], memories: Sequence[object] = ()) -> None:
        self._infinite = [member.infinite for member in members]
        self._memories = memories
        rows: Dict[object, Tuple[Tensor, Dict[int, Tensor], bool]] = {}
        for number, member in enumerate(members):
            for index, (source, shadow) in enumerate(zip(member.sources, member.shadows)):
                has_infinities = any(index in each.infinite for each in members)
                key: object = (memory_of(source), shadow.device)
                # Parameters that were tied after they had got a shadow each.
                while key in rows and number in rows[key][1]:
                    key = (key, number)
                rows.setdefault(key, (source, {}, has_infinities))[1][number] = shadow
        groups: Dict[object, List[Tuple[Tensor, Dict[int, Tensor], bool]]] = {}
        for row in rows.values():
            source, shadows, has_infinities = row
            dtypes = tuple((number, shadow.dtype) for number, shadow in shadows.items())
            shadow_device = next(iter(shadows.values())).device
            group_key = (source.device, source.dtype, shadow_device, dtypes, has_infinities)
            groups.setdefault(group_key, []).append(row)
        self._groups = [
            _Group(
                members=list(group[0][1]),
                sources=[source for source, _, _ in group],
                shadows=[list(shadows.values()) for _, shadows, _ in group],
                has_infinities=group[0][2],
            )
            for group in groups.values()
        ]
        self._deferred: Optional[Sequence[float]] = None

    def is_stale(self, infinite: Sequence[AbstractSet[int]], memories: Sequence[object]) -> bool:
        """
        Whether a source has another form or place by now than it had when this was prepared, or the
        members have other infinities.
        """
        if infinite != self._infinite or memories != self._memories:
            return True
        return any([group.is_stale() for group in self._groups])

    def run(self, weights: Sequence[float]) -> bool:
        """Moves the shadows. Returns whether a part of it is left to `flush`."""
        # It is `no_grad` with less work at each tensor, which counts in small models.
        with torch.inference_mode():
            for group in self._groups:
                if group.staged is None:
                    group.lerp(weights)
                else:
                    group.stage()
                    # The copy to the host is on its way; what it needs there is done when it is
                    # needed, so that neither side waits for the other.
                    self._deferred = weights
        return self._deferred is not None

    def flush(self) -> None:
        weights, self._deferred = self._deferred, None
        if weights is not None:
            with torch.inference_mode():
                for group in self._groups:
                    if group.staged is not None:
                        group.staged.synchronize()
                        group.lerp(weights)


class _Group:
    """
    Sources of one device and dtype, and the shadows of the members that follow them.

    members : positions of the members, for their weights
    sources : one for each tensor
    shadows : for each tensor one for each member, all on one device
    """

    def __init__(
        self,
        members: List[int],
        sources: List[Tensor],
        shadows: List[List[Tensor]],
        has_infinities: bool,
    ) -> None:
        self._sources = sources
        self._forms = Forms(sources)
        self._addresses = [source.data_ptr() for source in sources]
        self._lerp_ = lerp_with_infinities_ if has_infinities else lerp_
        self.staged: Optional[torch.cuda.Event] = None
        first_source, first_shadows = sources[0], shadows[0]
        if first_source.device != first_shadows[0].device:
            self._staging = [new_like(s, s.dtype, first_shadows[0].device) for s in sources]
            self.staged = torch.cuda.Event()
            sources = self._staging
        needs_blocks = (
            len(members) > 1
            or first_source.dtype != first_shadows[0].dtype
            or not has_foreach_lerp()
            or has_infinities
        )
        # Without blocks the sources are the parameters themselves, wherever their data is moved.
        self._is_direct = self.staged is None and not needs_blocks
        if not self._is_direct:
            sources = [source.detach() for source in sources]
        rows = [[source, *row] for source, row in zip(sources, shadows)]
        blocks = list(blocks_of(rows)) if needs_blocks else [[list(each) for each in zip(*rows)]]
        # What follows are columns: lists with an entry, the tensors, for each block.
        self._block_sources, *shadow_columns = (list(column) for column in zip(*blocks))
        towards = {first_source.dtype: self._block_sources}
        for shadow in first_shadows:
            if shadow.dtype not in towards:
                towards[shadow.dtype] = scratch_for(self._block_sources, shadow)
        self._converted = list(towards.values())[1:]
        self._moves = [
            (member, column, towards[shadow.dtype])
            for member, column, shadow in zip(members, shadow_columns, first_shadows)
        ]

    def is_stale(self) -> bool:
        if self._forms.have_changed():
            return True
        if self._is_direct:
            return False
        # Blocks were cut from where the sources were.
        return self._addresses != [source.data_ptr() for source in self._sources]

    def stage(self) -> None:
        copy_(self._staging, self._sources, non_blocking=True)
        assert self.staged is not None
        # Not on the current device's stream, which may be another device's.
        self.staged.record(torch.cuda.current_stream(self._sources[0].device))

    def lerp(self, weights: Sequence[float]) -> None:
        for block, sources in enumerate(self._block_sources):
            for scratch in self._converted:
                copy_(scratch[block], sources)
            for member, shadows, towards in self._moves:
                weight = weights[member]
                if weight:
                    lerp = self._lerp_ if weight < 1.0 else lerp_
                    lerp(shadows[block], towards[block], weight)


def new_like(tensor: Tensor, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A copy of `tensor`, in pinned memory if it is that of a CUDA tensor on the CPU."""
    # Within inference mode too it has to be a tensor that can be changed outside of it.
    with torch.inference_mode(False), torch.no_grad():
        copy = torch.empty_like(
            tensor,
            dtype=dtype,
            device=device,
            pin_memory=tensor.is_cuda and device.type == "cpu",
            requires_grad=False,
        )
        return copy.copy_(tensor)
