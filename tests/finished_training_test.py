import json

import pytest
import torch
from allennlp.common.checks import ConfigurationError

from allennlp_ema.finished_training import FinishedTraining
from tests.every_average import EVERY_AVERAGE
from tests.training_runs import best_weights, tagger_config, train_here


def test_raw_weights_are_the_same_whichever_checkpointer_wrote_them(tmp_path):
    found = {}
    for checkpointer in ("default", "swapping"):
        for average in ("exponential", "bank"):
            directory = tmp_path / f"{checkpointer}_{average}"
            config = tagger_config(
                num_epochs=2,
                moving_average=EVERY_AVERAGE[average],
                checkpointer={"type": checkpointer},
            )
            train_here(config, directory)
            found[directory.name] = FinishedTraining(directory).raw_weights()
            averaged = FinishedTraining(directory).best_weights()
            assert averaged.keys() == best_weights(directory).keys()
            raw = found[directory.name].weights
            assert not any(torch.equal(averaged[name], raw[name]) for name in raw)
    first = found["default_exponential"]
    assert first.num_updates == 12
    for other in found.values():
        assert other.num_updates == 12
        assert all(torch.equal(other.weights[name], value) for name, value in first.weights.items())


def test_checkpoints_are_in_order_and_shards_and_other_files_are_not_among_them(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    training = FinishedTraining(tmp_path)
    for name in (
        "model_state_e1_b0_w0.th",
        "training_state_e1_b0.th",
        "model_state_e1_b0.th.partial",
    ):
        (tmp_path / name).write_text("")
    with pytest.raises(ConfigurationError, match="has no checkpoint of a whole model"):
        training.checkpoints()
    for name in ("model_state_e10_b0.th", "model_state_e9_b20.th", "model_state_e9_b3.th"):
        (tmp_path / name).write_text("")
    assert list(training.checkpoints()) == [(9, 3), (9, 20), (10, 0)]
    assert training.checkpoints()[9, 20].name == "model_state_e9_b20.th"


@pytest.mark.parametrize(
    "trainer, expected",
    [
        ({}, {}),
        ({"callbacks": None}, {}),
        (
            {"callbacks": ["tensorboard", {"type": "moving_average_snapshots", "keep": 3}]},
            {"type": "moving_average_snapshots", "keep": 3},
        ),
        ({"callbacks": ["moving_average_snapshots"]}, {}),
    ],
    ids=str,
)
def test_what_the_configuration_says_of_a_callback(trainer, expected, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"trainer": trainer}))
    assert FinishedTraining(tmp_path).callback("moving_average_snapshots") == expected


def test_what_is_not_a_serialization_directory_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match="missing is not the serialization directory"):
        FinishedTraining(tmp_path / "missing")
    (tmp_path / "config.json").write_text("[1")
    with pytest.raises(ConfigurationError, match="config.json is truncated or not JSON"):
        FinishedTraining(tmp_path)
