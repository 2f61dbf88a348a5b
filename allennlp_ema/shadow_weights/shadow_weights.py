"""
Shadow weights: a second copy of tensors, with one `lerp` towards them and one exact swap.
"""

from typing import Any, Collection, Dict, FrozenSet, Iterable, List, Optional, Sequence, Tuple

import torch
from torch import Tensor

from allennlp_ema.shadow_weights.kernels import not_finite
from allennlp_ema.shadow_weights.overlap import Pending, run
from allennlp_ema.shadow_weights.passes import Member, Pass, new_like
from allennlp_ema.shadow_weights.sharded import (
    GatheringModules,
    is_plain,
    local_values,
    local_values_for,
    memory_of,
    wrapped_like,
)
from allennlp_ema.shadow_weights.swap import Swap

NamedTensor = Tuple[str, Tensor]


class ShadowWeights:
    """
    A second copy (the shadows) of named tensors (the parameters). Updates move the shadows towards
    the parameters. `assign` gives the shadows' values to the parameters, and `restore` gives the
    parameters their raw values again.

    # Parameters

    named_parameters : `Iterable[Tuple[str, Tensor]]`
        The tensors to shadow, of any shape, device and floating or complex dtype. Tied parameters
        (names of the same memory) share one shadow. For a `DTensor` each process shadows its local
        shard.
    dtype : `torch.dtype`, optional (default = `None`)
        The shadows' dtype. `None` means float32 for half-precision tensors, else the tensor's own.
    device : `torch.device`, optional (default = `None`)
        The shadows' device. `None` means the tensor's own. CPU shadows of CUDA tensors are pinned.
    keep_dtype : `bool`, optional (default = `False`)
        Whether each shadow has its tensor's own dtype. For exact copies rather than averages.
    overlaps : `bool`, optional (default = `False`)
        Whether updates run in the background. An optimizer's step and every access to the shadows
        wait for the update. Nothing else may write to the tensors before `wait`.
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
        # Shadows of other tensors, which are updated and swapped together with these.
        self.followers: List[ShadowWeights] = []
        self._options: Dict[str, Any] = {"dtype": dtype, "device": device, "keep_dtype": keep_dtype}
        self._index: Dict[str, int] = {}
        self._named: List[NamedTensor] = []
        seen: Dict[object, int] = {}
        for name, parameter in named_parameters:
            # A second swap of tied parameters would undo the first.
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
            for own in self.local_values
        ]
        self._swap: Optional[Swap] = None
        self._passes: Dict[Tuple[ShadowWeights, ...], Pass] = {}
        self._pending: Optional[Pending] = None
        # The positions of shadows with values that are not finite. `None` if they are not known.
        self._infinite: Optional[FrozenSet[int]] = None

    def add_follower(self, named_tensors: Iterable[NamedTensor]) -> "ShadowWeights":
        """
        # Returns

        follower : `ShadowWeights`
            Shadows of other tensors. Each `update` and `lerp` moves them with the same weight, and
            they are assigned and restored together with these. Their names and values are separate.
        """
        follower = ShadowWeights(named_tensors, **self._options)
        self.followers.append(follower)
        return follower

    @property
    def is_assigned(self) -> bool:
        """Whether the parameters hold the shadows' values."""
        return self._swap is not None

    @property
    def local_values(self) -> List[Tensor]:
        """The values that the shadows follow: for each parameter its `local_values`."""
        if self._is_plain:
            return self.parameters
        # The local tensor of a sharded parameter may be replaced, so it is looked up each time.
        return [local_values(parameter) for parameter in self.parameters]

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
        """The parameters' names, in the order of the constructor's argument."""
        return list(self._index)

    def name_of(self, parameter: Tensor) -> Optional[str]:
        """The (first) name of `parameter`. `None` if it has no shadow."""
        return next((name for name, each in self._named if each is parameter), None)

    def values(self) -> Dict[str, Tensor]:
        """
        # Returns

        values : `Dict[str, Tensor]`
            The shadows' values by name, without a copy. While they are assigned to parameters of
            the same dtype, these are the parameters' tensors.
        """
        self.wait()
        return self._by_name(self._places())

    def raw_values(self) -> Dict[str, Tensor]:
        """
        # Returns

        values : `Dict[str, Tensor]`
            The parameters' raw values by name, without a copy. While the shadows' values are
            assigned, the raw values are elsewhere, in the shadows for example.
        """
        swap = self._present_swap()
        if swap is None:
            return self._by_name([own.detach() for own in self.local_values])
        return self._by_name(list(map(swap.raw, range(len(self.shadows)))))

    def load(self, values: Dict[str, Tensor]) -> None:
        """Copies `values`, one for each name, into the shadows, and into assigned parameters."""
        self.wait()
        self._infinite = None
        swap = self._present_swap()
        with torch.no_grad():
            for name, index in self._index.items():
                value = local_values_for(self.parameters[index], values[name])
                if swap is None:
                    self.shadows[index].copy_(value)
                else:
                    swap.load(index, value)

    def lerp(self, other: "ShadowWeights", weight: float) -> None:
        """
        `shadow += weight * (other - shadow)`, for other shadows of the same parameters.
        """
        for shadow_weights in (self, other):
            shadow_weights.wait()
        # All shadows are treated as if they had infinities, to save the search for them.
        everything = frozenset(range(len(self.shadows)))
        self._infinite = None
        Pass([Member(other.shadows, self.shadows, everything)]).run([weight])
        for follower, other_follower in zip(self.followers, other.followers):
            follower.lerp(other_follower, weight)

    def assign(self, names: Optional[Collection[str]] = None) -> None:
        """
        Gives the shadows' values to the parameters of these names, or to all parameters and those
        of the followers. If an exception is raised, all parameters have their raw values again.
        """
        assert self._swap is None
        self._gathering_modules.reshard(self.parameters)
        # A wrong shape has to be found before the swap, because half a swap would lose raw weights.
        self.check_shapes()
        self.wait()
        try:
            chosen = {self._index[name] for name in (self._index if names is None else names)}
            # What is made in inference mode could not be changed by a `restore` outside of it.
            with torch.inference_mode(False):
                self._swap = Swap(self.local_values, self.shadows, chosen)
            self._swap.assign()
            for follower in self.followers if names is None else []:
                follower.assign()
        except BaseException:
            self._restore()
            raise

    def restore(self) -> None:
        """Gives the parameters their raw values again, bit for bit, even if it is interrupted."""
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
        swap = self._present_swap()
        if swap is not None:
            swap.restore()
            self._swap = None

    def keep_assigned(self) -> None:
        """
        Makes the assigned values the parameters' raw values, so that nothing is left to restore.
        """
        assert self._swap is not None
        with torch.no_grad():
            for shadow, place in zip(self.shadows, self._places()):
                if place is not shadow:
                    shadow.copy_(place)
        self._swap = None
        for follower in self.followers:
            if follower.is_assigned:
                follower.keep_assigned()

    def check_shapes(self) -> None:
        """
        # Raises

        `RuntimeError` : naming the parameter, if a parameter and its shadow differ in shape.
        """
        local_values = self.local_values
        for name, index in self._index.items():
            if local_values[index].shape != self.shadows[index].shape:
                raise RuntimeError(
                    f'"{name}" has shape {tuple(local_values[index].shape)} by now, but its '
                    f"average has {tuple(self.shadows[index].shape)}: build the average again "
                    "after a parameter was resized"
                )

    def _present_swap(self) -> Optional[Swap]:
        if self._swap is not None:
            # The local tensors of sharded parameters may be others by now, and a copy has its own.
            self._swap.parameters = self.local_values
        return self._swap

    def _places(self) -> List[Tensor]:
        """The tensors that hold the shadows' values at present."""
        swap = self._present_swap()
        return self.shadows if swap is None else list(map(swap.average, range(len(self.shadows))))

    def _infinite_before(self, weight: float) -> FrozenSet[int]:
        """The positions of shadows with infinities or NaN, if a `lerp` has to know them."""
        if weight == 1.0:
            # A copy may bring or remove infinities.
            self._infinite = None
        elif weight and self._infinite is None:
            self._infinite = not_finite(self.shadows)
        return self._infinite or frozenset()

    def _by_name(self, places: Sequence[Tensor]) -> Dict[str, Tensor]:
        if not self._is_plain:
            places = list(map(wrapped_like, self.parameters, places))
        return {name: places[index] for name, index in self._index.items()}

    def wait(self) -> None:
        """Waits for an update in the background. An exception from the update is raised here."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.flush()

    def __getstate__(self) -> Dict[str, Any]:
        # Prepared passes hold views of these tensors, so a copy has to prepare its own.
        self.wait()
        return {**vars(self), "_passes": {}}


def update(shadow_weights: Sequence[ShadowWeights], weights: Sequence[float]) -> None:
    """
    `shadow += weight * (parameter - shadow)`, for several shadow weights in one pass. Parameters
    that they share are read once.

    # Parameters

    shadow_weights : `Sequence[ShadowWeights]`
    weights : `Sequence[float]`
        One weight for each, within [0, 1]. 1 copies the parameters; 0 leaves the shadows alone.

    # Raises

    `RuntimeError` : naming the parameter, if a parameter and its shadow differ in shape. Nothing is
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
    # Sharded and complex parameters give new tensors for their local values each time.
    memories = [
        memory_of(source) for each in moved if not each._is_plain for source in each.local_values
    ]
    # The key leaves out the owner of the cache: a reference cycle would keep all shadows in memory
    # until the garbage collector runs.
    passes, key = moved[0]._passes, tuple(moved[1:])
    current = passes.get(key)
    if current is None or current.is_stale(infinite, memories):
        for each in moved:
            each.check_shapes()
        members = [
            Member(each.local_values, each.shadows, indices)
            for each, indices in zip(moved, infinite)
        ]
        current = passes[key] = Pass(members, memories)
    # Followers do not overlap, because the next forward pass may write to buffers.
    overlaps = all(each.overlaps for each in moved)
    pending = run(current, moved_by, moved[0].local_values[0].device if overlaps else None)
    for each in moved:
        each._pending = pending


def _shadow_dtype(parameter: Tensor, dtype: Optional[torch.dtype]) -> torch.dtype:
    if dtype is not None:
        return dtype
    return torch.float32 if parameter.element_size() < 4 else parameter.dtype
