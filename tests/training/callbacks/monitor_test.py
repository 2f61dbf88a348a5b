import csv
import json
import math
import re
import sys
from pathlib import Path
from typing import Any, Dict, List
from unittest import mock

import pytest
import tensorboardX
import torch
from allennlp.commands.train import TrainModel
from allennlp.common import Params
from allennlp.common.checks import ConfigurationError
from allennlp.training.callbacks import TrainerCallback
from allennlp.training.util import evaluate

from allennlp_ema.averages.attachment import Attachment
from allennlp_ema.training.callbacks import monitor
from tests.support.training_runs import (
    best_weights,
    differences,
    latest_checkpoint,
    metrics,
    tagger_config,
    train_here,
)

MONITOR = {"type": "moving_average_monitor"}
AVERAGE = {"type": "exponential", "decay": 0.9}
FIGURES = ["decay", "effective_window", "distance", "stalled_share", "non_finite_share"]


def config(*callbacks: Any, **trainer: Any) -> Dict[str, Any]:
    trainer = {"moving_average": AVERAGE, "validation_metric": "+accuracy", **trainer}
    return tagger_config(callbacks=list(callbacks), **trainer)


def rows(directory: Path) -> List[Dict[str, str]]:
    with (directory / "moving_average.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def metrics_of_epoch(directory: Path, epoch: int) -> Dict[str, Any]:
    return json.loads((directory / f"metrics_epoch_{epoch}.json").read_text())


def evaluated(directory: Path, weights: Dict[str, torch.Tensor]) -> Dict[str, float]:
    """The validation metrics of `weights`, by AllenNLP itself."""
    trainer = TrainModel.from_params(
        Params.from_file(directory / "config.json"), serialization_dir=str(directory), local_rank=0
    ).trainer
    trainer.model.load_state_dict(weights)
    return evaluate(trainer.model, trainer._validation_data_loader)


@pytest.fixture(scope="module")
def monitored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four epochs of six batches, all checkpoints kept."""
    directory = tmp_path_factory.mktemp("monitored") / "run"
    train_here(config(MONITOR, checkpointer={"keep_most_recent_by_count": 9}), directory)
    return directory


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than the rest of these trainings."""
    monkeypatch.setattr(monitor, "picture", lambda *arguments: b"")


@pytest.mark.everywhere
class TestNumbers:
    @pytest.mark.parametrize("epoch", range(4))
    def test_raw_metrics_are_those_of_the_raw_weights(self, monitored: Path, epoch: int) -> None:
        raw_weights = torch.load(str(monitored / f"model_state_e{epoch + 1}_b0.th"))
        expected = evaluated(monitored, raw_weights)
        assert {"accuracy", "loss"} <= set(expected)
        shown = metrics_of_epoch(monitored, epoch)
        for name, value in expected.items():
            assert shown[f"validation_raw_{name}"] == pytest.approx(value, rel=1e-6)
            assert shown[f"validation_{name}"] != shown[f"validation_raw_{name}"] or name != "loss"

    def test_averaged_metrics_stay_those_of_the_averaged_weights(self, monitored: Path) -> None:
        for name, value in evaluated(monitored, best_weights(monitored)).items():
            assert metrics(monitored)[f"best_validation_{name}"] == pytest.approx(value, rel=1e-6)

    def test_average(self, monitored: Path) -> None:
        model_state, training_state = latest_checkpoint(monitored)
        averages = training_state["moving_average"]["averages"]
        squares = [
            ((averages[name] - raw).double().square().sum(), raw.double().square().sum())
            for name, raw in model_state.items()
        ]
        distance = math.sqrt(sum(s for s, _ in squares) / sum(s for _, s in squares))
        shown = metrics(monitored)
        assert shown["training_moving_average_distance"] == pytest.approx(distance, rel=1e-9)
        # (1 + n) / (10 + n) at update 24.
        assert shown["training_moving_average_decay"] == pytest.approx(25 / 34)
        weights = [1.0]
        for n in range(1, 25):
            decay = (1 + n) / (10 + n)
            weights = [decay * weight for weight in weights] + [1 - decay]
        window = 1 / sum(weight**2 for weight in weights)
        assert shown["training_moving_average_effective_window"] == pytest.approx(window)
        assert shown["training_moving_average_stalled_share"] == 0.0

    def test_table_has_what_the_metrics_have(self, monitored: Path) -> None:
        table = rows(monitored)
        assert [row["epoch"] for row in table] == ["0", "1", "2", "3"]
        assert [row["num_updates"] for row in table] == ["6", "12", "18", "24"]
        for epoch, row in enumerate(table):
            shown = metrics_of_epoch(monitored, epoch)
            for column in (
                "decay",
                "effective_window",
                "distance",
                "stalled_share",
                "non_finite_share",
            ):
                assert float(row[column]) == shown[f"training_moving_average_{column}"]
            for metric in ("accuracy", "accuracy3", "loss"):
                for column in (f"validation_{metric}", f"validation_raw_{metric}"):
                    assert float(row[column]) == shown[column]
        assert {k: v for k, v in metrics(monitored).items() if "raw" in k} == {
            k: v for k, v in metrics_of_epoch(monitored, 3).items() if "raw" in k
        }

    def test_picture_is_there(self, monitored: Path) -> None:
        assert (monitored / "moving_average.png").read_bytes().startswith(b"\x89PNG")
        assert not list(monitored.glob("*.partial"))

    def test_console_table(self, monitored: Path) -> None:
        log = (monitored / "out.log").read_text()
        for epoch in range(4):
            raw_loss = metrics_of_epoch(monitored, epoch)["validation_raw_loss"]
            assert f"raw_loss                        |       N/A  |  {raw_loss:8.3f}\n" in log
        assert log.count("moving_average_decay            |     0.735  |       N/A") == 1

    @pytest.mark.usefixtures("undrawn")
    def test_equal_weights_have_equal_metrics(self, tmp_path: Path) -> None:
        average = {"type": "uniform", "start_step": 1000}
        train_here(config(MONITOR, moving_average=average, num_epochs=1), tmp_path / "run")
        shown = metrics(tmp_path / "run")
        for name in ("accuracy", "accuracy3", "loss"):
            assert shown[f"validation_raw_{name}"] == shown[f"validation_{name}"]
        assert shown["training_moving_average_distance"] == 0.0
        # Nothing was averaged yet.
        assert "training_moving_average_decay" not in shown
        (row,) = rows(tmp_path / "run")
        assert (row["num_averaged"], row["decay"], row["effective_window"]) == ("0", "", "")
        assert "training_moving_average_effective_window" not in shown
        log = (tmp_path / "run" / "out.log").read_text()
        assert "The average has no sample yet after update 6" in log


class TestTraining:
    @pytest.mark.usefixtures("undrawn")
    def test_it_is_not_disturbed(self, tmp_path: Path) -> None:
        """Nor is the order of the validation data, nor what it draws."""
        for name, callbacks in (("without", []), ("with", [MONITOR])):
            plain = config(*callbacks, num_epochs=3)
            plain["model"]["encoder"].update(num_layers=2, dropout=0.3)
            plain["data_loader"]["shuffle"] = True
            train_here(plain, tmp_path / name)
        one, other = tmp_path / "without", tmp_path / "with"
        assert differences(best_weights(one), best_weights(other)) == []
        states = [latest_checkpoint(directory) for directory in (one, other)]
        assert differences(dict(states[0][0]), dict(states[1][0])) == []
        for key in ("moving_average", "optimizer", "metric_tracker"):
            assert differences(states[0][1][key], states[1][1][key]) == []
        for key, value in metrics(one).items():
            if not key.endswith(("_MB", "duration")):
                assert metrics(other)[key] == value

    def test_recovered_run_has_one_row_for_each_epoch(
        self, monitored: Path, tmp_path: Path
    ) -> None:
        directory = tmp_path / "run"
        train_here(config(MONITOR), directory, interrupt_at=(3, 2))
        # As if killed while epoch 2 was already drawn and its checkpoint not yet there.
        for file in directory.glob("*_state_e3_b0.th"):
            file.unlink()
        assert len(rows(directory)) == 3
        train_here(config(MONITOR), directory, recover=True)
        for name in ("moving_average.csv", "moving_average.png"):
            assert (directory / name).read_bytes() == (monitored / name).read_bytes()

    @pytest.mark.usefixtures("undrawn")
    def test_epochs_without_validation(self, tmp_path: Path) -> None:
        every_other = {"type": "should_validate_callback", "validation_interval": 2}
        for number, callbacks in enumerate(([MONITOR, every_other], [every_other, MONITOR])):
            directory = tmp_path / str(number)
            train_here(config(*callbacks, num_epochs=2), directory)
            for epoch, row in enumerate(rows(directory)):
                is_validated = epoch % 2 == 0
                assert (row["validation_raw_loss"] != "") == is_validated
                assert (row["validation_loss"] != "") == is_validated
                assert float(row["distance"]) > 0
                shown = metrics_of_epoch(directory, epoch)
                assert ("validation_raw_loss" in shown) == is_validated

    def test_without_validation_data(self, tmp_path: Path) -> None:
        plain = config(MONITOR, num_epochs=1)
        del plain["validation_data_path"]
        train_here(plain, tmp_path / "run")
        (row,) = rows(tmp_path / "run")
        assert not [column for column in row if "validation" in column]
        assert metrics(tmp_path / "run")["training_moving_average_distance"] > 0
        assert (tmp_path / "run" / "moving_average.png").exists()

    @pytest.mark.usefixtures("undrawn")
    def test_raw_weights_are_left_alone_on_demand(self, tmp_path: Path) -> None:
        train_here(config({**MONITOR, "validate_raw": False}, num_epochs=1), tmp_path / "run")
        (row,) = rows(tmp_path / "run")
        assert float(row["validation_loss"]) > 0 and "validation_raw_loss" not in row
        assert (tmp_path / "run" / "out.log").read_text().count(" - Validating\n") == 1

    @pytest.mark.usefixtures("undrawn")
    def test_average_of_an_optimizer(self, monitored: Path, tmp_path: Path) -> None:
        optimizer = {"type": "adam", "lr": 0.02}
        optimizer = {"type": "moving_average", "optimizer": optimizer, "moving_average": AVERAGE}
        plain = config(MONITOR, optimizer=optimizer, num_epochs=2)
        del plain["trainer"]["moving_average"]
        train_here(plain, tmp_path / "run")
        assert rows(tmp_path / "run") == rows(monitored)[:2]

    @pytest.mark.usefixtures("undrawn")
    def test_bank_is_shown_by_its_active_average(self, monitored: Path, tmp_path: Path) -> None:
        averages = {"slow": {"type": "uniform"}, "fast": AVERAGE}
        bank = {"type": "bank", "active": "fast", "averages": averages}
        train_here(config(MONITOR, moving_average=bank, num_epochs=2), tmp_path / "run")
        assert rows(tmp_path / "run") == rows(monitored)[:2]


class ValidationBatches(TrainerCallback):
    """Counts the validation batches that it hears of."""

    num_batches = 0

    def on_batch(self, trainer: Any, *arguments: Any, is_training: bool, **kwargs: Any) -> None:
        type(self).num_batches += not is_training


class TestOtherCallbacks:
    @pytest.mark.usefixtures("undrawn")
    def test_they_hear_of_one_validation(self, tmp_path: Path) -> None:
        counting = {"type": f"{__name__}.ValidationBatches"}
        train_here(config(MONITOR, counting, num_epochs=2), tmp_path / "run")
        assert ValidationBatches.num_batches == 2 * 3

    @pytest.mark.usefixtures("undrawn")
    def test_tensorboard_and_wandb_get_the_numbers_of_the_epoch(self, tmp_path: Path) -> None:
        directory = tmp_path / "run"
        callbacks = [MONITOR, {"type": "tensorboard"}, {"type": "wandb"}]
        scalars: Dict[Any, float] = {}

        def add_scalar(log: Any, name: str, value: float, step: int) -> None:
            scalars[name, step - 1] = value

        wandb = mock.MagicMock()
        wandb.util.generate_id.return_value = "id"
        writes_log = mock.patch.object(tensorboardX.SummaryWriter, "add_scalar", add_scalar)
        with mock.patch.dict(sys.modules, wandb=wandb), writes_log:
            train_here(config(*callbacks, num_epochs=2), directory)
        logged: Dict[Any, float] = {}
        for (values,), _ in wandb.log.call_args_list:
            logged.update({(name, values.get("epoch")): value for name, value in values.items()})
        for epoch in (0, 1):
            shown = metrics_of_epoch(directory, epoch)
            for place, name in (
                ("train/moving_average_distance", "training_moving_average_distance"),
                ("validation/raw_loss", "validation_raw_loss"),
            ):
                assert scalars[place, epoch] == logged[place, epoch] == shown[name]

    @pytest.mark.usefixtures("undrawn")
    def test_those_before_it_never_get_the_numbers_of_another_epoch(self, tmp_path: Path) -> None:
        names = []

        def add_scalar(log: Any, name: str, *arguments: Any) -> None:
            names.append(name)

        with mock.patch.object(tensorboardX.SummaryWriter, "add_scalar", add_scalar):
            train_here(config({"type": "tensorboard"}, MONITOR, num_epochs=2), tmp_path / "run")
        assert "validation/loss" in names
        assert not [name for name in names if "raw" in name or "moving_average" in name]
        log = (tmp_path / "run" / "out.log").read_text()
        assert "The TensorBoardCallback does not get the numbers" in log


class TestWarning:
    @pytest.mark.usefixtures("undrawn")
    def test_stalled_average(self, tmp_path: Path) -> None:
        average = {"type": "exponential", "decay": {"type": "constant", "decay": 0.99999999}}
        train_here(config(MONITOR, moving_average=average, num_epochs=2), tmp_path / "run")
        assert metrics(tmp_path / "run")["training_moving_average_stalled_share"] > 0.9
        log = (tmp_path / "run" / "out.log").read_text()
        assert log.count("The average stalls") == 1

    def test_average_that_does_not_stall(self, monitored: Path) -> None:
        log = (monitored / "out.log").read_text()
        assert "stalls" not in log and "no sample yet" not in log


class InfiniteForOneSample(Attachment):
    """A parameter is infinite for the second sample of epoch 1, and its own again after it."""

    name = "tag_projection_layer._module.bias"

    def __init__(self, trainer: Any) -> None:
        self.average = trainer._moving_average
        self.parameter = dict(trainer.model.named_parameters())[self.name].data
        self.own = self.parameter.clone()

    def before_sample(self) -> None:
        self.own = self.parameter.clone()
        if self.average.num_updates == 6 + 1:
            self.parameter[0] = math.inf


class InfiniteForOneSampleCallback(TrainerCallback):
    def on_start(self, trainer: Any, is_primary: bool = True, **kwargs: Any) -> None:
        self.attachment = InfiniteForOneSample(trainer)
        trainer._moving_average.attach(self.attachment)

    def on_batch(self, trainer: Any, *arguments: Any, is_training: bool, **kwargs: Any) -> None:
        if is_training:
            self.attachment.parameter.copy_(self.attachment.own)


INFINITE = {"type": f"{__name__}.InfiniteForOneSampleCallback"}
WARNING = r'The average "(\w+)" holds NaN or infinite values that the parameters do not, (.*)\. No'


class TestNonFiniteValues:
    @pytest.mark.usefixtures("undrawn")
    def test_each_average_is_named_with_its_epoch_over_recover_too(self, tmp_path: Path) -> None:
        averages = {"slow": {"type": "uniform"}, "fast": AVERAGE}
        averages["short"] = {"type": "window", "window_size": 3}
        bank = {"type": "bank", "active": "short", "averages": averages}
        plain = config(MONITOR, INFINITE, moving_average=bank)
        directory = tmp_path / "run"
        train_here(plain, directory, interrupt_at=(3, 2))
        since = f"since epoch 1, in {InfiniteForOneSample.name}"
        expected = [("slow", since), ("fast", since)]
        assert re.findall(WARNING, (directory / "out.log").read_text()) == expected
        (directory / "out.log").unlink()
        train_here(plain, directory, recover=True)
        assert re.findall(WARNING, (directory / "out.log").read_text()) == expected
        shares = [float(row["non_finite_share"]) for row in rows(directory)]
        num_values = sum(weights.numel() for weights in best_weights(directory).values())
        # A window has forgotten it by the end of the epoch.
        assert shares == pytest.approx([0.0, *[2 / (3 * num_values)] * 3])
        assert metrics(directory)["training_moving_average_non_finite_share"] == shares[-1]
        assert math.isfinite(float(rows(directory)[-1]["distance"]))

    def test_none(self, monitored: Path) -> None:
        assert "holds NaN" not in (monitored / "out.log").read_text()
        assert {row["non_finite_share"] for row in rows(monitored)} == {"0.0"}


class TestMistakes:
    def test_no_average(self, tmp_path: Path) -> None:
        plain = config(MONITOR)
        del plain["trainer"]["moving_average"]
        with pytest.raises(ConfigurationError, match="moving_average_monitor.*needs an average"):
            train_here(plain, tmp_path / "run")

    def test_average_of_another_kind(self, tmp_path: Path) -> None:
        allennlps = {"type": "allennlp.training.moving_average.ExponentialMovingAverage"}
        with pytest.raises(ConfigurationError, match="moving_average.ExponentialMovingAverage"):
            train_here(config(MONITOR, moving_average=allennlps), tmp_path / "run")

    def test_unknown_key(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match='"validate".*its keys are validate_raw'):
            train_here(config({**MONITOR, "validate": True}), tmp_path / "run")
