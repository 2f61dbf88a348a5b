import json

import pytest
import torch
from allennlp.common.checks import ConfigurationError

from allennlp_ema.after_training.finished_training import FinishedTraining, configured_average
from tests.support.every_average import EVERY_AVERAGE
from tests.support.training_runs import best_weights, tagger_config, train_here


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


@pytest.fixture
def saved(tmp_path):
    """A directory whose newest checkpoint is of update 12."""
    (tmp_path / "config.json").write_text("{}")
    average = {"averages": {"short": {"counts": {"num_updates": 12}}}}
    for name, state in (
        ("model_state_e2_b0.th", {"weight": torch.tensor(1.0), "buffer": torch.tensor(1.0)}),
        ("training_state_e2_b0.th", {"epochs_completed": 2, "moving_average": average}),
        ("best.th", {"weight": torch.tensor(9.0), "buffer": torch.tensor(9.0)}),
    ):
        torch.save(state, str(tmp_path / name))
    return FinishedTraining(tmp_path)


def test_around_averages_are_the_raw_weights_of_their_update(saved, caplog):
    assert saved.weights_around(12, ["weight"])["buffer"] == 1.0
    average = {"counts": {"num_updates": 12}}
    state = {"epochs_completed": 2, "optimizer": {"moving_average": average}}
    torch.save(state, str(saved.serialization_dir / "training_state_e2_b0.th"))
    assert saved.weights_around(12, ["weight"])["buffer"] == 1.0
    assert not caplog.records


@pytest.mark.parametrize(
    "callback", [{"type": "moving_average_buffers"}, "moving_average_buffers"], ids=str
)
def test_around_averages_are_the_buffers_that_go_with_averages(callback, saved, caplog):
    callbacks = {"trainer": {"callbacks": [callback]}}
    (saved.serialization_dir / "config.json").write_text(json.dumps(callbacks))
    training = FinishedTraining(saved.serialization_dir)
    assert training.weights_around(12, ["weight"])["buffer"] == 9.0
    assert "buffers that go with raw weights" in caplog.text


@pytest.mark.parametrize(
    "training_state, reason",
    [
        ({"moving_average": {"counts": {"num_updates": 13}}}, "checkpoint is of update 13"),
        ({"optimizer": {}}, "does not tell of which update it is"),
        (None, "training_state_e2_b0.th: there is no such file"),
    ],
    ids=str,
)
def test_around_averages_of_another_update_are_the_best_weights(
    training_state, reason, saved, caplog
):
    path = saved.serialization_dir / "training_state_e2_b0.th"
    path.unlink()
    if training_state is not None:
        torch.save(training_state, str(path))
    assert saved.weights_around(12, ["weight"])["buffer"] == 9.0
    (record,) = caplog.records
    assert "1 of the model's 2 parameters and buffers are not averaged" in record.getMessage()
    assert "and not after update 12: " in record.getMessage() and reason in record.getMessage()
    caplog.clear()
    saved.weights_around(12, ["weight", "buffer"])
    assert not caplog.records


def test_a_parameter_is_averaged_by_all_its_names(saved, caplog):
    weight = torch.tensor([9.0])
    sparse = torch.eye(2).to_sparse()
    state = {"weight": weight, "tied": weight, "same": weight.clone(), "mask": sparse, "extra": {}}
    torch.save(state, str(saved.best_weights_file))
    assert saved.weights_around(13, ["weight"]).keys() == state.keys()
    assert "3 of the model's 5 parameters and buffers are not averaged" in caplog.text


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
    "num_updates, weights, are_one",
    [
        # The numbers of updates tell it, where there are some, whatever a validation did.
        ([6, 6], [1.0, 1.0], True),
        ([6, 6], [1.0, 2.0], True),
        ([5, 6], [1.0, 1.0], False),
        # Else the states do.
        ([None, 6], [1.0, 1.0], True),
        ([None, None], [1.0, 1.0], True),
        ([None, None], [1.0, 2.0], False),
    ],
    ids=str,
)
@pytest.mark.parametrize("is_legacy", [False, True])
def test_of_two_checkpoints_after_the_same_update_there_is_one(
    num_updates, weights, are_one, is_legacy, tmp_path
):
    (tmp_path / "config.json").write_text("{}")
    points = ["e0_b4", "e0_b6", "e1_b0", "e1_b4"]
    numbers, values = [4, *num_updates, 10], [0.0, *weights, 3.0]
    for point, number, value in zip(points, numbers, values):
        model_state = {"weight": torch.tensor(value), "_extra_state": point}
        average = {"counts": {"num_updates": number}}
        training_state = {"optimizer": {}, "moving_average": None if number is None else average}
        for what, state in (("model", model_state), ("training", training_state)):
            path = str(tmp_path / f"{what}_state_{point}.th")
            torch.save(state, path, _use_new_zipfile_serialization=not is_legacy)
    if are_one:
        points.remove("e0_b6")
    paths = FinishedTraining(tmp_path).checkpoints_of_each_update()
    assert [path.name for path in paths] == [f"model_state_{point}.th" for point in points]
    if None in num_updates:
        for path in tmp_path.glob("training_state_*"):
            path.unlink()
        assert FinishedTraining(tmp_path).checkpoints_of_each_update() == paths


@pytest.mark.parametrize(
    "trainer, expected",
    [
        ({}, {}),
        ({"callbacks": None}, {}),
        (
            {"callbacks": ["tensorboard", {"type": "moving_average_snapshots", "keep": 3}]},
            {"type": "moving_average_snapshots", "keep": 3},
        ),
        ({"callbacks": ["moving_average_snapshots"]}, {"type": "moving_average_snapshots"}),
        ({"callbacks": ["tensorboard"]}, {}),
    ],
    ids=str,
)
def test_what_the_configuration_says_of_a_callback(trainer, expected, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"trainer": trainer}))
    assert FinishedTraining(tmp_path).callback("moving_average_snapshots") == expected


def test_whatever_has_a_type_may_be_given_by_it_alone(tmp_path):
    keys = ("dataset_reader", "model", "data_loader", "validation_data_loader")
    trainer = {"callbacks": ["tensorboard"], "moving_average": "swa", "optimizer": "adam"}
    config = {**dict.fromkeys(keys, "registered"), "trainer": trainer}
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert FinishedTraining(tmp_path).config == config
    average = configured_average("config.json", config)
    assert average == {"type": "swa"}


def test_what_is_not_a_serialization_directory_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match="missing is not the serialization directory"):
        FinishedTraining(tmp_path / "missing")
    (tmp_path / "config.json").write_text("[1")
    with pytest.raises(ConfigurationError, match="config.json is truncated or not JSON"):
        FinishedTraining(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ConfigurationError, match=r"config.json holds \[\], but has to hold an obj"):
        FinishedTraining(tmp_path)
