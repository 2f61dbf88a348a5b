"""
A training that died and was continued by `--recover` ends where the uninterrupted one does, to the
last bit. With AllenNLP's own average it does not.
"""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Dict, NamedTuple

import pytest
import torch
from allennlp.models.archival import load_archive

from tests.support.stock_loading import stock_loading
from tests.support.training_runs import (
    DATA,
    KEEP_EVERY_UPDATE,
    assert_ended_alike,
    best_weights,
    differences,
    latest_checkpoint,
    metrics,
    raw_trajectory,
    tagger_config,
    train,
    train_here,
)

OURS = {"type": "exponential", "decay": 0.9}
ALLENNLPS = {"type": "allennlp.training.moving_average.ExponentialMovingAverage", "decay": 0.9}

AVERAGES: Dict[str, Dict[str, Any]] = {
    "exponential": OURS,
    "exponential_with_schedule": {"decay": {"type": "inverse_power", "inv_gamma": 3.0}},
    "exponential_zero_debiased": {"decay": 0.9, "zero_debias": True},
    "exponential_in_float64": {"decay": 0.9, "shadow_dtype": "float64"},
    "exponential_of_some": {"decay": 0.9, "include": ["encoder"], "exclude": ["bias"]},
    "uniform": {"type": "uniform", "start_step": 7},
    "power_function": {"type": "power_function", "sigma_rel": 0.1, "update_every": 4},
    "polynomial": {"type": "polynomial", "eta": 4.0},
    "window": {"type": "window", "window_size": 3, "update_every": 5},
    "bank": {
        "type": "bank",
        "active": "fast",
        "averages": {
            "slow": {"type": "power_function", "gamma": 6.0},
            "fast": OURS,
            "last": {"type": "window", "window_size": 4},
        },
    },
}


def config(moving_average: Any, **trainer: Any) -> Dict[str, Any]:
    return {
        **tagger_config(moving_average=moving_average, **trainer),
        "test_data_path": str(DATA / "dev.tsv"),
        "evaluate_on_test": True,
    }


class Runs(NamedTuple):
    """
    # Parameters

    straight : `Path`
        Four epochs.
    recovered : `Path`
        The same, killed in the third epoch and continued.
    finished : `Path`
        `straight`, continued after its end.
    """

    straight: Path
    recovered: Path
    finished: Path


def by_command_line(directory: Path, moving_average: Any, **environment: str) -> Runs:
    runs = Runs(directory / "straight", directory / "recovered", directory / "finished")

    def run(directory: Path, **kwargs: Any) -> None:
        train(config(moving_average), directory, environment=environment, **kwargs)

    def run_straight() -> None:
        run(runs.straight)
        shutil.copytree(str(runs.straight), str(runs.finished))
        run(runs.finished, recover=True)

    def run_killed() -> None:
        run(runs.recovered, kill_at=(2, 3))
        assert not (runs.recovered / "model.tar.gz").exists()
        run(runs.recovered, recover=True)

    with ThreadPoolExecutor(2) as executor:
        for future in [executor.submit(run_straight), executor.submit(run_killed)]:
            future.result()
    return runs


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return by_command_line(tmp_path_factory.mktemp("ours"), OURS)


@pytest.fixture(scope="module")
def allennlps(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    # As it is without this package.
    directory = tmp_path_factory.mktemp("allennlps")
    return by_command_line(directory, ALLENNLPS, ALLENNLP_EMA_REPAIRS="0")


class TestCommandLine:
    @pytest.mark.everywhere
    def test_killed_run_continues_bit_equal(self, ours: Runs) -> None:
        assert_ended_alike(ours.straight, ours.recovered)

    @pytest.mark.everywhere
    def test_finished_run_gives_the_averaged_model_again(self, ours: Runs) -> None:
        weights = best_weights(ours.straight)
        archived = load_archive(str(ours.finished / "model.tar.gz")).model.state_dict()
        assert differences(weights, best_weights(ours.finished)) == []
        assert differences(dict(weights), dict(archived)) == []
        # Evaluated on the model in memory.
        assert metrics(ours.finished)["test_loss"] == metrics(ours.straight)["test_loss"]

    def test_allennlps_own_does_not(self, allennlps: Runs) -> None:
        assert differences(*map(best_weights, allennlps[:2])) != []
        with pytest.raises(AssertionError):
            assert_ended_alike(allennlps.straight, allennlps.recovered)
        # Not merely another average: none.
        raw_weights, _ = latest_checkpoint(allennlps.recovered)
        assert differences(dict(best_weights(allennlps.recovered)), dict(raw_weights)) == []

    def test_allennlps_own_gives_the_raw_model_of_a_finished_run(self, allennlps: Runs) -> None:
        assert metrics(allennlps.finished)["test_loss"] != metrics(allennlps.straight)["test_loss"]


@pytest.mark.parametrize("moving_average", AVERAGES.values(), ids=AVERAGES.keys())
class TestEveryAverage:
    def test_continues_from_the_end_of_an_epoch(self, moving_average: Any, tmp_path: Path) -> None:
        train_here(config(moving_average), tmp_path / "straight")
        train_here(config(moving_average), tmp_path / "recovered", interrupt_at=(2, 3))
        train_here(config(moving_average), tmp_path / "recovered", recover=True)
        assert_ended_alike(tmp_path / "straight", tmp_path / "recovered")

    @pytest.mark.everywhere
    def test_continues_from_the_middle_of_an_epoch(
        self, moving_average: Any, tmp_path: Path
    ) -> None:
        configuration = config(moving_average, checkpointer={"save_every_num_batches": 2})
        train_here(configuration, tmp_path / "straight")
        train_here(configuration, tmp_path / "recovered", interrupt_at=(2, 5))
        assert (tmp_path / "recovered" / "training_state_e2_b4.th").exists()
        train_here(configuration, tmp_path / "recovered", recover=True)
        assert_ended_alike(tmp_path / "straight", tmp_path / "recovered")

    def test_finished_run_gives_the_averaged_model(
        self, moving_average: Any, tmp_path: Path
    ) -> None:
        train_here(config(moving_average), tmp_path / "run")
        weights, before = best_weights(tmp_path / "run"), metrics(tmp_path / "run")
        model = train_here(config(moving_average), tmp_path / "run", recover=True)
        assert model is not None
        assert differences(dict(weights), dict(model.state_dict())) == []
        assert metrics(tmp_path / "run")["test_loss"] == before["test_loss"]


def test_recovering_twice(tmp_path: Path) -> None:
    train_here(config(OURS), tmp_path / "straight")
    train_here(config(OURS), tmp_path / "recovered", interrupt_at=(1, 3))
    train_here(config(OURS), tmp_path / "recovered", recover=True, interrupt_at=(3, 6))
    train_here(config(OURS), tmp_path / "recovered", recover=True)
    assert_ended_alike(tmp_path / "straight", tmp_path / "recovered")


class TestRunOfAllenNLPsOwn:
    """A run that AllenNLP's own average began and ours continues."""

    def continued(self, directory: Path, **trainer: Any) -> str:
        # As if the package had not been there at first: one configuration, other classes.
        (directory / "config.json").write_text(json.dumps(config(OURS, **trainer)))
        train_here(config(OURS, **trainer), directory, recover=True)
        return (directory / "out.log").read_text()

    def test_is_continued(self, tmp_path: Path) -> None:
        train_here(config(OURS), tmp_path / "straight")
        train_here(config(ALLENNLPS), tmp_path / "run", interrupt_at=(2, 3))
        log = self.continued(tmp_path / "run")
        assert "dead parameters" not in log
        expected = best_weights(tmp_path / "straight")
        for name, weights in best_weights(tmp_path / "run").items():
            torch.testing.assert_close(weights, expected[name], rtol=1e-5, atol=1e-6)

    def test_averages_of_dead_parameters_are_not(self, tmp_path: Path) -> None:
        configuration = config(ALLENNLPS, checkpointer=KEEP_EVERY_UPDATE)
        train_here(configuration, tmp_path / "run", interrupt_at=(1, 3))
        with stock_loading():
            train_here(configuration, tmp_path / "run", recover=True, interrupt_at=(3, 3))
        log = self.continued(tmp_path / "run", checkpointer=KEEP_EVERY_UPDATE)
        assert "averages of dead parameters" in log
        # Averaging begins anew at the second batch of the last epoch.
        _, *trajectory = raw_trajectory(tmp_path / "run")[18:]
        expected = trajectory[0]
        for num_updates, raw_weights in enumerate(trajectory[1:], start=21):
            decay = min(0.9, (1 + num_updates) / (10 + num_updates))
            for name, weights in raw_weights.items():
                expected[name] = decay * expected[name] + (1 - decay) * weights
        for name, weights in best_weights(tmp_path / "run").items():
            torch.testing.assert_close(weights.double(), expected[name], rtol=1e-5, atol=1e-6)
