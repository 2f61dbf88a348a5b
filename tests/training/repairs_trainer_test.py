"""
Averages count their own updates, begin where a checkpoint has none, and are trained on from.
"""

import copy
import json
import pickle
from pathlib import Path
from typing import Any, Dict, Optional

import pytest
import torch
from allennlp.commands.train import TrainModel
from allennlp.common import Params
from allennlp.training.callbacks import TrainerCallback
from allennlp.training.moving_average import MovingAverage as AllenNLPMovingAverage
from torch import Tensor

from allennlp_ema import ExponentialMovingAverage, MovingAverage, UniformMovingAverage
from tests.support.every_average import EVERY_AVERAGE
from tests.support.training_runs import (
    KEEP_EVERY_UPDATE,
    assert_ended_alike,
    best_weights,
    differences,
    latest_checkpoint,
    raw_trajectory,
    tagger_config,
    train_here,
)

OURS = {"type": "exponential", "decay": 0.9}
ADAM = {"type": "adam", "lr": 0.02}
AVERAGING_ADAM = {"type": "moving_average", "optimizer": ADAM, "moving_average": OURS}


class Mean(AllenNLPMovingAverage):
    """As someone writes one on AllenNLP's base class."""

    def apply(self, num_updates: Optional[int] = None) -> None:
        for name, parameter in self._parameters:
            self._shadows[name].mul_(0.75).add_(0.25 * parameter.data)


THEIRS = {"type": f"{__name__}.Mean"}


def build(directory: Path, **trainer: Any) -> Any:
    """The trainer of a training, not yet started."""
    return TrainModel.from_params(
        Params(copy.deepcopy(tagger_config(**trainer))),
        serialization_dir=str(directory),
        local_rank=0,
        batch_weight_key="",
    ).trainer


def go_on(config: Dict[str, Any], directory: Path) -> str:
    """Continues a run with a changed configuration. Returns the log."""
    (directory / "config.json").write_text(json.dumps(config))
    train_here(config, directory, recover=True)
    return (directory / "out.log").read_text()


def weights(trainer: Any) -> Dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in trainer.model.named_parameters()}


class EveryOther(UniformMovingAverage):
    """It leaves updates out by itself."""

    def apply(self, num_updates: Optional[int] = None) -> None:
        assert num_updates is not None
        if num_updates % 2 == 0:
            super().apply(num_updates)


EVERY_OTHER = {"type": f"{__name__}.EveryOther"}


class TestCounts:
    @pytest.mark.parametrize("is_in_optimizer", [False, True])
    def test_an_average_may_leave_updates_out(self, is_in_optimizer: bool, tmp_path: Path) -> None:
        averaging = {"type": "moving_average", "optimizer": ADAM, "moving_average": EVERY_OTHER}
        trainer = {"optimizer": averaging} if is_in_optimizer else {"moving_average": EVERY_OTHER}
        train_here(tagger_config(**trainer), tmp_path / "run", interrupt_at=(2, 3))
        train_here(tagger_config(**trainer), tmp_path / "run", recover=True)
        _, state = latest_checkpoint(tmp_path / "run")
        state = state["optimizer" if is_in_optimizer else "moving_average"]
        counts = (state["moving_average"] if is_in_optimizer else state)["counts"]
        assert (counts["num_updates"], counts["num_averaged"]) == (24, 12)

    def test_batches_caught_up_with_are_no_updates(self, tmp_path: Path) -> None:
        config = tagger_config(moving_average=OURS)
        train_here(config, tmp_path / "run", interrupt_at=(2, 3))
        # 8 batches an epoch in the place of 6, of which 16 are gone through without a step.
        more_batches = {**config, "data_loader": {"batch_size": 3}}
        go_on(more_batches, tmp_path / "run")
        _, training_state = latest_checkpoint(tmp_path / "run")
        assert training_state["moving_average"]["counts"]["num_updates"] == 2 * 6 + 2 * 8

    @pytest.mark.parametrize("average", [OURS, EVERY_AVERAGE["bank"]], ids=["ours", "bank"])
    def test_copies_can_be_made_in_and_after_a_training(
        self, average: Dict[str, Any], tmp_path: Path
    ) -> None:
        # Such a scheduler gives the optimizer a `step` that cannot be pickled.
        scheduler = {"type": "step", "step_size": 1}
        trainer = build(
            tmp_path, moving_average=average, num_epochs=2, learning_rate_scheduler=scheduler
        )
        copied = []

        class Copying(TrainerCallback):
            def on_epoch(self, trainer: Any, *args: Any, **kwargs: Any) -> None:
                for other in (
                    copy.deepcopy(trainer._moving_average),
                    pickle.loads(pickle.dumps(trainer._moving_average)),
                ):
                    state = copy.deepcopy(trainer._moving_average.state_dict())
                    assert differences(state, other.state_dict()) == []
                    # The copy moves, and counts for itself.
                    other.apply(other.num_updates + 1)
                    assert other.num_updates == trainer._moving_average.num_updates + 1
                    assert differences(state, trainer._moving_average.state_dict()) == []
                    copied.append(other)

        trainer._callbacks.append(Copying(str(tmp_path)))
        trainer.train()
        assert len(copied) == 4
        for part in (trainer._moving_average, trainer.optimizer):
            assert not {"apply", "step"} & {
                name for name, value in vars(part).items() if "repairs" in str(value)
            }


@pytest.mark.parametrize("has_checkpoints", [False, True], ids=["without", "with_checkpoints"])
@pytest.mark.parametrize("average", EVERY_AVERAGE.values(), ids=EVERY_AVERAGE.keys())
def test_second_training_goes_on_from_what_the_model_holds(
    average: Dict[str, Any], has_checkpoints: bool, tmp_path: Path
) -> None:
    trainer = build(
        tmp_path,
        moving_average=average,
        num_epochs=2,
        checkpointer={"keep_most_recent_by_count": None} if has_checkpoints else None,
    )
    trainer.train()
    held = weights(trainer)
    assert trainer._moving_average.is_assigned
    assert differences(held, copy.deepcopy(dict(trainer._moving_average.named_averages()))) == []
    started = []

    class NoteStart(TrainerCallback):
        def on_start(self, trainer: Any, *args: Any, **kwargs: Any) -> None:
            assert not trainer._moving_average.is_assigned
            started.append((weights(trainer), trainer._moving_average.num_updates))

    trainer._callbacks.append(NoteStart(str(tmp_path)))
    trainer.train()
    ((weights_at_start, num_updates),) = started
    if has_checkpoints:
        # From the raw weights of the last one.
        held = torch.load(str(tmp_path / "model_state_e2_b0.th"))
    assert differences(weights_at_start, dict(held)) == []
    assert num_updates == 12 and trainer._moving_average.num_updates == 24
    assert trainer._moving_average.is_assigned
    trainer._moving_average.restore()
    assert differences(weights(trainer), dict(trainer._moving_average.named_averages())) != []


class TestCheckpointWithoutAnAverage:
    WITHOUT = tagger_config(checkpointer=KEEP_EVERY_UPDATE)

    def continued(self, directory: Path, **trainer: Any) -> str:
        train_here(self.WITHOUT, directory, interrupt_at=(2, 2))
        return go_on(tagger_config(checkpointer=KEEP_EVERY_UPDATE, **trainer), directory)

    @pytest.mark.parametrize(
        "trainer", [{"moving_average": OURS}, {"optimizer": AVERAGING_ADAM}], ids=["own", "opt"]
    )
    def test_averaging_begins_with_its_weights(
        self, trainer: Dict[str, Any], tmp_path: Path
    ) -> None:
        log = self.continued(tmp_path / "run", **trainer)
        assert log.count("The checkpoint has no moving average") == 1
        # The last one is that after the first batch of the third epoch, update 13.
        begin, *trajectory = raw_trajectory(tmp_path / "run")[12:]
        assert len(trajectory) == 24 - 13
        parameters = {name: value.clone() for name, value in begin.items()}
        average = ExponentialMovingAverage(parameters.items(), decay=0.9)
        for number, raw in enumerate(trajectory, start=14):
            for name, value in raw.items():
                parameters[name].copy_(value)
            average.apply(number)
        for name, value in best_weights(tmp_path / "run").items():
            torch.testing.assert_close(value.double(), average.average(name), rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("name", [n for n in EVERY_AVERAGE if n != "exponential"])
    def test_every_average_begins(self, name: str, tmp_path: Path) -> None:
        train_here(tagger_config(), tmp_path / "run", interrupt_at=(1, 2))
        trainer = build(tmp_path / "run", moving_average=EVERY_AVERAGE[name])
        trainer._maybe_restore_checkpoint()
        checkpoint, _ = latest_checkpoint(tmp_path / "run")
        for member in trainer._moving_average.members():
            assert differences(dict(checkpoint), dict(member.named_averages())) == []
            assert member.num_averaged == 0
        trainer.train()
        assert trainer._moving_average.num_averaged == 18

    def test_average_on_allennlps_base_class_begins(self, tmp_path: Path) -> None:
        self.continued(tmp_path / "run", moving_average=THEIRS)
        average, *trajectory = raw_trajectory(tmp_path / "run")[12:]
        for raw in trajectory:
            average = {name: 0.75 * average[name] + 0.25 * raw[name] for name in raw}
        for name, value in best_weights(tmp_path / "run").items():
            torch.testing.assert_close(value.double(), average[name], rtol=1e-5, atol=1e-6)

    def test_the_other_way_round_nothing_is_said(self, tmp_path: Path) -> None:
        train_here(tagger_config(moving_average=OURS), tmp_path / "run", interrupt_at=(2, 2))
        log = go_on(tagger_config(), tmp_path / "run")
        assert not [line for line in log.splitlines() if "WARNING" in line and "average" in line]
        _, training_state = latest_checkpoint(tmp_path / "run")
        assert "moving_average" not in training_state

    def test_optimizer_goes_on_with_the_average_of_the_trainer(self, tmp_path: Path) -> None:
        train_here(tagger_config(moving_average=OURS), tmp_path / "straight")
        train_here(tagger_config(moving_average=OURS), tmp_path / "run", interrupt_at=(2, 2))
        log = go_on(tagger_config(optimizer=AVERAGING_ADAM), tmp_path / "run")
        straight, recovered = (best_weights(tmp_path / run) for run in ("straight", "run"))
        assert differences(straight, recovered) == []
        assert "has no moving average" not in log


@pytest.mark.parametrize(
    "average",
    [THEIRS, {"type": "allennlp.training.moving_average.ExponentialMovingAverage", "decay": 0.9}],
    ids=["theirs", "allennlps"],
)
def test_average_on_allennlps_base_class_is_recovered(
    average: Dict[str, Any], tmp_path: Path
) -> None:
    config = tagger_config(moving_average=average)
    train_here(config, tmp_path / "straight")
    train_here(config, tmp_path / "recovered", interrupt_at=(2, 3))
    train_here(config, tmp_path / "recovered", recover=True)
    assert_ended_alike(tmp_path / "straight", tmp_path / "recovered")


def test_state_of_other_parameters_is_refused_by_name() -> None:
    average = Mean([("one", torch.zeros(2)), ("two", torch.zeros(2))])
    state = Mean([("one", torch.ones(2)), ("three", torch.ones(2))]).state_dict()
    with pytest.raises(Exception, match='the state\'s "shadows" .*: three, two'):
        average.load_state_dict(state)
    assert not any(shadow.any() for shadow in average._shadows.values())


BATCH_NORM = {
    "type": "fixtures.batch_norm_encoder.BatchNormCnnEncoder",
    "input_dim": 6,
    "hidden_dim": 6,
}
BUFFERS = {"type": "moving_average_buffers", "num_batches": 1}


@pytest.mark.parametrize(
    "trainer, num_warnings",
    [
        ({"moving_average": OURS}, 1),
        ({"optimizer": AVERAGING_ADAM}, 1),
        ({"moving_average": OURS, "callbacks": [BUFFERS]}, 0),
        ({}, 0),
    ],
    ids=["average", "optimizer", "with_buffers", "no_average"],
)
def test_statistics_that_do_not_follow_are_said_at_the_start(
    trainer: Dict[str, Any], num_warnings: int, tmp_path: Path
) -> None:
    config = tagger_config(num_epochs=1, **trainer)
    config["model"]["encoder"] = BATCH_NORM
    train_here(config, tmp_path / "run")
    log = (tmp_path / "run" / "out.log").read_text()
    assert log.count("The model has running statistics (encoder.norms.0,") == num_warnings


def test_model_without_statistics_is_not_warned_of(tmp_path: Path) -> None:
    train_here(tagger_config(num_epochs=1, moving_average=OURS), tmp_path / "run")
    assert "running statistics" not in (tmp_path / "run" / "out.log").read_text()
    assert isinstance(build(tmp_path / "b", moving_average=OURS)._moving_average, MovingAverage)
