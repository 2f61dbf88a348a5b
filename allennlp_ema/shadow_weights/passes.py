"""
A pass: it moves the shadows of several members towards their sources. It is prepared only once.
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
    The shadows that a pass moves, and the source tensors that they move towards.

    # Parameters

    sources : `Sequence[Tensor]`
    shadows : `Sequence[Tensor]`
        One for each source, with the same shape.
    infinite : `AbstractSet[int]`
        The positions of the shadows that hold a value that is not finite.
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
        If several members share a source, the pass reads it once.
    memories : `Sequence[object]`, optional (default = `()`)
        The results of `memory_of` for sources that may be other tensors at the next update.
    """

    def __init__(self, members: Sequence[Member], memories: Sequence[object] = ()) -> None:
        self._infinite = [member.infinite for member in members]
        self._memories = memories
        rows: Dict[object, Tuple[Tensor, Dict[int, Tensor], bool]] = {}
        for number, member in enumerate(members):
            for index, (source, shadow) in enumerate(zip(member.sources, member.shadows)):
                has_infinities = any(index in each.infinite for each in members)
                key: object = (memory_of(source), shadow.device)
                # Parameters that were tied later share memory, but have a shadow each.
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
        Whether the pass has to be prepared again, because the form or the memory of a source has
        changed, or because other shadows have infinities.
        """
        if infinite != self._infinite or memories != self._memories:
            return True
        return any([group.is_stale() for group in self._groups])

    def run(self, weights: Sequence[float]) -> bool:
        """Moves the shadows. Returns whether `flush` has to finish the pass."""
        # Inference mode has less overhead per tensor than `no_grad`, which matters in small models.
        with torch.inference_mode():
            for group in self._groups:
                if group.staged is None:
                    group.lerp(weights)
                else:
                    group.stage()
                    # The copy to the host is still running. `flush` does the host's work later, so
                    # that neither host nor device waits now.
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
    Sources of one device and dtype, and the shadows that follow them.

    members : the positions of the members in the pass, which are those of their weights
    sources : the source tensors
    shadows : for each source one shadow for each member, all on one device
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
        # Without blocks the pass reads the sources themselves, so their data may move in memory.
        self._is_direct = self.staged is None and not needs_blocks
        if not self._is_direct:
            sources = [source.detach() for source in sources]
        rows = [[source, *row] for source, row in zip(sources, shadows)]
        blocks = list(blocks_of(rows)) if needs_blocks else [[list(each) for each in zip(*rows)]]
        # Each of the following columns has, for each block, the list of its tensors.
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
        # The blocks are views of the memory that the sources had.
        return self._addresses != [source.data_ptr() for source in self._sources]

    def stage(self) -> None:
        copy_(self._staging, self._sources, non_blocking=True)
        assert self.staged is not None
        # The sources' device may not be the current device, so its stream is named.
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
    """A copy of `tensor`. A CPU copy of a CUDA tensor is in pinned memory."""
    # A tensor made in inference mode could not be changed outside of it.
    with torch.inference_mode(False), torch.no_grad():
        copy = torch.empty_like(
            tensor,
            dtype=dtype,
            device=device,
            pin_memory=tensor.is_cuda and device.type == "cpu",
            requires_grad=False,
        )
        return copy.copy_(tensor)
