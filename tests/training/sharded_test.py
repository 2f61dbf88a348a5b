"""
FairScale's `FullyShardedDataParallel`, without the GPUs that its forward pass needs: each rank
averages its own shard of the flattened parameters.
"""

import contextlib
from pathlib import Path
from typing import Any, Dict, List
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from allennlp.training.trainer import TrainerCheckpoint

from allennlp_ema import ExponentialMovingAverage, SwappingCheckpointer
from tests.support.training_runs import differences
from tests.support.trajectories import averages_along, random_walk

accelerator = pytest.importorskip("allennlp.nn.parallel.fairscale_fsdp_accelerator")

NUM_RANKS = 2
NUM_UPDATES = 7
TRAJECTORIES = {
    "0.weight": random_walk(NUM_UPDATES, (4, 3), dtype=torch.float32, seed=1),
    "0.bias": random_walk(NUM_UPDATES, (4,), dtype=torch.float32, seed=2),
    "1.weight": random_walk(NUM_UPDATES, (1, 4), dtype=torch.float32, seed=3),
    "1.bias": random_walk(NUM_UPDATES, (1,), dtype=torch.float32, seed=4),
}


class ProcessGroupOfOne:
    """Of the many that there would be, and without a way to reach the others."""

    def __init__(self, rank: int) -> None:
        self._rank = rank

    def rank(self) -> int:
        return self._rank

    def size(self) -> int:
        return NUM_RANKS


class Rank:
    def __init__(self, rank: int) -> None:
        self.model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 1))
        self.move(self.model, 0)
        self.sharded = accelerator._FSDP(
            self.model,
            process_group=ProcessGroupOfOne(rank),
            compute_device=torch.device("cpu"),
        )
        self.wrapped = accelerator.FairScaleFsdpWrappedModel(
            self.sharded, local_rank=rank, world_size=NUM_RANKS
        )
        self.average = ExponentialMovingAverage(self.sharded.named_parameters(), decay=0.5)
        # What a checkpointer wants of a trainer.
        self._pytorch_model, self._moving_average = self.sharded, self.average

    @staticmethod
    def move(model: torch.nn.Module, update: int) -> None:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(TRAJECTORIES[name][update])

    def train(self) -> None:
        (flat,) = self.sharded.parameters()
        for update in range(1, NUM_UPDATES + 1):
            whole = torch.cat([values[update].flatten() for values in TRAJECTORIES.values()])
            own_shard, _ = self.sharded._get_shard(whole)
            with torch.no_grad():
                flat.copy_(own_shard)
            self.average.apply(update)

    def get_checkpoint_state(self) -> TrainerCheckpoint:
        return TrainerCheckpoint(
            self.wrapped.state_dict(), {"epochs_completed": 1, "batches_in_epoch_completed": 0}
        )


@pytest.fixture(scope="module")
def ranks() -> List[Rank]:
    ranks = [Rank(rank) for rank in range(NUM_RANKS)]
    # Whoever communicates now is told that there is no process group.
    assert not dist.is_initialized()
    for rank in ranks:
        rank.train()
    return ranks


def whole_averages() -> Dict[str, torch.Tensor]:
    return {
        name: averages_along(values, lambda p: ExponentialMovingAverage(p, decay=0.5))[-1]
        for name, values in TRAJECTORIES.items()
    }


def consolidated(states: List[Dict[str, Any]]) -> Dict[str, torch.Tensor]:
    return dict(
        accelerator._FSDP.consolidate_shard_weights(
            [state["weights"] for state in states], [state["metadata"] for state in states]
        )
    )


def test_averages_of_shards_are_shards_of_the_averages(ranks: List[Rank]) -> None:
    sizes = {tuple(value.shape) for rank in ranks for _, value in rank.average.named_averages()}
    # 21 values, padded.
    assert sizes == {(11,)}
    states = []
    for rank in ranks:
        with rank.average.average_values():
            weights = rank.wrapped.state_dict()["weights"]
            copies = {name: value.clone() for name, value in weights.items()}
            states.append({**rank.wrapped.state_dict(), "weights": copies})
    assert differences(consolidated(states), whole_averages()) == []
    last = {name: values[-1] for name, values in TRAJECTORIES.items()}
    assert differences(consolidated([rank.wrapped.state_dict() for rank in ranks]), last) == []


def test_swapping_checkpoints_of_shards(ranks: List[Rank], tmp_path: Path) -> None:
    loaded = []
    for number, rank in enumerate(ranks):
        checkpointer = SwappingCheckpointer(str(tmp_path))
        checkpointer.state_is_sharded, checkpointer._rank = True, number
        checkpointer.save_checkpoint(rank)
        checkpoint = checkpointer.load_checkpoint()
        assert checkpoint is not None
        loaded.append(checkpoint.model_state)
    files = sorted(str(file) for file in tmp_path.glob("model_state_*.th"))
    assert [Path(file).name[-6:] for file in files] == ["_w0.th", "_w1.th"]
    # What AllenNLP itself makes of the files of all ranks.
    whole = accelerator.FairScaleFsdpWrappedModel.consolidate_sharded_state(files)
    assert differences(dict(whole), whole_averages()) == []
    last = {name: values[-1] for name, values in TRAJECTORIES.items()}
    assert differences(consolidated(loaded), last) == []


@pytest.fixture
def without_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams that do nothing, and a shard that each of the ranks is said to have."""

    def all_gather(chunks: List[torch.Tensor], shard: torch.Tensor, **kwargs: Any) -> None:
        for chunk in chunks:
            chunk.copy_(shard)

    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", mock.MagicMock())
    monkeypatch.setattr(torch.Tensor, "record_stream", mock.MagicMock())
    monkeypatch.setattr(dist, "_all_gather_base", None, raising=False)
    monkeypatch.delattr(dist, "_all_gather_base")
    monkeypatch.setattr(dist, "all_gather", all_gather)


def test_a_swap_reaches_what_was_gathered(without_gpus: None) -> None:
    rank = Rank(0)
    rank.sharded._streams = {"all_gather": mock.MagicMock()}
    inputs = torch.ones(1, 3)
    with torch.no_grad():
        initial = rank.sharded(inputs)
        (flat,) = rank.sharded.parameters()
        flat.mul_(2.0)
        # As after a backward pass.
        rank.sharded._free_full_params()
        raw = rank.sharded(inputs)
        assert rank.sharded.has_full_params and not torch.equal(raw, initial)
        with rank.average.average_values():
            assert torch.equal(rank.sharded(inputs), initial)
        assert torch.equal(rank.sharded(inputs), raw)
