"""
The accelerator for models that are too large for one device: torch's own full sharding.
"""

import functools
import itertools
from typing import Any, Dict, List, Optional, Tuple, Union

import torch
from allennlp.common.checks import ConfigurationError
from allennlp.common.util import is_distributed
from allennlp.models import Model
from allennlp.nn.parallel import DdpAccelerator, DdpWrappedModel
from allennlp.nn.util import dist_reduce_sum
from torch import Tensor
from torch.torch_version import TorchVersion

from allennlp_ema.common.checks import check_choice
from allennlp_ema.common.from_params import ExplainedFromParams
from allennlp_ema.shadow_weights.sharded import is_sharded, local_part, whole
from allennlp_ema.training.first_worker import broadcast_from_first_worker
from allennlp_ema.training.repairs import are_left_out
from allennlp_ema.training.sharded_states import (
    device_mesh,
    model_state,
    weights_of,
)
from allennlp_ema.training.units import units_of


@DdpAccelerator.register("torch_fsdp")
class TorchFsdpAccelerator(ExplainedFromParams, DdpAccelerator):
    """
    Shards parameters, gradients and the optimizer's state over the workers of a distributed
    training, with `torch.distributed.fsdp.fully_shard` of torch 2.6 or later. Each worker has some
    rows of each parameter. A unit of the model, such as a layer, is gathered while it computes.

    Each worker writes its shards into checkpoints of its own, `*_w0.th`, `*_w1.th`. `--recover`
    loads them on any number of workers. `best.th` and `model.tar.gz` hold the whole model, as
    without sharding. Averages are sharded too, and need no communication.

    ```python
    >>> from allennlp.nn.parallel import DdpAccelerator
    >>> DdpAccelerator.by_name("torch_fsdp").__name__
    'TorchFsdpAccelerator'

    ```

    Registered as a `DdpAccelerator` with name "torch_fsdp".

    # Parameters

    reshard_after_forward : `bool`, optional (default = `True`)
        Whether gathered parameters are freed after the forward pass and gathered again for the
        backward pass. This takes less memory, and 1.5 times the communication.
    mixed_precision : `str`, optional (default = `None`)
        `"bfloat16"` or `"float16"`: the dtype of gathered parameters and of what they compute. The
        shards, and so optimizer, gradients and averages, keep the model's. Outputs are float32.
    offload_to_cpu : `bool`, optional (default = `False`)
        Whether shards, gradients and the optimizer's state are kept in host memory.
    wrap : `List[str]`, optional (default = `None`)
        Regular expressions. A module becomes a unit if one of them is found in its name
        (`re.search`). `None` means each module of a list of layers (`torch.nn.ModuleList`). All
        other parameters form one unit with the root. `[]` makes the whole model one unit.
    """

    def __init__(
        self,
        *,
        reshard_after_forward: bool = True,
        mixed_precision: Optional[str] = None,
        offload_to_cpu: bool = False,
        wrap: Optional[List[str]] = None,
        local_rank: Optional[int] = None,
        world_size: Optional[int] = None,
        cuda_device: Union[torch.device, int] = -1,
    ) -> None:
        self.reshard_after_forward = reshard_after_forward
        self.mixed_precision = check_choice(
            "mixed_precision", mixed_precision, [None, "bfloat16", "float16"]
        )
        self.offload_to_cpu = offload_to_cpu
        self.wrap = wrap
        _check_environment(on_cpu=cuda_device in (-1, torch.device("cpu")))
        super().__init__(local_rank=local_rank, world_size=world_size, cuda_device=cuda_device)

    def wrap_model(self, model: Model) -> Tuple[Model, DdpWrappedModel]:
        from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard

        for name, parameter in model.named_parameters():
            if parameter.dim() == 0:
                raise ConfigurationError(
                    f'the parameter "{name}" is a scalar, which fully_shard does not take: make it '
                    "a tensor of one value"
                )
        broadcast_from_first_worker(itertools.chain(model.parameters(), model.buffers()))
        shared: Dict[str, Any] = {
            "mesh": device_mesh(),
            "reshard_after_forward": self.reshard_after_forward,
        }
        if self.offload_to_cpu:
            on_gpu = self.cuda_device != torch.device("cpu")
            shared["offload_policy"] = CPUOffloadPolicy(pin_memory=on_gpu)
        computed: Dict[str, Any] = {}
        if self.mixed_precision is not None:
            computed["param_dtype"] = getattr(torch, self.mixed_precision)
            computed["reduce_dtype"] = torch.float32
        # fully_shard has to be called on inner units first.
        for unit in reversed(units_of(model, self.wrap)):
            fully_shard(unit, mp_policy=MixedPrecisionPolicy(**computed), **shared)
        if computed:
            # For the loss and the metrics.
            computed["output_dtype"] = torch.float32
        fully_shard(model, mp_policy=MixedPrecisionPolicy(**computed), **shared)
        model.register_forward_pre_hook(_broadcast_buffers)
        if model._regularizer is not None:
            penalty: Any = functools.partial(_whole_penalty, model._regularizer)
            model._regularizer = penalty
        return model, _FsdpWrappedModel(model, self.local_rank, self.world_size)


class _FsdpWrappedModel(DdpWrappedModel):
    @property
    def is_sharded(self) -> bool:
        return True

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return model_state(self.model.state_dict(*args, **kwargs))

    def load_state_dict(self, state_dict: Any, strict: bool = True) -> Any:
        return self.model.load_state_dict(weights_of(state_dict), strict=strict)

    def whole_state_dict(self) -> Dict[str, Any]:
        """
        The state of the whole model in host memory, gathered tensor by tensor. Tied tensors stay
        tied. It is empty except on the primary worker of each node. All workers have to call it
        together.
        """
        state: Dict[str, Any] = {}
        first_names: Dict[int, str] = {}
        # Only with `keep_vars` is a tied parameter the same object under all its names.
        for name, value in self.model.state_dict(keep_vars=True).items():
            first = first_names.setdefault(id(value), name)
            if first == name:
                value = whole(value)
                if self.is_primary:
                    # What a module gives as its extra state may be anything.
                    is_tensor = isinstance(value, Tensor)
                    state[name] = value.detach().cpu() if is_tensor else value
            elif self.is_primary:
                state[name] = state[first]
        return state

    def clip_grad_norm_(self, max_norm: Union[float, int]) -> Tensor:
        # torch cannot compute the norm of shards in host memory next to GPUs.
        grads = [local_part(p.grad) for p in self.model.parameters() if p.grad is not None]
        squared = torch.nn.utils.get_total_norm(grads).double().square()
        norm = dist_reduce_sum(squared).sqrt().float()
        coefficient = torch.clamp(max_norm / (norm + 1e-6), max=1.0)
        for grad in grads:
            grad.mul_(coefficient.to(grad.device))
        return norm


def _whole_penalty(regularizer: Any, model: Any) -> Any:
    # Units may be gathered at present, but the penalty is computed from shards.
    for module in model.modules():
        if hasattr(module, "reshard"):
            module.reshard()
    penalty = regularizer(model)
    return penalty.full_tensor() if is_sharded(penalty) else penalty


def _broadcast_buffers(module: torch.nn.Module, inputs: Any) -> None:
    # In train mode without gradients, as in recalibration, each worker has statistics of its own.
    if torch.is_grad_enabled() or not module.training:
        broadcast_from_first_worker(module.buffers())


def _check_environment(on_cpu: bool) -> None:
    if are_left_out():
        raise ConfigurationError(
            'the accelerator "torch_fsdp" needs repairs of AllenNLP for its checkpoints, but '
            "ALLENNLP_EMA_REPAIRS=0 leaves them out: unset it"
        )
    where, needed = "", "2.6"
    is_there = TorchVersion(torch.__version__) >= needed
    if on_cpu and is_there and not hasattr(torch.cpu.Stream, "record_event"):
        where, needed, is_there = " on CPUs", "2.7", False
    if not is_there:
        raise ConfigurationError(
            f'the accelerator "torch_fsdp" needs torch {needed} or later{where}, but this is '
            f'{torch.__version__}: install it, or leave out "ddp_accelerator" to train with the '
            "whole model on each worker"
        )
    if not is_distributed():
        raise ConfigurationError(
            'the accelerator "torch_fsdp" shards a model over several workers, but there is only '
            'one: it needs "distributed": {"cuda_devices": [0, 1], "ddp_accelerator": {"type": '
            '"torch_fsdp"}} (-1 is a CPU)'
        )
