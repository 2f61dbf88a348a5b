"""
Which weights a training validates, saves and leaves in the model: averaged or raw.
"""

import json
from pathlib import Path
from typing import Any, ClassVar, Dict, Optional

import pytest
import torch
from allennlp.commands.evaluate import evaluate_from_archive
from allennlp.models.archival import load_archive
from allennlp.training import GradientDescentTrainer
from allennlp.training.callbacks import TrainerCallback

from tests.support.training_runs import (
    DATA,
    best_weights,
    differences,
    latest_checkpoint,
    metrics,
    tagger_config,
    train_here,
)

KEEP_ALL = {"keep_most_recent_by_count": None}


def config(**trainer: Any) -> Dict[str, Any]:
    moving_average = {"type": "exponential", "decay": 0.95}
    return tagger_config(moving_average=moving_average, **{"checkpointer": KEEP_ALL, **trainer})


@pytest.fixture(scope="module")
def unaveraged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the same training, on which averaging is not to have an influence."""
    directory = tmp_path_factory.mktemp("unaveraged") / "run"
    train_here(tagger_config(checkpointer=KEEP_ALL), directory)
    return directory


def averages(directory: Path, epochs_completed: int) -> Dict[str, torch.Tensor]:
    state = torch.load(str(directory / f"training_state_e{epochs_completed}_b0.th"))
    return dict(state["moving_average"]["averages"])


def raw_weights(directory: Path, epochs_completed: int) -> Dict[str, torch.Tensor]:
    return dict(torch.load(str(directory / f"model_state_e{epochs_completed}_b0.th")))


def loss(directory: Path, weights: str) -> float:
    results = evaluate_from_archive(
        str(directory / "model.tar.gz"),
        str(DATA / "dev.tsv"),
        weights_file=str(directory / weights),
        batch_size=4,
    )
    return results["loss"]


def test_best_weights_are_averages_and_checkpoints_are_raw(
    unaveraged: Path, tmp_path: Path
) -> None:
    model = train_here(config(), tmp_path / "run")
    assert model is not None

    archived = load_archive(str(tmp_path / "run" / "model.tar.gz")).model
    for weights in (best_weights(tmp_path / "run"), archived.state_dict(), model.state_dict()):
        assert differences(dict(weights), averages(tmp_path / "run", 4)) == []
    for epoch in (1, 2, 3, 4):
        raw = raw_weights(tmp_path / "run", epoch)
        assert differences(raw, raw_weights(unaveraged, epoch)) == []
        assert len(differences(raw, averages(tmp_path / "run", epoch))) == len(raw)


def test_best_epoch_is_not_the_last(tmp_path: Path) -> None:
    model = train_here(config(validation_metric="+loss"), tmp_path / "run")
    assert model is not None
    assert metrics(tmp_path / "run")["best_epoch"] == 0
    for weights in (best_weights(tmp_path / "run"), model.state_dict()):
        assert differences(dict(weights), averages(tmp_path / "run", 1)) == []


def test_validation_is_of_the_averages(tmp_path: Path) -> None:
    train_here(config(), tmp_path / "run")
    validated = metrics(tmp_path / "run")["validation_loss"]
    assert loss(tmp_path / "run", "best.th") == pytest.approx(validated, rel=1e-6)
    raw = loss(tmp_path / "run", "model_state_e4_b0.th")
    assert raw != pytest.approx(validated, rel=1e-2)


class Validation(TrainerCallback):
    """Does something in the midst of the validation of the third epoch."""

    trainer_in_use: ClassVar[GradientDescentTrainer]

    def on_batch(
        self,
        trainer: GradientDescentTrainer,
        batch_inputs: Any,
        batch_outputs: Any,
        batch_metrics: Any,
        epoch: int,
        batch_number: int,
        is_training: bool,
        is_primary: bool = True,
        batch_grad_norm: Optional[float] = None,
        **kwargs: Any,
    ) -> None:
        Validation.trainer_in_use = trainer
        if not is_training and (epoch, batch_number) == (2, 2):
            self.in_the_midst(trainer)

    def in_the_midst(self, trainer: GradientDescentTrainer) -> None:
        raise NotImplementedError


class FailingValidation(Validation):
    def in_the_midst(self, trainer: GradientDescentTrainer) -> None:
        raise OSError("the validation fails")


class CheckpointingValidation(Validation):
    def in_the_midst(self, trainer: GradientDescentTrainer) -> None:
        trainer._checkpointer.save_checkpoint(trainer)


def test_validation_that_raises_leaves_raw_weights(unaveraged: Path, tmp_path: Path) -> None:
    callback = f"{__name__}.FailingValidation"
    with pytest.raises(OSError, match="the validation fails"):
        train_here(config(callbacks=[{"type": callback}]), tmp_path / "run")
    weights = Validation.trainer_in_use.model.state_dict()
    assert differences(dict(weights), raw_weights(unaveraged, 3)) == []


def test_checkpoint_saved_during_validation(unaveraged: Path, tmp_path: Path) -> None:
    train_here(config(), tmp_path / "straight")
    only_then = config(
        callbacks=[{"type": f"{__name__}.CheckpointingValidation"}],
        checkpointer={"save_completed_epochs": False},
    )
    train_here(only_then, tmp_path / "run", interrupt_at=(3, 3))
    model_state, training_state = latest_checkpoint(tmp_path / "run")
    assert (tmp_path / "run" / "model_state_e2_b6.th").exists()
    assert differences(dict(model_state), raw_weights(unaveraged, 3)) == []
    averages_then = averages(tmp_path / "straight", 3)
    assert differences(training_state["moving_average"]["averages"], averages_then) == []
    # The rest of the validation is of the averages again.
    epoch = "metrics_epoch_2.json"
    validated = json.loads((tmp_path / "run" / epoch).read_text())["validation_loss"]
    assert validated == json.loads((tmp_path / "straight" / epoch).read_text())["validation_loss"]

    train_here(only_then, tmp_path / "run", recover=True)
    expected = best_weights(tmp_path / "straight")
    assert differences(expected, best_weights(tmp_path / "run")) == []
