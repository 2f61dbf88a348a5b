"""
Shadow weights: tensors and nothing else. One in-place `lerp` towards the parameters, and one exact
exchange of values with them.
"""

from typing import Any, Dict, Iterable, Iterator, List, Optional, Sequence, Set, Tuple

import torch
from torch import Tensor

NamedTensor = Tuple[str, Tensor]

# How many values are worked on at a time where more than one kernel goes over them: few enough that
# they are still in the cache for the second one, enough that the overhead of a call does not count.
_CPU_BLOCK = 1 << 18
_CUDA_BLOCK = 1 << 22

_HAS_FOREACH_LERP = hasattr(torch, "_foreach_lerp_")
_HAS_FOREACH_COPY = hasattr(torch, "_foreach_copy_")


class ShadowWeights:
    """
    A second copy of named tensors (the parameters), which moves towards them or changes places with
    them.

    # Parameters

    named_parameters : `Iterable[Tuple[str, Tensor]]`
        The tensors to shadow, of any shape, device and floating dtype. Names of the same memory
        (tied parameters) share one shadow.
    dtype : `torch.dtype`, optional (default = `None`)
        The shadows' dtype. `None` means float32 for half-precision tensors, else the tensor's own.
    device : `torch.device`, optional (default = `None`)
        The shadows' device. `None` means beside the tensor. Shadows of CUDA tensors that are kept
        on the CPU are in pinned memory.
    keep_dtype : `bool`, optional (default = `False`)
        Each shadow has its tensor's own dtype: for copies rather than averages.
    """

    def __init__(
        self,
        named_parameters: Iterable[NamedTensor],
        dtype: Optional[torch.dtype] = None,
        device: Optional[torch.device] = None,
        keep_dtype: bool = False,
    ) -> None:
        self.parameters: List[Tensor] = []
        # Shadows of other tensors, which move with these and change places with them.
        self.followers: List[ShadowWeights] = []
        self._options: Dict[str, Any] = {"dtype": dtype, "device": device, "keep_dtype": keep_dtype}
        self._index: Dict[str, int] = {}
        self._named: List[NamedTensor] = []
        seen: Dict[object, int] = {}
        for name, parameter in named_parameters:
            # Exchanging the values of tied parameters twice would undo the exchange.
            index = seen.setdefault(_memory(parameter), len(self.parameters))
            if index == len(self.parameters):
                self.parameters.append(parameter)
            self._index[name] = index
            self._named.append((name, parameter))
        self.shadows: List[Tensor] = [
            _new_shadow(p, p.dtype if keep_dtype else _shadow_dtype(p, dtype), device)
            for p in self.parameters
        ]
        # Where the parameters' own values are while the shadows' are assigned.
        self._raw: Optional[List[Tensor]] = None
        self._passes: Dict[Tuple[int, ...], _Pass] = {}
        self._pending: Optional[_Pass] = None

    def add_follower(self, named_tensors: Iterable[NamedTensor]) -> "ShadowWeights":
        """
        # Returns

        follower : `ShadowWeights`
            Shadows of other tensors: they get each `update` and `lerp` with the same weight, are
            assigned and restored with these, and have names and values of their own.
        """
        follower = ShadowWeights(named_tensors, **self._options)
        self.followers.append(follower)
        return follower

    @property
    def is_assigned(self) -> bool:
        """Whether the parameters hold the shadows' values."""
        return self._raw is not None

    @property
    def num_values(self) -> int:
        """The number of values in all shadows."""
        return sum(shadow.numel() for shadow in self.shadows)

    @property
    def num_bytes(self) -> int:
        """The size of all shadows in bytes."""
        return sum(shadow.numel() * shadow.element_size() for shadow in self.shadows)

    @property
    def names(self) -> List[str]:
        """The parameters' names, in the order in which they were given."""
        return list(self._index)

    def name_of(self, parameter: Tensor) -> Optional[str]:
        """The (first) name of `parameter`, `None` if it has no shadow."""
        return next((name for name, each in self._named if each is parameter), None)

    def values(self) -> Dict[str, Tensor]:
        """
        # Returns

        values : `Dict[str, Tensor]`
            What the shadows hold, by name and never a copy. While it is assigned to parameters of
            the same dtype, these are the parameters' own tensors.
        """
        self._flush()
        return {name: self._place(index) for name, index in self._index.items()}

    def raw_values(self) -> Dict[str, Tensor]:
        """
        # Returns

        values : `Dict[str, Tensor]`
            The parameters' own values, by name and never a copy, wherever they are at present.
        """
        places = [p.detach() for p in self.parameters] if self._raw is None else self._raw
        return {name: places[index] for name, index in self._index.items()}

    def load(self, values: Dict[str, Tensor]) -> None:
        """Copies `values`, one for each name, to where the shadows' values are at present."""
        self._flush()
        with torch.no_grad():
            for name, index in self._index.items():
                self._place(index).copy_(values[name])
                if self.is_assigned:
                    self.parameters[index].copy_(values[name])

    def lerp(self, other: "ShadowWeights", weight: float) -> None:
        """
        `shadow += weight * (other - shadow)`, towards other shadows of the same parameters.
        """
        for shadow_weights in (self, other):
            shadow_weights._flush()
        _Pass([self], [other.shadows]).run([weight])
        for follower, other_follower in zip(self.followers, other.followers):
            follower.lerp(other_follower, weight)

    def assign(self) -> None:
        """
        Gives the parameters the shadows' values. Where both are of one dtype they change places
        through a small scratch; elsewhere, and for parameters that share a part of their memory,
        the parameters' own values are set aside.
        """
        assert self._raw is None
        for name, index in self._index.items():
            if self.parameters[index].shape != self.shadows[index].shape:
                # Before anything is changed: exchanged by half, raw weights would be lost.
                raise RuntimeError(
                    f'"{name}" has shape {tuple(self.parameters[index].shape)} by now, but its '
                    f"average has {tuple(self.shadows[index].shape)}"
                )
        self._flush()
        overlapping = _overlapping(self.parameters)
        with torch.no_grad():
            self._raw = [
                shadow
                if shadow.dtype == parameter.dtype and index not in overlapping
                else parameter.detach().clone()
                for index, (parameter, shadow) in enumerate(zip(self.parameters, self.shadows))
            ]
            for blocks in self._exchanged():
                _exchange(*blocks)
            for index, parameter in enumerate(self.parameters):
                if self._raw[index] is not self.shadows[index]:
                    parameter.copy_(self.shadows[index])
        for follower in self.followers:
            follower.assign()

    def restore(self) -> None:
        """Gives the parameters their own values again, bit for bit."""
        assert self._raw is not None
        with torch.no_grad():
            for blocks in self._exchanged():
                _exchange(*blocks)
            for index, parameter in enumerate(self.parameters):
                if self._raw[index] is not self.shadows[index]:
                    parameter.copy_(self._raw[index])
        self._raw = None
        for follower in reversed(self.followers):
            follower.restore()

    def _exchanged(self) -> List[List[List[Tensor]]]:
        assert self._raw is not None
        groups: Dict[object, List[List[Tensor]]] = {}
        for parameter, shadow, raw in zip(self.parameters, self.shadows, self._raw):
            if raw is shadow:
                key = (parameter.dtype, parameter.device, shadow.device)
                groups.setdefault(key, []).append([parameter.detach(), shadow])
        return [block for pairs in groups.values() for block in _blocks(pairs)]

    def _place(self, index: int) -> Tensor:
        if self._raw is not None and self._raw[index] is self.shadows[index]:
            return self.parameters[index].detach()
        return self.shadows[index]

    def _flush(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.flush()


def update(shadow_weights: Sequence[ShadowWeights], weights: Sequence[float]) -> None:
    """
    `shadow += weight * (parameter - shadow)`, for several shadow weights in one pass over the
    parameters that they share.

    # Parameters

    shadow_weights : `Sequence[ShadowWeights]`
    weights : `Sequence[float]`
        One for each, within [0, 1]. A weight of 1 copies; one of 0 leaves the shadows alone.
    """
    members: List[ShadowWeights] = []
    member_weights: List[float] = []
    for leader, weight in zip(shadow_weights, weights):
        for member in (leader, *leader.followers):
            members.append(member)
            member_weights.append(weight)
    if not any(member_weights):
        return
    for member in members:
        member._flush()
    passes = members[0]._passes
    key = tuple(map(id, members))
    current = passes.get(key)
    if current is None or current.is_stale():
        current = passes[key] = _Pass(members, [member.parameters for member in members])
    if current.run(member_weights):
        for member in members:
            member._pending = current


class _Pass:
    """
    One pass over source tensors that moves the shadows of several members, prepared once: tensors
    are grouped by device and dtype.
    """

    def __init__(
        self, members: Sequence[ShadowWeights], sources: Sequence[Sequence[Tensor]]
    ) -> None:
        # The first member keeps the pass, which keeps the others alive, but not the first: a cycle
        # would hold on to all shadows until the garbage is collected.
        self._others = members[1:]
        rows: Dict[object, Tuple[Tensor, Dict[int, Tensor]]] = {}
        for number, (member, member_sources) in enumerate(zip(members, sources)):
            for source, shadow in zip(member_sources, member.shadows):
                key: object = (_memory(source), shadow.device)
                # Parameters that were tied after they had got a shadow each.
                while key in rows and number in rows[key][1]:
                    key = (key, number)
                rows.setdefault(key, (source, {}))[1][number] = shadow
        groups: Dict[object, List[Tuple[Tensor, Dict[int, Tensor]]]] = {}
        for source, shadows in rows.values():
            dtypes = tuple((number, shadow.dtype) for number, shadow in shadows.items())
            shadow_device = next(iter(shadows.values())).device
            group_key = (source.device, source.dtype, shadow_device, dtypes)
            groups.setdefault(group_key, []).append((source, shadows))
        self._groups = [
            _Group(
                members=list(group[0][1]),
                sources=[source for source, _ in group],
                shadows=[list(shadows.values()) for _, shadows in group],
            )
            for group in groups.values()
        ]
        self._deferred: Optional[Sequence[float]] = None

    def is_stale(self) -> bool:
        return any(group.is_stale() for group in self._groups)

    def run(self, weights: Sequence[float]) -> bool:
        """Whether a part of it is left to `flush`."""
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
        self, members: List[int], sources: List[Tensor], shadows: List[List[Tensor]]
    ) -> None:
        self._sources = sources
        self._kind = (sources[0].dtype, sources[0].device)
        self._addresses = [source.data_ptr() for source in sources]
        self.staged: Optional[torch.cuda.Event] = None
        first_source, first_shadows = sources[0], shadows[0]
        if first_source.device != first_shadows[0].device:
            self._staging = [_new_shadow(s, s.dtype, first_shadows[0].device) for s in sources]
            self.staged = torch.cuda.Event()
            sources = self._staging
        needs_blocks = (
            len(members) > 1
            or first_source.dtype != first_shadows[0].dtype
            or not _HAS_FOREACH_LERP
        )
        # Without blocks the sources are the parameters themselves, wherever their data is moved.
        self._is_direct = self.staged is None and not needs_blocks
        if not self._is_direct:
            sources = [source.detach() for source in sources]
        rows = [[source, *row] for source, row in zip(sources, shadows)]
        blocks = _blocks(rows) if needs_blocks else [[list(column) for column in zip(*rows)]]
        # What follows are columns: lists with an entry, the tensors, for each block.
        self._block_sources, *shadow_columns = (list(column) for column in zip(*blocks))
        towards = {first_source.dtype: self._block_sources}
        for shadow in first_shadows:
            if shadow.dtype not in towards:
                towards[shadow.dtype] = _scratch(self._block_sources, shadow)
        self._converted = list(towards.values())[1:]
        self._moves = [
            (member, column, towards[shadow.dtype])
            for member, column, shadow in zip(members, shadow_columns, first_shadows)
        ]

    def is_stale(self) -> bool:
        """
        Whether the model was converted, or a source's memory is no longer where the blocks were cut
        from it.
        """
        first = self._sources[0]
        if self._is_direct:
            return (first.dtype, first.device) != self._kind
        return any(
            source.data_ptr() != address for source, address in zip(self._sources, self._addresses)
        )

    def stage(self) -> None:
        _copy_(self._staging, self._sources, non_blocking=True)
        assert self.staged is not None
        # Not on the current device's stream, which may be another device's.
        self.staged.record(torch.cuda.current_stream(self._sources[0].device))

    def lerp(self, weights: Sequence[float]) -> None:
        for block, sources in enumerate(self._block_sources):
            for scratch in self._converted:
                _copy_(scratch[block], sources)
            for member, shadows, towards in self._moves:
                if weights[member]:
                    _lerp_(shadows[block], towards[block], weights[member])


def _scratch(blocks: Sequence[Sequence[Tensor]], like: Tensor) -> List[List[Tensor]]:
    """Room for any one of `blocks` at a time, of the dtype and device of `like`."""
    sizes = [[tensor.numel() for tensor in block] for block in blocks]
    buffer = torch.empty(max(map(sum, sizes)), dtype=like.dtype, device=like.device)
    return [
        [part.view(t.shape) for part, t in zip(buffer[: sum(parts)].split(parts), block)]
        for parts, block in zip(sizes, blocks)
    ]


def _exchange(parameters: List[Tensor], shadows: List[Tensor]) -> None:
    aside = [parameter.clone() for parameter in parameters]
    _copy_(parameters, shadows)
    _copy_(shadows, aside)


def _lerp_(shadows: List[Tensor], towards: List[Tensor], weight: float) -> None:
    if weight == 1.0:
        _copy_(shadows, towards)
    elif _HAS_FOREACH_LERP:
        torch._foreach_lerp_(shadows, towards, weight)
    elif weight < 0.5:
        # What `lerp_` computes, which before torch 2 is not vectorized.
        torch._foreach_add_(shadows, torch._foreach_sub(towards, shadows), alpha=weight)
    else:
        for shadow, value in zip(shadows, towards):
            shadow.lerp_(value, weight)


def _copy_(targets: List[Tensor], sources: List[Tensor], non_blocking: bool = False) -> None:
    if _HAS_FOREACH_COPY:
        torch._foreach_copy_(targets, sources, non_blocking)
    else:
        for target, source in zip(targets, sources):
            target.copy_(source, non_blocking=non_blocking)


def _blocks(rows: Iterable[Sequence[Tensor]]) -> Iterator[List[List[Tensor]]]:
    """
    Cuts and packs rows of equally shaped tensors into blocks of about the same number of values.
    Each block has one list of tensors for each column.
    """
    block: List[Sequence[Tensor]] = []
    num_values = 0
    for row in rows:
        limit = _CUDA_BLOCK if row[0].is_cuda else _CPU_BLOCK
        for piece in _pieces(row, limit):
            if block and num_values + piece[0].numel() > limit:
                yield [list(column) for column in zip(*block)]
                block, num_values = [], 0
            block.append(piece)
            num_values += piece[0].numel()
    if block:
        yield [list(column) for column in zip(*block)]


def _pieces(row: Sequence[Tensor], limit: int) -> Iterator[Sequence[Tensor]]:
    if row[0].numel() <= limit or len({tensor.stride() for tensor in row}) > 1:
        yield row
        return
    flat = [_flat(tensor) for tensor in row]
    if any(tensor is None for tensor in flat):
        yield row
    else:
        yield from zip(*(tensor.split(limit) for tensor in flat if tensor is not None))


def _flat(tensor: Tensor) -> Optional[Tensor]:
    """A view of all values in the order of memory, `None` where there are gaps or overlaps."""
    order = sorted(range(tensor.dim()), key=tensor.stride, reverse=True)
    in_order = tensor.permute(order) if order else tensor
    return in_order.view(-1) if in_order.is_contiguous() else None


def _memory(tensor: Tensor) -> object:
    if tensor.numel() == 0:
        return id(tensor)
    return (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())


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


def _shadow_dtype(parameter: Tensor, dtype: Optional[torch.dtype]) -> torch.dtype:
    if dtype is not None:
        return dtype
    return torch.float32 if parameter.element_size() < 4 else parameter.dtype


def _new_shadow(tensor: Tensor, dtype: torch.dtype, device: Optional[torch.device]) -> Tensor:
    device = tensor.device if device is None else device
    shadow = torch.empty_like(
        tensor,
        dtype=dtype,
        device=device,
        pin_memory=tensor.is_cuda and device.type == "cpu",
        requires_grad=False,
    )
    with torch.no_grad():
        return shadow.copy_(tensor)
