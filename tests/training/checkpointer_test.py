import copy
import json
import os
import shutil
from pathlib import Path
from typing import Any, Callable, Dict, List
from unittest import mock

import pytest
import torch
from allennlp.commands.evaluate import evaluate_from_archive
from allennlp.common import Params
from allennlp.common.checks import ConfigurationError
from allennlp.training import Checkpointer
from allennlp.training.trainer import TrainerCheckpoint

from allennlp_ema import BankMovingAverage, ExponentialMovingAverage, SwappingCheckpointer
from allennlp_ema.training import checkpoint_files
from tests.support.training_runs import (
    DATA,
    best_weights,
    differences,
    metrics,
    tagger_config,
    train_here,
)

AVERAGE = {"type": "exponential", "decay": 0.9}


def config(checkpointer: str = "swapping", **trainer: Any) -> Dict[str, Any]:
    return tagger_config(
        checkpointer={"type": checkpointer, "keep_most_recent_by_count": None},
        **{"moving_average": AVERAGE, **trainer},
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same training with AllenNLP's checkpointer and with this one."""
    directory = tmp_path_factory.mktemp("checkpointer")
    train_here(config("default"), directory / "default")
    train_here(config(), directory / "swapping")
    return directory


def model_state(run: Path, epochs: int) -> Dict[str, torch.Tensor]:
    return dict(torch.load(str(run / f"model_state_e{epochs}_b0.th")))


def training_state(run: Path, epochs: int) -> Dict[str, Any]:
    return torch.load(str(run / f"training_state_e{epochs}_b0.th"))


@pytest.mark.everywhere
def test_model_files_hold_averages_and_training_files_raw_weights(runs: Path) -> None:
    for epochs in range(1, 5):
        raw = model_state(runs / "default", epochs)
        swapping = training_state(runs / "swapping", epochs)
        averages = swapping["moving_average"]["averages"]
        assert differences(raw, averages) != []
        assert differences(model_state(runs / "swapping", epochs), averages) == []
        assert differences(dict(swapping.pop("raw_model_state")), raw) == []
        default = training_state(runs / "default", epochs)
        assert swapping.keys() == default.keys()
        for key in ("optimizer", "moving_average", "metric_tracker"):
            assert differences(swapping[key], default[key]) == []


def test_model_file_is_ready_to_be_evaluated(runs: Path, tmp_path: Path) -> None:
    evaluated = evaluate_from_archive(
        str(runs / "swapping" / "model.tar.gz"),
        str(DATA / "dev.tsv"),
        metrics_output_file=str(tmp_path / "metrics.json"),
        weights_file=str(runs / "swapping" / "model_state_e2_b0.th"),
    )
    then = json.loads((runs / "swapping" / "metrics_epoch_1.json").read_text())
    for key in ("loss", "accuracy"):
        assert evaluated[key] == pytest.approx(then[f"validation_{key}"], rel=1e-6)
    assert json.loads((tmp_path / "metrics.json").read_text())["loss"] == evaluated["loss"]


def test_recovered_run_ends_like_one_with_allennlps_checkpointer(
    runs: Path, tmp_path: Path
) -> None:
    train_here(config(), tmp_path / "run", interrupt_at=(2, 3))
    train_here(config(), tmp_path / "run", recover=True)
    assert_ends_like_allennlps(runs, tmp_path / "run")


def assert_ends_like_allennlps(runs: Path, run: Path) -> None:
    assert differences(best_weights(runs / "default"), best_weights(run)) == []
    expected = training_state(runs / "default", 4)
    state = training_state(run, 4)
    assert differences(dict(state["raw_model_state"]), model_state(runs / "default", 4)) == []
    for key in ("optimizer", "moving_average", "metric_tracker"):
        assert differences(state[key], expected[key]) == []
    for key, value in metrics(runs / "default").items():
        if key.startswith(("best_", "validation_")):
            assert metrics(run)[key] == value


@pytest.mark.parametrize(
    "trainer",
    [
        {"moving_average": {"type": "window", "window_size": 3, "update_every": 2}},
        {"moving_average": {"decay": 0.9, "shadow_dtype": "float64", "exclude": ["encoder"]}},
        {
            "moving_average": None,
            "optimizer": {
                "type": "moving_average",
                "optimizer": {"type": "adam", "lr": 0.02},
                "moving_average": AVERAGE,
            },
        },
        {
            "moving_average": {
                "type": "allennlp.training.moving_average.ExponentialMovingAverage",
                "decay": 0.9,
            }
        },
    ],
    ids=["window", "float64_of_some", "optimizer", "allennlps"],
)
def test_every_average_is_swapped_and_the_raw_weights_come_back(
    trainer: Dict[str, Any], tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with mock.patch.object(Checkpointer, "save_checkpoint", _note_states):
        train_here(config(num_epochs=2, **trainer), run)
    noted = torch.load(str(run / "noted.th"))
    assert differences(noted["raw"], noted["averages"]) != []
    assert differences(model_state(run, 2), noted["averages"]) == []
    loaded = SwappingCheckpointer(str(run)).load_checkpoint()
    assert loaded is not None and "raw_model_state" not in loaded.trainer_state
    assert differences(dict(loaded.model_state), noted["raw"]) == []
    if trainer["moving_average"] and "exclude" in trainer["moving_average"]:
        # What is not averaged is not written twice.
        raw = training_state(run, 2)["raw_model_state"]
        assert raw and not any("encoder" in name for name in raw)


def _note_states(self: Checkpointer, trainer: Any) -> None:
    raw = copy.deepcopy(dict(trainer.model.state_dict()))
    trainer._moving_average.assign_average_value()
    averages = copy.deepcopy(dict(trainer.model.state_dict()))
    trainer._moving_average.restore()
    torch.save(
        {"raw": raw, "averages": averages}, os.path.join(self._serialization_dir, "noted.th")
    )


class FakeTrainer:
    """As much of a trainer as a checkpointer sees of it."""

    def __init__(self, model: torch.nn.Module, average: Any = None, sharded: bool = False) -> None:
        self.model = self._pytorch_model = model
        self._moving_average = average
        self.sharded = sharded
        self.epochs = 0

    def get_checkpoint_state(self) -> TrainerCheckpoint:
        weights: Dict[str, Any] = self.model.state_dict()
        return TrainerCheckpoint(
            {"weights": weights, "metadata": {"rank": 0}} if self.sharded else weights,
            {"epochs_completed": self.epochs, "batches_in_epoch_completed": 0},
        )


class TiedWithBuffer(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = torch.nn.Linear(2, 2)
        self.other = torch.nn.Linear(2, 2)
        self.other.weight = self.one.weight
        self.frozen = torch.nn.Parameter(torch.ones(3), requires_grad=False)
        self.register_buffer("statistics", torch.zeros(2))
        self.register_buffer("positions", torch.arange(4))


def averaged(model: torch.nn.Module) -> ExponentialMovingAverage:
    """An average of zeros of parameters that are ones by now."""
    parameters = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    with torch.no_grad():
        for _, parameter in parameters:
            parameter.zero_()
        average = ExponentialMovingAverage(parameters, decay=1.0)
        for _, parameter in parameters:
            parameter.fill_(1.0)
    return average


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("sharded", [False, True])
def test_tied_parameters_and_buffers_that_follow_the_average(
    sharded: bool, in_place: bool, tmp_path: Path
) -> None:
    model = TiedWithBuffer()
    average = averaged(model)
    assign, restore = average.assign_average_value, average.restore
    raw_statistics = model.statistics

    def assign_with_buffer() -> None:
        assign()
        if in_place:
            model.statistics.fill_(5.0)
        else:
            model.statistics = torch.full((2,), 5.0)

    def restore_with_buffer() -> None:
        restore()
        model.statistics = raw_statistics
        model.statistics.zero_()

    average.assign_average_value = assign_with_buffer  # type: ignore[method-assign]
    average.restore = restore_with_buffer  # type: ignore[method-assign]
    checkpointer = SwappingCheckpointer(str(tmp_path))
    checkpointer.state_is_sharded = sharded
    checkpointer.save_checkpoint(FakeTrainer(model, average, sharded))

    name = "state_e0_b0_w0.th" if sharded else "state_e0_b0.th"
    saved = torch.load(str(tmp_path / f"model_{name}"))
    saved = saved["weights"] if sharded else saved
    assert not saved["one.weight"].any() and not saved["other.weight"].any()
    assert saved["statistics"].tolist() == [5.0, 5.0]
    raw = torch.load(str(tmp_path / f"training_{name}"))["raw_model_state"]
    assert sorted(raw) == [
        "one.bias",
        "one.weight",
        "other.bias",
        "other.weight",
        "statistics",
    ]
    loaded = checkpointer.load_checkpoint()
    assert loaded is not None
    if sharded:
        assert loaded.model_state["metadata"] == {"rank": 0}
    weights = loaded.model_state["weights"] if sharded else loaded.model_state
    assert differences(dict(weights), dict(model.state_dict())) == []
    assert weights["other.weight"].all() and not weights["statistics"].any()


def test_while_averages_are_assigned_there_is_nothing_to_save(tmp_path: Path) -> None:
    model = TiedWithBuffer()
    average = averaged(model)
    checkpointer = SwappingCheckpointer(str(tmp_path))
    with average.average_values(), pytest.raises(RuntimeError, match="before save_checkpoint"):
        checkpointer.save_checkpoint(FakeTrainer(model, average))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("assigned", ["active", "other"])
def test_checkpoint_while_one_of_a_bank_is_assigned(assigned: str, tmp_path: Path) -> None:
    model = TiedWithBuffer()
    averages = {"active": averaged(model), "other": averaged(model)}
    bank = BankMovingAverage(model.named_parameters(), averages=averages, active="active")
    with averages[assigned].average_values():
        with pytest.raises(RuntimeError, match="before save_checkpoint"):
            SwappingCheckpointer(str(tmp_path)).save_checkpoint(FakeTrainer(model, bank))
        Checkpointer(str(tmp_path)).save_checkpoint(FakeTrainer(model, bank))
        assert not model.one.weight.any()
    assert torch.load(str(tmp_path / "model_state_e0_b0.th"))["one.weight"].all()


def test_without_an_average_it_says_so_once_and_saves_the_weights(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = FakeTrainer(TiedWithBuffer())
    checkpointer = SwappingCheckpointer(str(tmp_path))
    for trainer.epochs in (1, 2):
        checkpointer.save_checkpoint(trainer)
    assert caplog.text.count("finds no moving average to swap in") == 1
    loaded = checkpointer.load_checkpoint()
    assert loaded is not None
    assert differences(dict(loaded.model_state), dict(trainer.model.state_dict())) == []


FAULTS: Dict[str, Callable[[Path], Any]] = {
    "truncated": lambda file: os.truncate(str(file), file.stat().st_size // 2),
    "truncated_at_the_end": lambda file: os.truncate(str(file), file.stat().st_size - 1),
    "empty": lambda file: os.truncate(str(file), 0),
    "no_torch_file": lambda file: file.write_bytes(b"nothing of torch's"),
    "missing": lambda file: file.unlink(),
}


@pytest.mark.everywhere
@pytest.mark.parametrize("what", ["model", "training"])
@pytest.mark.parametrize("fault", list(FAULTS))
def test_checkpoint_that_cannot_be_read_is_skipped(
    fault: str, what: str, runs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for epochs in (2, 3):
        for each in ("model", "training"):
            shutil.copy(str(runs / "swapping" / f"{each}_state_e{epochs}_b0.th"), str(tmp_path))
    FAULTS[fault](tmp_path / f"{what}_state_e3_b0.th")
    loaded = SwappingCheckpointer(str(tmp_path)).load_checkpoint()
    assert loaded is not None
    assert loaded.trainer_state["epochs_completed"] == 2
    assert differences(dict(loaded.model_state), model_state(runs / "default", 2)) == []
    assert f"{tmp_path}/model_state_e3_b0.th" in caplog.text
    assert "cannot be read and is skipped" in caplog.text

    FAULTS[fault](tmp_path / f"{what}_state_e2_b0.th")
    with pytest.raises(ConfigurationError, match="None of the 2 checkpoints"):
        SwappingCheckpointer(str(tmp_path)).load_checkpoint()


def test_no_checkpoints(tmp_path: Path) -> None:
    assert SwappingCheckpointer(str(tmp_path)).load_checkpoint() is None
    assert SwappingCheckpointer(str(tmp_path)).find_latest_checkpoint() is None
    assert SwappingCheckpointer(str(tmp_path / "nowhere")).load_checkpoint() is None


def test_run_goes_on_from_the_newest_whole_checkpoint_and_replaces_the_truncated_one(
    runs: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train_here(config(), run, interrupt_at=(2, 3))
    FAULTS["truncated"](run / "model_state_e2_b0.th")
    train_here(config(), run, recover=True)
    assert_ends_like_allennlps(runs, run)
    assert differences(model_state(run, 2), model_state(runs / "swapping", 2)) == []


class Killed(BaseException):
    pass


@pytest.mark.parametrize("writes", [0, 1])
def test_killed_while_it_writes_leaves_no_half_file(
    writes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = FakeTrainer(TiedWithBuffer(), None)
    trainer._moving_average = averaged(trainer.model)
    checkpointer = SwappingCheckpointer(str(tmp_path))
    checkpointer.save_checkpoint(trainer)
    trainer.epochs = 1
    save, saved = torch.save, []

    def save_half(state: Any, file: Any) -> None:
        saved.append(file)
        if len(saved) > writes:
            file.write(b"half")
            raise Killed
        save(state, file)

    monkeypatch.setattr(torch, "save", save_half)
    with pytest.raises(Killed):
        checkpointer.save_checkpoint(trainer)
    whole = {"model_state_e0_b0.th", "training_state_e0_b0.th"}
    assert {file.name for file in tmp_path.glob("*.th")} == whole
    loaded = SwappingCheckpointer(str(tmp_path)).load_checkpoint()
    assert loaded is not None and loaded.trainer_state["epochs_completed"] == 0
    assert {file.name for file in tmp_path.iterdir()} == whole


def test_partial_files_that_a_kill_left_are_removed(tmp_path: Path) -> None:
    written = ["best.th", "model_state_e1_b0.th", "metrics.json", "model.tar.gz"]
    for name in [*written, "moving_average.csv"]:
        (tmp_path / f"{name}.partial").write_bytes(b"half")
    (tmp_path / "download.partial").write_bytes(b"of somebody else")
    assert SwappingCheckpointer(str(tmp_path)).load_checkpoint() is None
    assert [file.name for file in tmp_path.iterdir()] == ["download.partial"]


def test_killed_between_the_two_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = FakeTrainer(TiedWithBuffer())
    checkpointer = SwappingCheckpointer(str(tmp_path))
    checkpointer.save_checkpoint(trainer)
    trainer.epochs = 1
    replace, replaced = os.replace, []

    def replace_one(source: str, target: str) -> None:
        if replaced:
            raise Killed
        replaced.append(target)
        replace(source, target)

    monkeypatch.setattr(os, "replace", replace_one)
    with pytest.raises(Killed):
        checkpointer.save_checkpoint(trainer)
    # By the model's file a checkpoint is found, also by what knows nothing of this class.
    latest = Checkpointer(str(tmp_path)).find_latest_checkpoint()
    assert latest is not None and "e0_b0" in latest[0]
    assert SwappingCheckpointer(str(tmp_path)).find_latest_checkpoint() == latest
    loaded = SwappingCheckpointer(str(tmp_path)).load_checkpoint()
    assert loaded is not None and loaded.trainer_state["epochs_completed"] == 0
    assert "model_state_e1_b0.th" in caplog.text


def test_keeps_the_most_recent_whole_ones(tmp_path: Path) -> None:
    trainer = FakeTrainer(TiedWithBuffer())
    checkpointer = SwappingCheckpointer(str(tmp_path), keep_most_recent_by_count=2)
    (tmp_path / "model_state_e9_b0.th").write_bytes(b"a checkpoint without its other file")
    for trainer.epochs in range(4):
        checkpointer.save_checkpoint(trainer)
    assert sorted(file.name for file in tmp_path.glob("training_state_*")) == [
        "training_state_e2_b0.th",
        "training_state_e3_b0.th",
    ]
    assert not (tmp_path / "model_state_e1_b0.th").exists()


def test_an_old_checkpoint_is_removed_without_those_whose_names_begin_alike(
    tmp_path: Path,
) -> None:
    checkpointer: Any = Checkpointer(str(tmp_path), keep_most_recent_by_count=1)
    names = ["e0_b1", "e0_b1_w1", "e0_b10", "e0_b1000_w1", "e10_b1", "e1_b1"]
    for name in names:
        for kind in ("model", "training"):
            (tmp_path / f"{kind}_state_{name}.th").touch()
    checkpointer._remove_checkpoint(0, 1)
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == [f"{kind}_state_{n}.th" for kind in ("model", "training") for n in names[2:]]


def test_every_worker_goes_on_from_a_checkpoint_that_all_can_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = FakeTrainer(TiedWithBuffer(), sharded=True)
    checkpointer = SwappingCheckpointer(str(tmp_path), keep_most_recent_by_count=None)
    checkpointer.state_is_sharded = True
    for trainer.epochs in (1, 2, 3):
        checkpointer.save_checkpoint(trainer)
    # What the other of two workers answers: it has a fourth, but can read the first alone.
    answers: List[Any] = [{(1, 0), (2, 0), (3, 0), (4, 0)}, True, False, False, True]
    questions = []

    def from_all_workers(value: Any) -> List[Any]:
        questions.append(value)
        return [value, answers[len(questions) - 1]]

    monkeypatch.setattr(checkpoint_files, "from_all_workers", from_all_workers)
    loaded = checkpointer.load_checkpoint()
    assert questions == [{(1, 0), (2, 0), (3, 0)}, False, True, True, True]
    assert loaded is not None and loaded.trainer_state["epochs_completed"] == 1


def test_bad_configuration() -> None:
    with pytest.raises(ConfigurationError, match='unknown key "save_every_batches" for Swapping'):
        Checkpointer.from_params(
            Params({"type": "swapping", "save_every_batches": 3}), serialization_dir="nowhere"
        )
