"""
Two processes over gloo.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from tests.support.averages_of_each_rank import NUM_UPDATES
from tests.support.training_runs import assert_ended_alike, differences, tagger_config, train

BATCHES_OF_EACH_RANK = 12
KILLED = (2, 5)

CONFIG = {
    **tagger_config(
        moving_average={"type": "exponential", "decay": 0.9},
        optimizer={"type": "adam", "lr": 0.002},
        num_epochs=NUM_UPDATES // BATCHES_OF_EACH_RANK + 1,
        callbacks=[{"type": "tests.support.averages_of_each_rank.AveragesOfEachRank"}],
    ),
    "data_loader": {"batch_size": 1},
    "distributed": {"cuda_devices": [-1, -1]},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("distributed")

    def run_killed() -> None:
        train(CONFIG, directory / "recovered", kill_at=KILLED)
        train(CONFIG, directory / "recovered", recover=True)

    with ThreadPoolExecutor(2) as executor:
        straight = executor.submit(train, CONFIG, directory / "straight")
        run_killed()
        straight.result()
    return directory


def test_killed_run_continues_bit_equal(runs: Path) -> None:
    assert_ended_alike(runs / "straight", runs / "recovered", best_after_epoch=KILLED[0])


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
