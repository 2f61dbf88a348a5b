from types import SimpleNamespace
from typing import Any

import pytest
import torch

from allennlp_ema import ExponentialMovingAverage
from experiments.feedback import Feedback


@pytest.fixture
def trainer() -> Any:
    """A trainer whose raw weights are 3 and whose averages are 2."""
    model = torch.nn.Linear(2, 2)
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, 1.0)
    average = ExponentialMovingAverage(model.named_parameters(), decay=0.5)
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, 3.0)
    average.apply()
    return SimpleNamespace(model=model, _moving_average=average, _total_batches_completed=4)


def raw_weights(trainer: Any) -> float:
    values = {float(value) for each in trainer.model.parameters() for value in each.flatten()}
    (value,) = values
    return value


def test_after_an_epoch_the_raw_weights_are_the_averages(trainer: Any) -> None:
    feedback = Feedback("run")
    feedback.on_batch(trainer, is_training=True)
    assert raw_weights(trainer) == 3.0
    feedback.on_epoch(trainer, {}, 0)
    assert raw_weights(trainer) == 2.0


def test_after_every_few_updates(trainer: Any) -> None:
    feedback = Feedback("run", every_num_updates=5)
    feedback.on_epoch(trainer, {}, 0)
    feedback.on_batch(trainer, is_training=True)
    trainer._total_batches_completed = 5
    feedback.on_batch(trainer, is_training=False)
    assert raw_weights(trainer) == 3.0
    feedback.on_batch(trainer, is_training=True)
    assert raw_weights(trainer) == 2.0
