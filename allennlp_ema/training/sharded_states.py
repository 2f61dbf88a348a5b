"""
States that `fully_shard` has sharded: converted to plain tensors for files, and resharded for
another number of workers.
"""

import functools
import logging
from typing import Any, Callable, Dict, List, Sequence

import torch
import torch.distributed as dist
from allennlp.common.checks import ConfigurationError
from allennlp.nn.util import distributed_device
from allennlp.training.trainer import TrainerCheckpoint
from torch import Tensor

from allennlp_ema.shadow_weights.sharded import is_sharded, local_part, whole

logger = logging.getLogger(__name__)

# In a file a record replaces a sharded tensor: the rows of one worker, and the whole shape.
_ROWS, _SHAPE = "rows_of_worker", "whole_shape"


def model_state(weights: Dict[str, Tensor]) -> Dict[str, Any]:
    """The state of a sharded model as plain tensors, without copies."""
    sharded = {name: value for name, value in weights.items() if is_sharded(value)}
    return {
        "weights": {name: local_part(value) for name, value in weights.items()},
        "metadata": {
            "worker": dist.get_rank(),
            "num_workers": dist.get_world_size(),
            "shapes": {name: list(value.shape) for name, value in sharded.items()},
        },
    }


def weights_of(state: Dict[str, Any]) -> Dict[str, Tensor]:
    """The inverse of `model_state`, on a worker of the same rank."""
    shapes = state["metadata"]["shapes"]
    return {
        name: _in_shards(value, shapes[name]) if name in shapes else value
        for name, value in state["weights"].items()
    }


def without_shards(state: Any) -> Any:
    """`state` with plain tensors only. `with_shards` is the inverse."""
    if is_sharded(state):
        from torch.distributed.tensor import Shard

        if state.placements != (Shard(0),):
            # Only small tensors have other placements, so whole ones take little memory.
            return whole(state)
        return {_ROWS: local_part(state), _SHAPE: list(state.shape)}
    return _mapped(without_shards, state)


def with_shards(state: Any) -> Any:
    """The inverse of `without_shards`, on a worker of the same rank."""
    if _is_record(state):
        return _in_shards(state[_ROWS], state[_SHAPE])
    return _mapped(with_shards, state)


def load_for_this_worker(read: Callable[[int, bool], TrainerCheckpoint]) -> TrainerCheckpoint:
    """
    # Parameters

    read : `Callable[[int, bool], TrainerCheckpoint]`
        Reads the files of the worker of this rank. The second argument is whether tensors stay on
        the disk until they are used.

    # Returns

    checkpoint : `TrainerCheckpoint`
        The state that this worker wrote. If more or fewer workers wrote the checkpoint, its part
        of the state that they wrote together.
    """
    rank = dist.get_rank()
    try:
        own = read(rank, False)
    except ConfigurationError as error:
        # A checkpoint of fewer workers has no files of this rank.
        try:
            own = read(0, False)
        except ConfigurationError:
            raise error from None
    metadata = own.model_state["metadata"]
    num_workers = metadata.get("num_workers", dist.get_world_size())
    if num_workers != dist.get_world_size():
        logger.warning(
            "The run cannot go on as if it had not been interrupted: the checkpoint is of %d "
            "workers, but there are %d. It is resharded, and each worker gets other batches",
            num_workers,
            dist.get_world_size(),
        )
        everything = [read(worker, True) for worker in range(num_workers)]
        model_states, trainer_states = zip(*everything)
        own = TrainerCheckpoint(reshard_model_state(model_states), _reshard_state(trainer_states))
    elif metadata.get("worker", rank) != rank:
        own = read(rank, False)
    return TrainerCheckpoint(own.model_state, with_shards(own.trainer_state))


def reshard_model_state(states: Sequence[Dict[str, Any]]) -> Dict[str, Any]:
    """The `model_state` of this worker, from those of all workers that wrote a checkpoint."""
    shapes = states[0]["metadata"]["shapes"]
    weights = {
        name: _own_rows([state["weights"][name] for state in states], shapes[name])
        if name in shapes
        else value
        for name, value in states[0]["weights"].items()
    }
    metadata = {"worker": dist.get_rank(), "num_workers": dist.get_world_size(), "shapes": shapes}
    return {"weights": weights, "metadata": metadata}


def _reshard_state(states: Sequence[Any]) -> Any:
    first = states[0]
    if _is_record(first):
        shape = first[_SHAPE]
        return {_ROWS: _own_rows([state[_ROWS] for state in states], shape), _SHAPE: shape}
    if isinstance(first, dict):
        return {
            key: _reshard_state([state[key] for state in states])
            if all(isinstance(state, dict) and key in state for state in states)
            else value
            for key, value in first.items()
        }
    if isinstance(first, (list, tuple)) and len({len(state) for state in states}) == 1:
        return type(first)(_reshard_state(each) for each in zip(*states))
    return first.clone() if isinstance(first, Tensor) else first


def _own_rows(parts: List[Tensor], shape: Sequence[int]) -> Tensor:
    size = -(-shape[0] // dist.get_world_size())
    start = dist.get_rank() * size
    # A view would keep the whole tensor in memory.
    return _joined(parts, shape)[start : start + size].clone()


def _joined(parts: List[Tensor], shape: Sequence[int]) -> Tensor:
    joined = torch.cat(parts)
    if list(joined.shape) != list(shape):
        raise ConfigurationError(
            f"the shards of a tensor of shape {tuple(shape)} make one of {tuple(joined.shape)}"
        )
    return joined


def _in_shards(rows: Tensor, shape: Sequence[int]) -> Tensor:
    from torch.distributed.tensor import DTensor, Shard

    like = torch.empty(torch.Size(shape), device="meta")
    return DTensor.from_local(
        rows, device_mesh(), [Shard(0)], run_check=False, shape=like.shape, stride=like.stride()
    )


@functools.lru_cache(maxsize=None)
def device_mesh() -> Any:
    """The mesh of all workers, over which a model is sharded."""
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh(distributed_device().type, (dist.get_world_size(),))


def _is_record(state: Any) -> bool:
    return isinstance(state, dict) and state.keys() == {_ROWS, _SHAPE}


def _mapped(function: Callable[[Any], Any], state: Any) -> Any:
    if isinstance(state, dict):
        mapped: Any = {key: function(value) for key, value in state.items()}
        is_same = all(mapped[key] is value for key, value in state.items())
    elif isinstance(state, (list, tuple)):
        mapped = type(state)([function(value) for value in state])
        is_same = all(one is other for one, other in zip(mapped, state))
    else:
        return state
    # A subclass may have attributes that the new container lacks.
    return state if is_same else mapped
