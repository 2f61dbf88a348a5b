"""
Where the values of a tensor are: plain, complex, or sharded over several processes.
"""

import dataclasses
import gc
import sys
import weakref
from typing import Any, Iterator, List, Optional, Sequence, Tuple

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy


def is_plain(tensor: Tensor) -> bool:
    """Whether `own_values(tensor)` is the tensor itself."""
    return not (_is_sharded(tensor) or tensor.is_complex())


def local_part(tensor: Any) -> Tensor:
    """The tensor itself, or of a `DTensor` the part that is in this process; never a copy."""
    part: Tensor = tensor
    if _is_sharded(tensor):
        # With gradients there would be a node of autograd between the two.
        with torch.no_grad():
            part = tensor.to_local()
    return part


def own_values(tensor: Tensor) -> Tensor:
    """
    The real values of `tensor` that are in this process, never a copy. A complex tensor has two for
    each of its values, in a last dimension.
    """
    # Not `detach`, whose version is the tensor's: a graph can go on backwards after a swap.
    local = local_part(tensor).data
    return torch.view_as_real(local) if local.is_complex() else local


def in_form_of(parameter: Tensor, values: Tensor) -> Tensor:
    """
    The inverse of `own_values`, never a copy: a `DTensor` of the placements of `parameter` if that
    is one, complex if that is.
    """
    if is_plain(parameter):
        return values
    # What is made in inference mode is of no use outside.
    with torch.inference_mode(False), torch.no_grad():
        if parameter.is_complex():
            values = torch.view_as_complex(values)
        return _wrapped(parameter, values) if _is_sharded(parameter) else values


def own_values_for(parameter: Any, value: Any) -> Tensor:
    """
    Of `value`, which may be whole or in shards of any placements, the values that belong to
    `own_values(parameter)`. Only placements other than the parameter's take communication.
    """
    with torch.no_grad():
        if not _is_sharded(parameter):
            return own_values(value.full_tensor() if _is_sharded(value) else value)
        mesh, placements = parameter.device_mesh, parameter.placements
        if not _is_sharded(value):
            from torch.distributed.tensor import Replicate

            everywhere = [Replicate()] * mesh.ndim
            value = type(parameter).from_local(value, mesh, everywhere, run_check=False)
        if (value.device_mesh, value.placements) != (mesh, placements):
            value = value.redistribute(mesh, placements)
        return own_values(value)


def memory_of(tensor: Tensor) -> object:
    """What two tensors have in common if and only if they are the same values in memory."""
    local = local_part(tensor)
    # A tensor without an address is no other's.
    if local.numel() == 0 or local.data_ptr() == 0:
        return id(tensor)
    return (local.device, local.data_ptr(), local.dtype, local.shape, local.stride())


def obstacle(named_parameters: Sequence[Tuple[str, Tensor]]) -> Optional[str]:
    """
    # Returns

    obstacle : `Optional[str]`
        The first parameter that cannot be averaged, why, and what to do; `None` if all can be.
    """
    gathered = {id(parameter) for parameter in _gathered_parameters()}
    for name, parameter in named_parameters:
        reason = _GATHERED if id(parameter) in gathered else _obstacle(parameter)
        if reason is not None:
            return f'the parameter "{name}" {reason}'
    return None


_GATHERED = (
    "is what fully_shard has gathered for a forward pass: call reshard() of its module, and take "
    "named_parameters() after that, for the optimizer too"
)
_FLATTENED = (
    "is sharded by FullyShardedDataParallel, which keeps gathered parameters that averages would "
    "not reach: shard the model with FSDP2, torch.distributed.fsdp.fully_shard"
)


def _obstacle(parameter: Tensor) -> Optional[str]:
    exclude = 'name it in "exclude"'
    if is_lazy(parameter):
        return f"has no shape before the first forward pass: run one before, or {exclude}"
    if _is_flattened(parameter):
        return _FLATTENED
    local = local_part(parameter)
    if local.is_meta or type(local).__name__ == "FakeTensor":
        return f"is on the meta device and has no values: load them before, or {exclude}"
    if local.is_quantized or not (local.is_floating_point() or local.is_complex()):
        return (
            f"is of dtype {local.dtype}, but only floating and complex dtypes can be averaged: "
            + exclude
        )
    if local.layout != torch.strided or local.is_nested or local.is_conj():
        what = "a view of conjugates" if local.is_conj() else "sparse, nested or of another layout"
        return f"is {what}, but only dense tensors can be averaged: {exclude}"
    if hasattr(type(local), "__tensor_flatten__"):
        return f"is a {type(local).__name__}, whose values are in other tensors: {exclude}"
    return None


class GatheringModules:
    """
    The modules that gather sharded parameters, by FSDP2 or FairScale. They may keep what they have
    gathered for the next forward pass, where other values of the shards would not be seen.

    They are looked for when they are needed, because a parameter does not know them. A copy looks
    for its own.
    """

    def __init__(self) -> None:
        self._modules: Optional[List[weakref.ref[torch.nn.Module]]] = None

    def __reduce__(self) -> Any:
        return (GatheringModules, ())

    def reshard(self, parameters: Sequence[Tensor]) -> None:
        """
        Lets go what was gathered of `parameters`, the same ones at each call.

        # Raises

        `RuntimeError` : if they were sharded in a way in which this cannot be done.
        """
        if self._modules is None:
            self._modules = [weakref.ref(module) for module in _modules_that_gather(parameters)]
        for reference in self._modules:
            module: Any = reference()
            if hasattr(module, "reshard"):
                module.reshard()
                if not all(map(_is_sharded, module.parameters())):
                    # It does nothing after a forward pass that was broken off. This does.
                    module.state_dict()
            elif module is not None and module.has_full_params:
                module._free_full_params()


def _modules_that_gather(parameters: Sequence[Tensor]) -> Iterator[torch.nn.Module]:
    if any(map(_is_flattened, parameters)):
        raise RuntimeError(f"a parameter {_FLATTENED}")
    ours = {id(parameter) for parameter in parameters}
    if any(map(_is_sharded, parameters)):
        for module in _fsdp_modules():
            if any(id(param.sharded_param) in ours for param in _fsdp_params(module)):
                yield module
    # FairScale's mark.
    if any(hasattr(parameter, "_is_sharded") for parameter in parameters):
        for module in _instances_of(sys.modules["fairscale.nn"].FullyShardedDataParallel):
            if any(id(parameter) in ours for parameter in module.params):
                yield module


def _gathered_parameters() -> Iterator[Tensor]:
    for module in _fsdp_modules():
        for param in _fsdp_params(module):
            if hasattr(param, "_unsharded_param"):
                yield param._unsharded_param


def _fsdp_modules() -> List[Any]:
    cls = getattr(sys.modules.get("torch.distributed.fsdp"), "FSDPModule", None)
    # `fully_shard` makes a subclass for each kind of module, and needs other processes. Where there
    # is none of either, nothing is to be found by a search that may take a second.
    if cls is None or not cls.__subclasses__() or not torch.distributed.is_initialized():
        return []
    return _instances_of(cls)


def _instances_of(cls: Any) -> List[Any]:
    return [each for each in gc.get_objects() if issubclass(type(each), cls)]


def _fsdp_params(module: Any) -> List[Any]:
    """What an `FSDPModule` knows of each parameter that it gathers."""
    state = module._get_fsdp_state()
    if hasattr(state, "_fsdp_param_groups"):
        groups = state._fsdp_param_groups
    else:
        # Before torch 2.12.
        groups = [state._fsdp_param_group]
    return [param for group in groups if group is not None for param in group.fsdp_params]


def _is_sharded(tensor: Tensor) -> bool:
    # Of a `DTensor`, which not every torch has.
    return hasattr(tensor, "to_local")


def _is_flattened(parameter: Tensor) -> bool:
    cls = type(parameter)
    return (
        getattr(parameter, "_fsdp_flattened", False)
        or getattr(parameter, "_is_flat_param", False)
        or (cls.__name__ == "FlatParameter" and cls.__module__.startswith("torch."))
    )


def _wrapped(parameter: Any, local: Tensor) -> Tensor:
    meta = parameter._spec.tensor_meta._replace(dtype=local.dtype)
    spec = dataclasses.replace(parameter._spec, tensor_meta=meta)
    # `from_local` would copy what is on another device than the mesh, as with CPU offloading.
    wrapped: Tensor = type(parameter)(local, spec, requires_grad=False)
    return wrapped
