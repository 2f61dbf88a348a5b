"""
The local values of a tensor, which may be plain, complex, or sharded over several processes.
"""

import dataclasses
import gc
import sys
import weakref
from typing import Any, Iterator, List, Optional, Sequence, Tuple

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy


def is_sharded(value: Any) -> bool:
    """Whether `value` is a `DTensor`."""
    # Not every supported torch has `DTensor`, so its method identifies it.
    return hasattr(value, "to_local")


def is_plain(tensor: Tensor) -> bool:
    """Whether `tensor` is neither complex nor sharded, so that it needs no `local_values`."""
    return not (is_sharded(tensor) or tensor.is_complex())


def local_part(tensor: Any) -> Tensor:
    """The local shard of a `DTensor`, or else the tensor itself. It is never a copy."""
    part: Tensor = tensor
    if is_sharded(tensor):
        # With gradients enabled, `to_local` would add a node to the autograd graph.
        with torch.no_grad():
            part = tensor.to_local()
    return part


def whole(tensor: Any) -> Tensor:
    """
    All values of a `DTensor`, or else the tensor itself. All processes have to call it together.
    """
    all_of_it: Tensor = tensor
    if is_sharded(tensor):
        with torch.no_grad():
            # Next to GPUs, shards in host memory cannot be gathered where they are.
            all_of_it = tensor.to(tensor.device_mesh.device_type).full_tensor()
    return all_of_it


def local_values(tensor: Tensor) -> Tensor:
    """
    The real values of `tensor` that are in this process, without a copy. For a complex tensor the
    real and the imaginary parts are in an additional last dimension.
    """
    # `detach` would share the version counter, and then backward would fail after a swap.
    local = local_part(tensor).data
    return torch.view_as_real(local) if local.is_complex() else local


def wrapped_like(parameter: Tensor, values: Tensor) -> Tensor:
    """
    The inverse of `local_values`, without a copy. The result is a `DTensor` with the placements of
    `parameter` if `parameter` is a `DTensor`, and complex if `parameter` is complex.
    """
    if is_plain(parameter):
        return values
    # A tensor made in inference mode could not be changed outside of it.
    with torch.inference_mode(False), torch.no_grad():
        if parameter.is_complex():
            values = torch.view_as_complex(values)
        return _as_dtensor(parameter, values) if is_sharded(parameter) else values


def local_values_for(parameter: Any, value: Any) -> Tensor:
    """
    The values in `value` that correspond to `local_values(parameter)`. `value` may be whole or a
    `DTensor` of any placements. Processes communicate only if its placements are not those of
    `parameter`.
    """
    with torch.no_grad():
        if not is_sharded(parameter):
            return local_values(whole(value))
        mesh, placements = parameter.device_mesh, parameter.placements
        if not is_sharded(value):
            from torch.distributed.tensor import Replicate

            everywhere = [Replicate()] * mesh.ndim
            value = type(parameter).from_local(value, mesh, everywhere, run_check=False)
        if (value.device_mesh, value.placements) != (mesh, placements):
            value = value.redistribute(mesh, placements)
        return local_values(value)


def memory_of(tensor: Tensor) -> object:
    """A key that is equal for two tensors if and only if they are the same values in memory."""
    local = local_part(tensor)
    # Tensors without an address share no memory, so each has its own key.
    if local.numel() == 0 or local.data_ptr() == 0:
        return id(tensor)
    return (local.device, local.data_ptr(), local.dtype, local.shape, local.stride())


def obstacle(named_parameters: Sequence[Tuple[str, Tensor]]) -> Optional[str]:
    """
    # Returns

    obstacle : `Optional[str]`
        The first parameter that cannot be averaged, the reason, and what to do. `None` if all can
        be averaged.
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
    The modules that gather sharded parameters, of FSDP2 or FairScale. They may keep gathered
    parameters for the next forward pass, which would then not see new values of the shards.

    A parameter has no reference to its module, so the modules are searched for when they are needed
    first. A copy of this object searches again.
    """

    def __init__(self) -> None:
        self._modules: Optional[List[weakref.ref[torch.nn.Module]]] = None

    def __reduce__(self) -> Any:
        return (GatheringModules, ())

    def reshard(self, parameters: Sequence[Tensor]) -> None:
        """
        Frees gathered copies of `parameters`. Each call has to have the same parameters.

        # Raises

        `RuntimeError` : if `FullyShardedDataParallel` has flattened a parameter.
        """
        if self._modules is None:
            self._modules = [weakref.ref(module) for module in _modules_that_gather(parameters)]
        for reference in self._modules:
            module: Any = reference()
            if hasattr(module, "reshard"):
                module.reshard()
                if not all(map(is_sharded, module.parameters())):
                    # After an interrupted forward pass only `state_dict` reshards.
                    module.state_dict()
            elif module is not None and module.has_full_params:
                module._free_full_params()


def _modules_that_gather(parameters: Sequence[Tensor]) -> Iterator[torch.nn.Module]:
    if any(map(_is_flattened, parameters)):
        raise RuntimeError(f"a parameter {_FLATTENED}")
    ours = {id(parameter) for parameter in parameters}
    if any(map(is_sharded, parameters)):
        for module in _fsdp_modules():
            if any(id(param.sharded_param) in ours for param in _fsdp_params(module)):
                yield module
    # FairScale sets this attribute on its parameters.
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
    # `fully_shard` makes a subclass for each kind of module and needs a process group. Without both
    # there are no such modules, and the search, which may take a second, is skipped.
    if cls is None or not cls.__subclasses__() or not torch.distributed.is_initialized():
        return []
    return _instances_of(cls)


def _instances_of(cls: Any) -> List[Any]:
    return [each for each in gc.get_objects() if issubclass(type(each), cls)]


def _fsdp_params(module: Any) -> List[Any]:
    """The records of an `FSDPModule` of the parameters that it gathers."""
    state = module._get_fsdp_state()
    if hasattr(state, "_fsdp_param_groups"):
        groups = state._fsdp_param_groups
    else:
        # torch before 2.12 has one group.
        groups = [state._fsdp_param_group]
    return [param for group in groups if group is not None for param in group.fsdp_params]


def _is_flattened(parameter: Tensor) -> bool:
    cls = type(parameter)
    return (
        getattr(parameter, "_fsdp_flattened", False)
        or getattr(parameter, "_is_flat_param", False)
        or (cls.__name__ == "FlatParameter" and cls.__module__.startswith("torch."))
    )


def _as_dtensor(parameter: Any, local: Tensor) -> Tensor:
    meta = parameter._spec.tensor_meta._replace(dtype=local.dtype)
    spec = dataclasses.replace(parameter._spec, tensor_meta=meta)
    # With CPU offloading, `from_local` would copy the local tensor to the device of the mesh.
    wrapped: Tensor = type(parameter)(local, spec, requires_grad=False)
    return wrapped
