"""
A schedule of validations of one's own is left alone.
"""

from pathlib import Path
from typing import Any, List
from unittest import mock

import pytest
from allennlp.training import GradientDescentTrainer
from allennlp.training.callbacks import TrainerCallback
from allennlp.training.callbacks.should_validate import ShouldValidateCallback

from tests.support.training_runs import tagger_config, train_here

VALIDATED = [2, 5]


class AtEachCall(ShouldValidateCallback):
    def on_start(self, trainer: Any, is_primary: bool = True, **kwargs: Any) -> None:
        trainer._should_validate_this_epoch = 0 in VALIDATED

    def on_epoch(self, trainer: Any, metrics: Any, epoch: int, **kwargs: Any) -> None:  # type: ignore
        trainer._should_validate_this_epoch = epoch + 1 in VALIDATED


class AtTheEndOfAnEpoch(ShouldValidateCallback):
    def on_epoch(self, trainer: Any, metrics: Any, epoch: int, **kwargs: Any) -> None:  # type: ignore
        super().on_epoch(trainer, metrics=metrics, epoch=epoch, **kwargs)
        trainer._should_validate_this_epoch &= epoch + 1 in VALIDATED


class ByItsOwnRule(ShouldValidateCallback):
    """It counts how often it is asked, which is once an epoch and once at the start and the end."""

    def __init__(self, serialization_dir: str) -> None:
        super().__init__(serialization_dir)
        self.asked: List[int] = []

    def _should_validate(self, epoch: int) -> bool:
        self.asked.append(epoch)
        return epoch in VALIDATED

    def on_end(self, *args: Any, **kwargs: Any) -> None:
        super().on_end(*args, **kwargs)
        assert self.asked == [0, 1, 2, 3, 4, 5, 6, 6]


class AtABatch(ShouldValidateCallback):
    def on_batch(self, trainer: Any, *args: Any, **kwargs: Any) -> None:
        trainer._should_validate_this_epoch = trainer._epochs_completed in VALIDATED


def validated_epochs(callback: Any, directory: Path) -> List[int]:
    epochs: List[int] = []
    validation_loss = GradientDescentTrainer._validation_loss

    def note(self: Any, epoch: int) -> Any:
        epochs.append(epoch)
        return validation_loss(self, epoch)

    with mock.patch.object(GradientDescentTrainer, "_validation_loss", note):
        train_here(tagger_config(num_epochs=6, moving_average={}, callbacks=[callback]), directory)
    return epochs


@pytest.mark.parametrize("callback", [AtEachCall, AtTheEndOfAnEpoch, ByItsOwnRule, AtABatch])
def test_own_schedule_is_left_alone(callback: Any, tmp_path: Path) -> None:
    name = f"{callback.__module__}.{callback.__qualname__}"
    epochs = validated_epochs({"type": name}, tmp_path / "run")
    # Before its first call AllenNLP's rule holds, which always validates.
    assert epochs == ([0, *VALIDATED] if callback is AtTheEndOfAnEpoch else VALIDATED)


def test_who_asks_beside_a_training_is_answered_as_by_allennlp() -> None:
    callback = ShouldValidateCallback("", validation_start=4, validation_interval=2)
    trainer: Any = mock.Mock(_start_after_epochs_completed=0, _epochs_completed=6)
    callback.on_start(trainer)
    assert not trainer._should_validate_this_epoch
    for epoch, is_next_validated in ((1, False), (2, False), (3, True)):
        callback.on_epoch(trainer, metrics={}, epoch=epoch)
        assert trainer._should_validate_this_epoch is is_next_validated
    callback.on_end(trainer)
    assert trainer._should_validate_this_epoch
    assert TrainerCallback.by_name("should_validate_callback") is ShouldValidateCallback
