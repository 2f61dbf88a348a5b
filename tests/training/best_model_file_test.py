"""
What `best.th`, the archive and the metrics hold after a training that died, at whatever it was
writing, is what the uninterrupted one left.
"""

import copy
import json
import os
import shutil
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, List, NamedTuple

import pytest
import torch
from allennlp.common.checks import ConfigurationError
from allennlp.models.archival import load_archive
from allennlp.training.callbacks import TrainerCallback

from allennlp_ema.training.best_model_file import best_model_file_of
from tests.support.interruption import KILL_AT_FILE
from tests.support.training_runs import (
    best_weights,
    differences,
    metrics,
    run_python,
    tagger_config,
    train,
    train_here,
)

EPOCHS_OF_THE_BEST = [0, 1, 2, 2]


def config(**trainer: Any) -> Dict[str, Any]:
    """The best epoch is the third of four."""
    return tagger_config(
        **{
            "moving_average": {"type": "exponential", "decay": 0.5},
            "optimizer": {"type": "adam", "lr": 0.3},
            **trainer,
        }
    )


def with_dropout() -> Dict[str, Any]:
    result = config(callbacks=["random_state"])
    result["model"]["encoder"]["dropout"] = 0.1
    return result


SWAPPING = config(checkpointer={"type": "swapping"})
EVERY_FOUR_BATCHES = {"save_completed_epochs": False, "save_every_num_batches": 4}


class Kill(NamedTuple):
    config: Dict[str, Any]
    file: str
    count: int
    when: str


KILLS = {
    "first_best": Kill(config(), "best.th", 1, "within"),
    "best": Kill(config(), "best.th", 3, "within"),
    "best_swapping": Kill(SWAPPING, "best.th", 3, "within"),
    "best_random_state": Kill(with_dropout(), "best.th", 3, "within"),
    "before_best": Kill(config(), "model_state_e3_b0.th", 1, "after"),
    "before_best_unaveraged": Kill(config(moving_average=None), "model_state_e3_b0.th", 1, "after"),
    "model_state": Kill(config(), "model_state_e3_b0.th", 1, "within"),
    "model_state_swapping": Kill(SWAPPING, "model_state_e3_b0.th", 1, "within"),
    "training_state": Kill(config(), "training_state_e3_b0.th", 1, "within"),
    "best_without_checkpoint": Kill(config(checkpointer=EVERY_FOUR_BATCHES), "best.th", 3, "after"),
    "previous_best": Kill(config(), "best_of_epoch_1.th", 1, "after"),
    "metrics": Kill(config(), "metrics.json", 1, "within"),
    "archive": Kill(config(), "model.tar.gz", 1, "within"),
}


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders of the runs in `KILLS`, after the kill."""
    directory = tmp_path_factory.mktemp("killed")
    runs = [
        [kill.config, str(directory / name), kill.file, kill.count, kill.when]
        for name, kill in KILLS.items()
    ]
    (directory / "runs.json").write_text(json.dumps(runs))
    run_python("-m", "tests.support.killed_runs", str(directory / "runs.json"))
    return directory


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("straight")


def straight_run(configuration: Dict[str, Any], directory: Path) -> Path:
    run = directory / str(abs(hash(json.dumps(configuration))))
    if not run.exists():
        train_here(configuration, run)
    return run


def apart_from_durations(of: Dict[str, Any]) -> Dict[str, Any]:
    return {key: value for key, value in of.items() if "duration" not in key and "MB" not in key}


def files(run: Path) -> List[str]:
    # Which batches have a checkpoint is counted from where a training goes on.
    return sorted(path.name for path in run.iterdir() if "_state_" not in path.name)


def assert_ended_like(straight: Path, run: Path) -> None:
    assert differences(best_weights(straight), best_weights(run)) == []
    archived = load_archive(str(run / "model.tar.gz")).model.state_dict()
    assert differences(dict(archived), dict(best_weights(straight))) == []
    assert apart_from_durations(metrics(run)) == apart_from_durations(metrics(straight))
    assert files(run) == files(straight)


@pytest.mark.parametrize("name", list(KILLS))
def test_killed_run_ends_like_the_uninterrupted_one(
    name: str, killed: Path, straight: Path
) -> None:
    kill = KILLS[name]
    expected = straight_run(kill.config, straight)
    train_here(kill.config, killed / name, recover=True)
    assert_ended_like(expected, killed / name)
    if name == "best":
        epochs = range(len(EPOCHS_OF_THE_BEST))
        written = [json.loads((expected / f"metrics_epoch_{e}.json").read_text()) for e in epochs]
        assert [each["best_epoch"] for each in written] == EPOCHS_OF_THE_BEST


@pytest.mark.parametrize(
    "trainer",
    [
        {},
        {"checkpointer": {"type": "swapping"}},
        {"patience": 1, "num_epochs": 6},
        {"moving_average": None},
    ],
    ids=["default", "swapping", "patience", "unaveraged"],
)
def test_finished_run_stays_as_it_is(trainer: Dict[str, Any], tmp_path: Path) -> None:
    configuration = config(**trainer)
    train_here(configuration, tmp_path / "run")
    assert metrics(tmp_path / "run")["epoch"] == 3
    shutil.copytree(str(tmp_path / "run"), str(tmp_path / "finished"))
    train_here(configuration, tmp_path / "finished", recover=True)
    assert metrics(tmp_path / "finished") == metrics(tmp_path / "run")
    assert_ended_like(tmp_path / "run", tmp_path / "finished")


def test_copied_run_looks_for_its_own_best_model(tmp_path: Path) -> None:
    train_here(config(), tmp_path / "run", interrupt_at=(3, 2))
    shutil.copytree(str(tmp_path / "run"), str(tmp_path / "copy"))
    shutil.rmtree(str(tmp_path / "run"))
    train_here(config(), tmp_path / "copy", recover=True)
    assert metrics(tmp_path / "copy")["best_epoch"] == 2


def go_on_for_the_worse(configuration: Dict[str, Any], run: Path) -> str:
    """Goes on with such steps that no other epoch becomes the best."""
    configuration = copy.deepcopy(configuration)
    configuration["trainer"]["optimizer"]["lr"] = 100.0
    training_states = list(run.glob("training_state_*.th"))
    for path in training_states:
        state = torch.load(str(path))
        if isinstance(state, dict) and "optimizer" in state:
            for group in state["optimizer"]["param_groups"]:
                group["lr"] = 100.0
            torch.save(state, str(path))
    (run / "config.json").write_text(json.dumps(configuration))
    train_here(configuration, run, recover=True)
    return (run / "out.log").read_text()


def best_of_first_epochs(num_epochs: int, straight: Path) -> Dict[str, torch.Tensor]:
    return best_weights(straight_run(config(num_epochs=num_epochs), straight))


def test_best_model_that_no_checkpoint_knows_gives_way(tmp_path: Path, straight: Path) -> None:
    configuration = config(checkpointer=EVERY_FOUR_BATCHES)
    run = tmp_path / "run"
    train_here(configuration, run, interrupt_at=(3, 1))
    assert (run / "best_of_epoch_1.th").exists()
    assert differences(best_weights(run), best_of_first_epochs(3, straight)) == []
    go_on_for_the_worse(configuration, run)
    assert metrics(run)["best_epoch"] == 1
    assert differences(best_weights(run), best_of_first_epochs(2, straight)) == []
    assert not list(run.glob("best_of*"))


def other_names(state: Dict[str, Any]) -> Any:
    return {f"other.{name}": value for name, value in state.items()}


def other_shapes(state: Dict[str, Any]) -> Any:
    return {name: torch.cat([value, value]) for name, value in state.items()}


FOREIGN: Dict[str, Any] = {
    "names": ("model", other_names, "key(s) in state_dict"),
    "shapes": ("model", other_shapes, "size mismatch"),
    "list": ("model", lambda state: [state], "holds a list"),
    "no_training_state": ("training", lambda state: {"version": 1}, "KeyError"),
}


@pytest.mark.parametrize(
    "foreign, checkpointer",
    [
        *((foreign, "default") for foreign in FOREIGN),
        # In the training state are raw weights of other shapes, which are put in their places.
        *((foreign, "swapping") for foreign in FOREIGN if foreign != "shapes"),
    ],
)
def test_foreign_checkpoint_is_skipped(
    foreign: str, checkpointer: str, tmp_path: Path, straight: Path
) -> None:
    what, make, reason = FOREIGN[foreign]
    configuration = config(checkpointer={"type": checkpointer})
    run = tmp_path / "run"
    train_here(configuration, run, interrupt_at=(3, 1))
    path = run / f"{what}_state_e3_b0.th"
    torch.save(make(dict(torch.load(str(path)))), str(path))
    log = go_on_for_the_worse(configuration, run)
    (warning,) = {line for line in log.splitlines() if "is skipped" in line}
    assert f"{run}/model_state_e3_b0.th" in warning
    assert reason in log
    # It has as its best what the checkpoint from before has.
    assert metrics(run)["best_epoch"] == 1
    assert differences(best_weights(run), best_of_first_epochs(2, straight)) == []


def test_foreign_checkpoints_are_none_of_the_most_recent(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train_here(config(), run, interrupt_at=(2, 1))
    for epochs in (8, 9):
        for what in ("model", "training"):
            torch.save({"nothing": torch.ones(1)}, str(run / f"{what}_state_e{epochs}_b0.th"))
    train_here(config(), run, recover=True)
    assert sorted(path.name for path in run.glob("model_state_*")) == [
        f"model_state_e{epochs}_b0.th" for epochs in (3, 4, 8, 9)
    ]


def test_training_of_another_model_says_why_it_cannot_go_on(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train_here(config(), run, interrupt_at=(2, 1))
    other = config()
    other["model"]["encoder"]["hidden_size"] = 7
    (run / "config.json").write_text(json.dumps(other))
    with pytest.raises(ConfigurationError, match="Could not recover training") as raised:
        train_here(other, run, recover=True)
    assert "size mismatch" in str(raised.value.__cause__)


def test_checkpoint_of_swapping_read_by_allennlps_own(tmp_path: Path, straight: Path) -> None:
    run = tmp_path / "run"
    train_here(SWAPPING, run, interrupt_at=(3, 2))
    (run / "config.json").write_text(json.dumps(config()))
    train_here(config(), run, recover=True)
    assert_ended_like(straight_run(config(), straight), run)


@pytest.mark.parametrize("fault", ["missing", "truncated"])
def test_best_model_that_is_lost(fault: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    configuration = config(num_epochs=6)
    train_here(configuration, run, interrupt_at=(4, 1))
    best = run / "best.th"
    best.unlink() if fault == "missing" else os.truncate(str(best), best.stat().st_size // 2)
    train_here(configuration, run, recover=True)
    assert "The best model so far, of epoch 2, is lost" in (run / "out.log").read_text()
    averages = torch.load(str(run / f"training_state_e{metrics(run)['best_epoch'] + 1}_b0.th"))
    assert differences(dict(best_weights(run)), averages["moving_average"]["averages"]) == []


def test_best_model_of_a_finished_training_that_is_lost(tmp_path: Path) -> None:
    configuration = config()
    train_here(configuration, tmp_path / "run")
    run = tmp_path / "run"
    last_epoch = metrics(run)["epoch"]
    assert metrics(run)["best_epoch"] < last_epoch
    (run / "best.th").unlink()
    (run / "model.tar.gz").unlink()
    train_here(configuration, run, recover=True)
    assert "best.th has the averages of the last epoch" in (run / "out.log").read_text()
    averages = torch.load(str(run / f"training_state_e{last_epoch + 1}_b0.th"))["moving_average"]
    assert differences(dict(best_weights(run)), averages["averages"]) == []
    archived = load_archive(str(run / "model.tar.gz")).model.state_dict()
    assert differences(dict(archived), dict(best_weights(run))) == []
    # What is said of the best epoch would be said of another model.
    assert metrics(run)["epoch"] == last_epoch and metrics(run)["best_epoch"] is None


@TrainerCallback.register("fills_the_disk")
class FillsTheDisk(TrainerCallback):
    name = "best.th"

    def on_epoch(self, trainer: Any, metrics: Any, epoch: int, **kwargs: Any) -> None:
        if epoch == 2:
            (Path(self.serialization_dir) / f"{self.name}.partial").symlink_to("/dev/full")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no disk that is always full")
@pytest.mark.parametrize(
    "name",
    ["best.th", "model_state_e3_b0.th", "training_state_e3_b0.th", "moving_average.csv"],
)
def test_full_disk(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FillsTheDisk, "name", name)
    run = tmp_path / "run"
    with pytest.raises(ConfigurationError) as raised:
        train_here(config(callbacks=["fills_the_disk", "moving_average_monitor"]), run)
    monkeypatch.setattr(FillsTheDisk, "name", "nothing")
    size = (run / name.replace("e3", "e2")).stat().st_size
    assert f"{run / name} cannot be written: No space left on device. It takes" in str(raised.value)
    assert abs(int(str(raised.value).split("It takes ")[1].split()[0]) - size) < 500
    assert not list(run.glob("*.partial"))
    train_here(config(callbacks=["fills_the_disk", "moving_average_monitor"]), run, recover=True)
    assert metrics(run)["best_epoch"] == 2


def test_two_processes_killed_within_the_best_model(tmp_path: Path) -> None:
    configuration = {**config(num_epochs=2), "distributed": {"cuda_devices": [-1, -1]}}
    run = tmp_path / "run"
    train(
        configuration,
        run,
        include_packages=["tests.support.interruption"],
        environment={KILL_AT_FILE: "best.th,2,within"},
        expected_returncode=-signal.SIGKILL,
    )
    assert (run / "best.th.partial").exists()
    train(configuration, run, recover=True)
    assert metrics(run)["best_epoch"] == 1
    average = torch.load(str(run / "training_state_e2_b0.th"))["moving_average"]["averages"]
    weights = {f"module.{name}": value for name, value in best_weights(run).items()}
    assert differences(weights, average) == []
    assert not list(run.glob("*.partial"))


class ShardedTrainer:
    """As much of a trainer of one of two workers as the file of its best model sees of it."""

    def __init__(self, directory: Path, rank: int = 1) -> None:
        self._serialization_dir, self._rank, self._primary = str(directory), rank, rank == 0
        self._ddp_wrapped_model = SimpleNamespace(is_sharded=True)
        self._checkpointer = SimpleNamespace(_find_all_checkpoints=lambda: {(1, 0), (2, 0)})
        self._moving_average = self._validation_data_loader = object()
        self._metric_tracker = SimpleNamespace(best_epoch=0)
        self._epochs_completed, self._batches_in_epoch_completed = 1, 0
        self._start_after_epochs_completed = self._start_after_batches_in_epoch_completed = 0

    def write_best(self, epoch: int) -> None:
        self._metric_tracker.best_epoch, self._epochs_completed = epoch, epoch + 1
        with best_model_file_of(self).written() as file:
            torch.save({"weights": {"epoch": epoch}, "metadata": {}}, file)


def test_every_worker_has_its_own_best_shard(tmp_path: Path) -> None:
    for rank in (0, 1):
        trainer = ShardedTrainer(tmp_path, rank)
        trainer.write_best(0)
        trainer.write_best(1)
    assert files(tmp_path) == [
        "best_of_epoch_0_w0.th",
        "best_of_epoch_0_w1.th",
        "best_w0.th",
        "best_w1.th",
    ]
    # Killed before its checkpoint was there: the best is the one of the checkpoint before.
    recovered = ShardedTrainer(tmp_path, rank=1)
    assert best_model_file_of(recovered).put_in_place()
    assert torch.load(str(tmp_path / "best_w1.th"))["weights"] == {"epoch": 0}
    assert torch.load(str(tmp_path / "best_w0.th"))["weights"] == {"epoch": 1}
    assert files(tmp_path) == ["best_of_epoch_0_w0.th", "best_w0.th", "best_w1.th"]


def test_best_models_of_before_are_one_at_most(tmp_path: Path) -> None:
    trainer = ShardedTrainer(tmp_path)
    for epoch in range(4):
        trainer.write_best(epoch)
        assert len(list(tmp_path.glob("best_of*"))) == (epoch > 0)
    # Two were skipped, and the best of that before is gone.
    recovered = ShardedTrainer(tmp_path)
    recovered._metric_tracker.best_epoch = 1
    assert not best_model_file_of(recovered).put_in_place()
    assert files(tmp_path) == []
