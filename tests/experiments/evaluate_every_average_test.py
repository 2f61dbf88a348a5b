import json
from pathlib import Path
from typing import Any, Dict

import pytest

from tests.support.training_runs import best_weights, differences, tagger_config, train_here

EVALUATE = {"type": "experiments.evaluate_every_average.EvaluateEveryAverage"}
BANK = {
    "type": "bank",
    "active": "long",
    "averages": {"long": {"type": "exponential"}, "short": {"type": "exponential", "decay": 0.1}},
}


def config(**trainer: Any) -> Dict[str, Any]:
    """With dropout and shuffling, and buckets that draw random numbers when dev data is read."""
    bucket = {"type": "bucket", "batch_size": 4, "sorting_keys": ["tokens"]}
    tagger = tagger_config(moving_average=BANK, **trainer)
    tagger["model"]["encoder"].update({"num_layers": 2, "dropout": 0.5})
    tagger["data_loader"] = {"batch_sampler": bucket}
    tagger["validation_data_loader"] = {"batch_sampler": {**bucket, "shuffle": False}}
    return tagger


def test_every_average_is_evaluated_and_training_does_not_notice(tmp_path: Path) -> None:
    train_here(config(), tmp_path / "without")
    train_here(config(callbacks=[EVALUATE]), tmp_path / "with")

    assert not differences(best_weights(tmp_path / "without"), best_weights(tmp_path / "with"))
    evaluations = json.loads((tmp_path / "with" / "evaluations.json").read_text())["evaluations"]
    assert [(e["epoch"], e["average"]) for e in evaluations] == [
        (epoch, average) for epoch in (1, 2, 3, 4) for average in ("raw", "long", "short")
    ]
    for epoch in range(4):
        metrics = json.loads((tmp_path / "with" / f"metrics_epoch_{epoch}.json").read_text())
        raw, active, short = evaluations[3 * epoch : 3 * epoch + 3]
        assert active["accuracy"] == metrics["validation_accuracy"]
        assert active["loss"] == metrics["validation_loss"]
        assert len({raw["loss"], active["loss"], short["loss"]}) == 3
        assert [("halves" in e) for e in (raw, active, short)] == [epoch == 3] * 3


def test_halves_are_every_second_batch(tmp_path: Path) -> None:
    one_batch_each = config(callbacks=[EVALUATE])
    one_batch_each["validation_data_loader"]["batch_sampler"]["batch_size"] = 1
    train_here(one_batch_each, tmp_path / "run")
    evaluations = json.loads((tmp_path / "run" / "evaluations.json").read_text())["evaluations"]
    num_batches = len(Path(one_batch_each["validation_data_path"]).read_text().splitlines())
    shares = [(num_batches + 1) // 2 / num_batches, num_batches // 2 / num_batches]
    for evaluation in evaluations[-3:]:
        losses = [half["loss"] for half in evaluation["halves"]]
        assert losses[0] != losses[1]
        # AllenNLP's loss is a mean over batches.
        mean = sum(share * loss for share, loss in zip(shares, losses))
        assert mean == pytest.approx(evaluation["loss"])


def test_every_few_epochs(tmp_path: Path) -> None:
    train_here(config(callbacks=[{**EVALUATE, "every_num_epochs": 2}]), tmp_path / "run")
    evaluations = json.loads((tmp_path / "run" / "evaluations.json").read_text())["evaluations"]
    assert [e["epoch"] for e in evaluations] == [2, 2, 2, 4, 4, 4]
