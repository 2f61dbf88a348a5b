"""
Trainings of a small model, sharded by `fully_shard` over two processes that use gloo, and the same
trainings on one process.
"""

import os
import time
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Tuple

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from allennlp_ema import MovingAverage, MovingAverageOptimizer
from tests.support.every_average import built

NUM_PROCESSES = 2
NUM_STEPS = 4
SECONDS = 240

Named = Dict[str, Tensor]


class Case(NamedTuple):
    """
    average : the configuration of the average
    dtype : that of the parameters
    num_sharded_layers : how many of the three have a group of their own; the root has the others
    built_after_forward : whether the average is built while the root's parameters are gathered
    """

    average: Dict[str, Any]
    dtype: torch.dtype = torch.float32
    num_sharded_layers: int = 1
    built_after_forward: bool = False


CASES = {
    "exponential": Case({"type": "exponential", "decay": 0.8}),
    # All is the root's.
    "window": Case(
        {"type": "window", "window_size": 3}, num_sharded_layers=0, built_after_forward=True
    ),
    "bank": Case(
        {
            "type": "bank",
            "averages": {"fast": {"decay": 0.5}, "last": {"type": "window", "window_size": 2}},
            "active": "fast",
        },
        num_sharded_layers=3,
    ),
    "half_precision": Case({"type": "exponential", "decay": 0.8}, torch.bfloat16),
}


def new_model(dtype: torch.dtype) -> torch.nn.Sequential:
    torch.manual_seed(0)
    # Rows that two processes cannot halve, equal shapes, and a bias of which one has nothing.
    layers = (torch.nn.Linear(5, 5), torch.nn.Tanh(), torch.nn.Linear(5, 5), torch.nn.Linear(5, 1))
    return torch.nn.Sequential(*layers).to(dtype)


def batches(dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(NUM_STEPS, 2 * NUM_PROCESSES, 5, generator=generator).to(dtype)


def train(
    model: torch.nn.Module, average: MovingAverage, optimizer: Any, own: slice, validated: bool
) -> Dict[str, Any]:
    """What the weights were after each step, the averages at the end, and what both compute."""
    trajectory: List[Named] = [whole(dict(model.named_parameters()))]
    outputs: List[Tensor] = []
    restored = True
    (dtype,) = {parameter.dtype for parameter in model.parameters()}
    inputs = batches(dtype)
    for step, batch in enumerate(inputs):
        optimizer.zero_grad()
        (model(batch[own]) - 1).float().square().mean().backward()
        optimizer.step()
        if validated:
            before = copies(parameter for _, parameter in average.named_raw_values())
            with torch.no_grad():
                # What is gathered before averages are assigned or restored is of other weights.
                if step % 2:
                    model(inputs[0])
                with average.average_values():
                    outputs.append(model(inputs[0]))
            after = copies(parameter for _, parameter in average.named_raw_values())
            restored = restored and all(map(torch.equal, before, after))
        # Not by `model.named_parameters()`, which a forward pass leaves gathered.
        trajectory.append(whole(dict(average.named_raw_values())))
    return {
        "trajectory": trajectory,
        "averages": whole(dict(average.named_averages())),
        "outputs": outputs,
        "restored": restored,
    }


def whole(values: Named) -> Named:
    return {
        name: (value.full_tensor() if hasattr(value, "full_tensor") else value).detach().clone()
        for name, value in values.items()
    }


def copies(tensors: Any) -> List[Tensor]:
    return [t.to_local().clone() if hasattr(t, "to_local") else t.clone() for t in tensors]


def sharded(case: Case) -> Tuple[torch.nn.Module, MovingAverage, Any]:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = new_model(case.dtype)
    mesh = init_device_mesh("cpu", (NUM_PROCESSES,))
    linears = [layer for layer in model if isinstance(layer, torch.nn.Linear)]
    for layer in linears[: case.num_sharded_layers]:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    parameters = list(model.named_parameters())
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    if case.built_after_forward:
        with torch.no_grad():
            model(batches(case.dtype)[0])
    average = built(case.average, parameters)
    return model, average, MovingAverageOptimizer(parameters, inner, average)  # type: ignore


def train_on_one(case: Case) -> Dict[str, Any]:
    model = new_model(case.dtype)
    average = built(case.average, model.named_parameters())
    inner = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = MovingAverageOptimizer(list(model.named_parameters()), inner, average)  # type: ignore
    return train(model, average, optimizer, slice(None), validated=False)


def train_on_all(directory: Path) -> Dict[str, Any]:
    """
    # Returns

    results : `Dict[str, Any]`
        By the name of the case, what was trained without and with validations between the steps;
        and `"checkpoint"`.
    """
    context = mp.spawn(_work, args=(str(directory),), nprocs=NUM_PROCESSES, join=False)
    deadline = time.monotonic() + SECONDS
    try:
        while not context.join(timeout=5):
            assert time.monotonic() < deadline, "the processes hang"
    finally:
        for process in context.processes:
            process.kill()
    return dict(torch.load(directory / "results.th", weights_only=False))


def _through_a_checkpoint(directory: str, own: slice) -> Dict[str, Any]:
    """A state that `torch.distributed.checkpoint` writes, and one that it reads into."""
    import torch.distributed.checkpoint as dcp

    case = CASES["exponential"]
    model, average, optimizer = sharded(case)
    train(model, average, optimizer, own, validated=True)
    dcp.save(average.state_dict(), checkpoint_id=directory)
    _, other, _ = sharded(case)
    state = other.state_dict()
    dcp.load(state, checkpoint_id=directory)
    other.load_state_dict(state)
    # What one process writes has no shards.
    _, from_whole, _ = sharded(case)
    saved = average.state_dict()
    from_whole.load_state_dict({**saved, "averages": whole(saved["averages"])})
    return {
        "num_updates": [each.num_updates for each in (average, other, from_whole)],
        "averages": [whole(dict(a.named_averages())) for a in (average, other, from_whole)],
        "own_sizes": [copies([v])[0].shape for _, v in average.named_averages()],
    }


def _work(rank: int, directory: str) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(os.path.join(directory, "store"), NUM_PROCESSES)
    dist.init_process_group("gloo", rank=rank, world_size=NUM_PROCESSES, store=store)
    own = slice(2 * rank, 2 * rank + 2)
    results: Dict[str, Any] = {
        name: [train(*sharded(case), own, validated) for validated in (False, True)]
        for name, case in CASES.items()
    }
    results["checkpoint"] = _through_a_checkpoint(os.path.join(directory, "checkpoint"), own)
    if rank == 0:
        torch.save(results, os.path.join(directory, "results.th"))
    dist.destroy_process_group()
