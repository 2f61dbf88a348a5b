"""
Checkpoints in shards, through `allennlp train --recover` on as many workers, on more and on fewer.
"""

import re
from pathlib import Path
from typing import Any, Dict, List

import pytest
import torch

from tests.shadow_weights.sharded_test import needs_fully_shard
from tests.support.forked_trainings import Training, run_trainings, workers_config
from tests.support.training_runs import best_weights, differences, metrics

pytestmark = needs_fully_shard

FSDP = {"type": "torch_fsdp"}
KILLED = (2, 4)


def config(num_workers: int = 2, **trainer: Any) -> Dict[str, Any]:
    return workers_config(
        num_workers,
        FSDP,
        **{
            "num_epochs": 4,
            "moving_average": {"decay": 0.7},
            "callbacks": ["random_state", {"type": "tests.support.whole_states.WholeStates"}],
            "checkpointer": {"save_every_num_batches": 3},
            **trainer,
        },
    )


SWAPPING = {"checkpointer": {"type": "swapping", "save_every_num_batches": 3}}
# With which the link to a checkpoint is the best model.
PLAIN = {"moving_average": None, "callbacks": ["random_state"]}


class Recovered:
    """Runs that were killed, or had ended, and went on."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        named = {"plain": PLAIN, "swapping": SWAPPING}
        straight = [Training(config(**c), directory / f"{n}_straight") for n, c in named.items()]
        killed = [Training(config(**c), directory / n, kill_at=KILLED) for n, c in named.items()]
        again = [Training(config(**c), directory / n, True) for n, c in named.items()]
        run_trainings(straight, killed, again)

    def __truediv__(self, name: str) -> Path:
        return self.directory / name


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Recovered:
    return Recovered(tmp_path_factory.mktemp("runs"))


def states(run: Path, kind: str) -> List[Dict[str, Any]]:
    files = sorted(run.glob(f"{kind}_state_e4_b0_w*.th"))
    found = [torch.load(str(file)) for file in files]
    for state in found:
        state.pop("best_model_filename", None)
    return found


@pytest.mark.parametrize("run", ["plain", "swapping"])
def test_a_killed_run_continues_bit_equal(runs: Recovered, run: str) -> None:
    straight, recovered = runs / f"{run}_straight", runs / run
    assert metrics(straight)["best_epoch"] > KILLED[0]
    assert differences(dict(best_weights(straight)), dict(best_weights(recovered))) == []
    for kind in ("model", "training"):
        assert len(states(straight, kind)) == 2
        assert differences(states(straight, kind), states(recovered, kind)) == []
    for key, value in metrics(straight).items():
        if key.startswith(("best_", "validation_")):
            assert metrics(recovered)[key] == value


def test_swapping_checkpoints_hold_averages(runs: Recovered) -> None:
    parts = [state["weights"] for state in states(runs / "swapping", "model")]
    whole = torch.load(str(runs / "swapping" / "epoch3.th"))
    for name, average in whole["averages"]["exponential"].items():
        assert torch.equal(torch.cat([part[name] for part in parts]), average)
    raw = [state["raw_model_state"] for state in states(runs / "swapping", "training")]
    for name, weights in whole["weights"].items():
        assert torch.equal(torch.cat([part[name] for part in raw]), weights)


@pytest.fixture(scope="module")
def resharded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Trained on one number of workers to the end or a kill, then recovered on another."""
    directory = tmp_path_factory.mktemp("resharded")
    kept = {"checkpointer": {"type": "swapping", "keep_most_recent_by_count": None}}
    before = {2: config(2, num_epochs=2, **kept), 4: config(4, num_epochs=2, **kept)}
    outputs = run_trainings(
        [Training(before[n], directory / f"killed_{n}", kill_at=(1, 3)) for n in (2, 4)],
        [Training(before[n], directory / f"ended_{n}") for n in (2, 4)],
        [Training(before[6 - n], directory / f"killed_{n}", recover=True) for n in (2, 4)],
        [Training(before[6 - n], directory / f"ended_{n}", recover=True) for n in (2, 4)],
    )
    return directory, outputs


@pytest.mark.parametrize("number", [2, 4])
def test_other_workers_go_on_from_the_same_state(resharded: Any, number: int) -> None:
    directory, outputs = resharded
    run = directory / f"killed_{number}"
    before, start = (torch.load(str(run / f"{name}.th")) for name in ("epoch0", "start"))
    assert differences(start, before) == []
    assert differences(torch.load(str(run / "epoch1.th")), before) != []
    sizes = {int(re.search(r"_w(\d+)", p.name)[1]) for p in run.glob("best_w*.th")}  # type: ignore
    assert sizes == set(range(6 - number))
    said = f"the checkpoint is of {number} workers, but there are {6 - number}"
    assert [said in output for output in outputs[4:6]] == [number == 2, number == 4]
    assert metrics(run)["best_epoch"] == 1


@pytest.mark.parametrize("number", [2, 4])
def test_the_best_model_of_other_workers_is_kept(resharded: Any, number: int) -> None:
    directory, _ = resharded
    run = directory / f"ended_{number}"
    whole = torch.load(str(run / "epoch1.th"))["averages"]["exponential"]
    assert differences(dict(best_weights(run)), whole) == []
    parts = [torch.load(str(run / f"best_w{worker}.th")) for worker in range(6 - number)]
    assert {part["metadata"]["num_workers"] for part in parts} == {6 - number}
    for name, value in whole.items():
        assert torch.equal(torch.cat([part["weights"][name] for part in parts]), value)
