"""
Two nodes of one worker each, over the loopback, each with a directory of its own.
"""

import os
import shutil
from pathlib import Path
from typing import Any, Dict, List, Optional

import pytest
import torch
from allennlp.common.util import find_open_port

from tests.shadow_weights.sharded_test import needs_fully_shard
from tests.support.forked_trainings import Training, run_trainings, workers_config
from tests.support.training_runs import best_weights, differences, metrics

KILLED = (1, 4)
ACCELERATORS = ["torch", pytest.param("torch_fsdp", marks=needs_fully_shard)]


def config(accelerator: str, **trainer: Any) -> Dict[str, Any]:
    """Each time with another port, as on a cluster."""
    nodes = {
        "num_nodes": 2,
        "primary_address": "127.0.0.1",
        "primary_port": find_open_port(),
    }
    return workers_config(
        1,
        {"type": accelerator},
        nodes,
        moving_average={"decay": 0.7},
        callbacks=["random_state", {"type": "moving_average_snapshots", "every_num_updates": 6}],
        checkpointer={"save_every_num_batches": 3, "keep_most_recent_by_count": 2},
        **trainer,
    )


def nodes(
    accelerator: str,
    directory: Path,
    recover: bool = False,
    killed: Optional[int] = None,
    fails: bool = False,
) -> List[Training]:
    """The nodes of one training; `fails` or the death of one ends the others."""
    both = config(accelerator)
    return [
        Training(
            both,
            directory / f"node{rank}",
            recover,
            KILLED if killed == rank else None,
            rank,
            fails or killed not in (None, rank),
        )
        for rank in (0, 1)
    ]


@pytest.fixture(scope="module", params=ACCELERATORS)
def runs(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp(request.param)
    run_trainings(
        [
            *nodes(request.param, directory / "straight"),
            *nodes(request.param, directory / "recovered", killed=1),
        ],
        nodes(request.param, directory / "recovered", recover=True),
    )
    return directory


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("run", ["straight", "recovered"])
def test_each_node_has_the_whole_model(runs: Path, run: str, rank: int) -> None:
    node = runs / run / f"node{rank}"
    expected = dict(best_weights(runs / "straight" / "node0"))
    assert differences(dict(best_weights(node)), expected) == []
    assert (node / "model.tar.gz").exists() and metrics(node)["best_epoch"] == 2
    snapshots = sorted(file.name for file in (node / "averages").iterdir())
    assert [name.split(".")[0][-2:] for name in snapshots] == ["06", "12", "18"]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_node_that_died_is_recovered_with_the_other(runs: Path, rank: int) -> None:
    one, other = (runs / run / f"node{rank}" for run in ("straight", "recovered"))
    names = sorted(file.name for file in one.glob("*_state_*.th"))
    # Old checkpoints are removed on each node.
    assert names == sorted(file.name for file in other.glob("*_state_*.th")) and len(names) == 4
    for name in names:
        states = [torch.load(str(run / name)) for run in (one, other)]
        for state in states:
            state.pop("best_model_filename", None)
        assert differences(*states) == []


def test_what_a_node_lacks_is_said_on_it_and_nobody_waits(runs: Path, tmp_path: Path) -> None:
    shutil.copytree(str(runs / "straight"), str(tmp_path / "lost"))
    lost = sorted((tmp_path / "lost" / "node1").glob("*_state_*.th"))
    for file in lost:
        file.unlink()
    accelerator = "torch_fsdp" if lost[0].stem.endswith("_w1") else "torch"
    outputs = run_trainings(nodes(accelerator, tmp_path / "lost", recover=True, fails=True))
    newest = [file for file in lost if file.name.startswith("model_state_e3_b0")]
    assert f"{newest[0]}: there is no such file" in outputs[1]
    assert "can be used: " in outputs[0].rstrip().splitlines()[-1]
    assert all(os.path.exists(str(tmp_path / "lost" / f"node{n}" / "best.th")) for n in (0, 1))
