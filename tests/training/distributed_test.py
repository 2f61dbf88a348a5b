"""
Two processes over gloo.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from tests.support.averages_of_each_rank import NUM_UPDATES
from tests.support.training_runs import (
    DATA,
    assert_ended_alike,
    differences,
    latest_checkpoint,
    tagger_config,
    train,
)

BATCHES_OF_EACH_RANK = 12
KILLED = (2, 5)

# The schedule is one by the number of the batch, and as long for one worker as for the other.
CONFIG = {
    **tagger_config(
        moving_average={"type": "exponential", "decay": 0.9},
        optimizer={"type": "adam", "lr": 0.002},
        num_epochs=NUM_UPDATES // BATCHES_OF_EACH_RANK + 1,
        learning_rate_scheduler={
            "type": "noam",
            "model_size": 1,
            "warmup_steps": 4,
            "factor": 4e-3,
        },
        callbacks=[{"type": "tests.support.averages_of_each_rank.AveragesOfEachRank"}],
    ),
    "data_loader": {"batch_size": 1},
    "distributed": {"cuda_devices": [-1, -1]},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("distributed")
    sentences = (DATA / "train.tsv").read_text().splitlines()
    assert len(sentences) == 2 * BATCHES_OF_EACH_RANK
    # One worker has a batch more, which is left out as long as nothing is caught up with.
    unequal = directory / "unequal.tsv"
    unequal.write_text("\n".join([*sentences, sentences[0]]))
    config = {**CONFIG, "train_data_path": str(unequal)}

    def run_killed() -> None:
        train(config, directory / "recovered", kill_at=KILLED)
        train(config, directory / "recovered", recover=True)

    with ThreadPoolExecutor(2) as executor:
        straight = executor.submit(train, config, directory / "straight")
        run_killed()
        straight.result()
    return directory


def test_killed_run_continues_bit_equal(runs: Path) -> None:
    assert_ended_alike(runs / "straight", runs / "recovered", best_after_epoch=KILLED[0])
    _, training_state = latest_checkpoint(runs / "recovered")
    num_updates = training_state["moving_average"]["counts"]["num_updates"]
    assert num_updates == BATCHES_OF_EACH_RANK * CONFIG["trainer"]["num_epochs"]


@pytest.mark.parametrize("run", ["straight", "recovered"])
def test_ranks_have_the_same_averages_and_one_saves(runs: Path, run: str) -> None:
    primary, other = (torch.load(str(runs / run / f"rank{rank}.th")) for rank in (0, 1))
    assert differences(primary["averages"], other["averages"]) == []
    assert "training_state_e8_b0.th" in primary["saved"] and "best.th" in primary["saved"]
    assert other["saved"] == []


def test_ranks_are_two(runs: Path) -> None:
    for rank in (0, 1):
        log = (runs / "straight" / f"out_worker{rank}.log").read_text()
        assert "(allennlp_ema) averages" in log
