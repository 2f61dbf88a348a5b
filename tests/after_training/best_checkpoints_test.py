import json
import math
from pathlib import Path
from typing import Any, List

import pytest
from allennlp.common.checks import ConfigurationError

from allennlp_ema.after_training.best_checkpoints import best_checkpoints
from allennlp_ema.after_training.finished_training import FinishedTraining
from allennlp_ema.common.metrics import SignedMetric


def chosen(directory: Path, number: int, *epochs: Any) -> List[str]:
    """Of a training whose epochs left these metrics."""
    (directory / "config.json").write_text("{}")
    for epoch, metrics in enumerate(epochs):
        named = {f"validation_{name}": value for name, value in metrics.items()}
        document = json.dumps({"epoch": epoch, "training_loss": 9 - epoch, **named})
        (directory / f"metrics_epoch_{epoch}.json").write_text(document)
        (directory / f"model_state_e{epoch + 1}_b0.th").write_bytes(b"")
    checkpoints = best_checkpoints(FinishedTraining(directory), SignedMetric("-loss"), number)
    return [path.name[len("model_state_e") : -len("_b0.th")] for path, _ in checkpoints]


def test_of_two_that_are_equal_the_earlier_is_better(tmp_path):
    epochs = [{"loss": 1.0, "other": number} for number in range(4)]
    assert chosen(tmp_path, 2, {"loss": 2.0}, *epochs) == ["2", "3"]


def test_they_are_in_the_order_of_the_epochs_beyond_the_tenth(tmp_path):
    assert chosen(tmp_path, 3, *[{"loss": 20.0 - epoch} for epoch in range(12)]) == [
        "10",
        "11",
        "12",
    ]


def test_an_epoch_without_a_validation_is_not_chosen_by_that_of_another(tmp_path):
    repeated = {"loss": 0.5, "f1": math.nan}
    epochs = [{}, {"raw_loss": 0.4, **repeated}, repeated, {"loss": 0.9}]
    assert chosen(tmp_path, 2, *epochs) == ["2", "4"]
    with pytest.raises(ConfigurationError, match="--best is 3, but has to be within 1 and 2"):
        chosen(tmp_path, 3, *epochs)


def test_a_training_without_validation_has_none_to_choose(tmp_path):
    with pytest.raises(ConfigurationError, match="has no metrics of a validated epoch"):
        chosen(tmp_path, 1, {}, {})


def test_nan_is_not_good(tmp_path):
    assert chosen(tmp_path, 1, {"loss": math.nan}, {"loss": 3.0}) == ["2"]
