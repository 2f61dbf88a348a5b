"""
Shadow weights: a second copy of tensors, one `lerp` towards them, one exact swap with them.
"""

from typing import (
    Any,
    Collection,
    Dict,
    FrozenSet,
    Iterable,
    List,
    Optional,
    Sequence,
    Tuple,
    Union,
)

import torch
from torch import Tensor

from allennlp_ema.shadow_weights.kernels import not_finite
from allennlp_ema.shadow_weights.overlap import HostPart, Overlap, can_overlap
from allennlp_ema.shadow_weights.passes import Member, Pass, new_like
from allennlp_ema.shadow_weights.sharded import (
    GatheringModules,
    in_form_of,
    is_plain,
    memory_of,
    own_values,
    own_values_for,
)
from allennlp_ema.shadow_weights.swap import Swap

NamedTensor = Tuple[str, Tensor]


class ShadowWeights:
    """
    A second copy of named tensors (the parameters), which moves towards them or changes places with
    them.

    # Parameters

    named_parameters : `Iterable[Tuple[str, Tensor]]`
        The tensors to shadow, of any shape, device and floating or complex dtype. Names of the same
        memory (tied parameters) share one shadow. Of a `DTensor` each process shadows its part.
    dtype : `torch.dtype`, optional (default = `None`)
        The shadows' dtype. `None` means float32 for half-precision tensors, else the tensor's own.
    device : `torch.device`, optional (default = `None`)
        The shadows' device. `None` means beside the tensor. Shadows of CUDA tensors that are kept
        on the CPU are in pinned memory.
    keep_dtype : `bool`, optional (default = `False`)
        Each shadow has its tensor's own dtype: for copies rather than averages.
    overlaps : `bool`, optional (default = `False`)
        An update runs beside what follows it, and is waited for before an optimizer takes a step
        and before the shadows are asked for. Nothing else may write to the tensors meanwhile.
    """

    def __init__(
        self,
        named_parameters: Iterable[NamedTensor],
        dtype: Optional[torch.dtype] = None,
        device: Optional[torch.device] = None,
        keep_dtype: bool = False,
        overlaps: bool = False,
    ) -> None:
        self.overlaps = overlaps
        self.parameters: List[Tensor] = []
        # Shadows of other tensors, which move with these and change places with them.
        self.followers: List[ShadowWeights] = []
        self._options: Dict[str, Any] = {"dtype": dtype, "device": device, "keep_dtype": keep_dtype}
        self._index: Dict[str, int] = {}
        self._named: List[NamedTensor] = []
        seen: Dict[object, int] = {}
        for name, parameter in named_parameters:
            # Exchanging the values of tied parameters twice would undo the exchange.
            index = seen.setdefault(memory_of(parameter), len(self.parameters))
            if index == len(self.parameters):
                self.parameters.append(parameter)
            self._index[name] = index
            self._named.append((name, parameter))
        self._is_plain = all(map(is_plain, self.parameters))
        self._gathering_modules = GatheringModules()
        self.shadows: List[Tensor] = [
            new_like(
                own,
                own.dtype if keep_dtype else _shadow_dtype(own, dtype),
                own.device if device is None else device,
            )
            for own in self.own_values
        ]
        self._swap: Optional[Swap] = None
        self._passes: Dict[Tuple[ShadowWeights, ...], Pass] = {}
        self._pending: Union[Overlap, HostPart, None] = None
        # Which shadows have values that are not finite, `None` when it is not known.
        self._infinite: Optional[FrozenSet[int]] = None

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
        return self._swap is not None

    @property
    def own_values(self) -> List[Tensor]:
        """What the shadows follow: the parameters' real values that are in this process."""
        if self._is_plain:
            return self.parameters
        # A sharded parameter may have got another tensor for its part.
        return [own_values(parameter) for parameter in self.parameters]

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
        self.wait()
        return self._by_name([self._place(index) for index in range(len(self.shadows))])

    def raw_values(self) -> Dict[str, Tensor]:
        """
        # Returns

        values : `Dict[str, Tensor]`
            The parameters' own values, by name and never a copy, wherever they are at present.
        """
        if self._swap is None:
            return self._by_name([own.detach() for own in self.own_values])
        return self._by_name(list(map(self._swap.raw, range(len(self.shadows)))))

    def load(self, values: Dict[str, Tensor]) -> None:
        """Copies `values`, one for each name, to where the shadows' values are at present."""
        self.wait()
        self._infinite = None
        with torch.no_grad():
            for name, index in self._index.items():
                parameter = self.parameters[index]
                value = own_values_for(parameter, values[name])
                self._place(index).copy_(value)
                if self.is_assigned:
                    own_values(parameter).copy_(value)

    def lerp(self, other: "ShadowWeights", weight: float) -> None:
        """
        `shadow += weight * (other - shadow)`, towards other shadows of the same parameters.
        """
        for shadow_weights in (self, other):
            shadow_weights.wait()
        # What is not finite stays what it is, without a look at all values.
        everything = frozenset(range(len(self.shadows)))
        self._infinite = None
        Pass([Member(other.shadows, self.shadows, everything)]).run([weight])
        for follower, other_follower in zip(self.followers, other.followers):
            follower.lerp(other_follower, weight)

    def assign(self, names: Optional[Collection[str]] = None) -> None:
        """
        Gives the parameters of these names the shadows' values, or all of them with the followers.
        If anything is raised, the parameters have their own values again.
        """
        assert self._swap is None
        self._gathering_modules.reshard(self.parameters)
        # Before anything is changed: exchanged by half, raw weights would be lost.
        self.check_shapes()
        self.wait()
        try:
            chosen = {self._index[name] for name in (self._index if names is None else names)}
            self._swap = Swap(self.own_values, self.shadows, chosen)
            self._swap.assign()
            for follower in self.followers if names is None else []:
                follower.assign()
        except BaseException:
            self._restore()
            raise

    def restore(self) -> None:
        """Gives the parameters their own values again, bit for bit, whatever is raised in it."""
        assert self._swap is not None
        self._gathering_modules.reshard(self.parameters)
        try:
            self._restore()
        except BaseException:
            self._restore()
            raise

    def _restore(self) -> None:
        for follower in reversed(self.followers):
            follower._restore()
        if self._swap is not None:
            self._swap.parameters = self.own_values
            self._swap.restore()
            self._swap = None

    def keep_assigned(self) -> None:
        """
        Makes the assigned values the parameters' own ones: nothing is left to restore.
        """
        assert self._swap is not None
        for index, shadow in enumerate(self.shadows):
            if self._swap.is_exchanged(index):
                with torch.no_grad():
                    shadow.copy_(self._place(index))
        self._swap = None
        for follower in self.followers:
            if follower.is_assigned:
                follower.keep_assigned()

    def check_shapes(self) -> None:
        """
        # Raises

        `RuntimeError` : naming the parameter, if one has another shape than its shadow.
        """
        own_values = self.own_values
        for name, index in self._index.items():
            if own_values[index].shape != self.shadows[index].shape:
                raise RuntimeError(
                    f'"{name}" has shape {tuple(own_values[index].shape)} by now, but its '
                    f"average has {tuple(self.shadows[index].shape)}: build the average again "
                    "after a parameter was resized"
                )

    def _place(self, index: int) -> Tensor:
        if self._swap is not None and self._swap.is_exchanged(index):
            return own_values(self.parameters[index])
        return self.shadows[index]

    def _infinite_before(self, weight: float) -> FrozenSet[int]:
        """The positions of shadows with values that are not finite, if `weight` has to know."""
        if weight == 1.0:
            # It copies, whatever the values are.
            self._infinite = None
        elif weight and self._infinite is None:
            self._infinite = not_finite(self.shadows)
        return self._infinite or frozenset()

    def _by_name(self, places: Sequence[Tensor]) -> Dict[str, Tensor]:
        if not self._is_plain:
            places = list(map(in_form_of, self.parameters, places))
        return {name: places[index] for name, index in self._index.items()}

    def wait(self) -> None:
        """Waits for an update that is under way. What was raised in it is raised here."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.flush()

    def __getstate__(self) -> Dict[str, Any]:
        # What was prepared from these tensors is no part of a copy.
        self.wait()
        return {**vars(self), "_passes": {}}


def update(shadow_weights: Sequence[ShadowWeights], weights: Sequence[float]) -> None:
    """
    `shadow += weight * (parameter - shadow)`, for several shadow weights in one pass over the
    parameters that they share.

    # Parameters

    shadow_weights : `Sequence[ShadowWeights]`
    weights : `Sequence[float]`
        One for each, within [0, 1]. A weight of 1 copies; one of 0 leaves the shadows alone.

    # Raises

    `RuntimeError` : naming the parameter, if one has another shape than its shadow. Nothing is
        changed then.
    """
    moved: List[ShadowWeights] = []
    moved_by: List[float] = []
    for leader, weight in zip(shadow_weights, weights):
        for each in (leader, *leader.followers):
            moved.append(each)
            moved_by.append(weight)
    if not any(moved_by):
        return
    for each in moved:
        each.wait()
    infinite = [each._infinite_before(weight) for each, weight in zip(moved, moved_by)]
    # Sharded and complex tensors have other tensors for their own values each time.
    memories = [
        memory_of(source) for each in moved if not each._is_plain for source in each.own_values
    ]
    # The first one keeps the pass, with the others as its key. As a part of the key, it would be in
    # a cycle that holds on to all shadows until the garbage is collected.
    passes, key = moved[0]._passes, tuple(moved[1:])
    current = passes.get(key)
    if current is None or current.is_stale(infinite, memories):
        for each in moved:
            each.check_shapes()
        members = [
            Member(each.own_values, each.shadows, indices) for each, indices in zip(moved, infinite)
        ]
        current = passes[key] = Pass(members, memories)
    # What follows may write to buffers, in a forward pass.
    if all(each.overlaps for each in moved) and can_overlap():
        pending: Any = Overlap(current, moved_by, moved[0].own_values[0].device)
    else:
        pending = HostPart(current) if current.run(moved_by) else None
    for each in moved:
        each._pending = pending


def _shadow_dtype(parameter: Tensor, dtype: Optional[torch.dtype]) -> torch.dtype:
    if dtype is not None:
        return dtype
    return torch.float32 if parameter.element_size() < 4 else parameter.dtype
