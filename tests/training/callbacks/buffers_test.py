import copy
import gc
import json
from pathlib import Path
from typing import Any, Dict, List

import pytest
import torch
from allennlp.commands.train import TrainModel
from allennlp.common import Params
from allennlp.common.checks import ConfigurationError
from allennlp.data import Vocabulary
from allennlp.data.data_loaders import SimpleDataLoader
from allennlp.models import Model
from allennlp.training import GradientDescentTrainer
from allennlp.training.util import evaluate

from allennlp_ema import ExponentialMovingAverage, MovingAverage, UniformMovingAverage
from allennlp_ema.training.callbacks import MovingAverageBuffersCallback
from allennlp_ema.training.callbacks.averaged_buffers import AveragedBuffers
from allennlp_ema.weighting.weighting import AveragingCounts
from tests.support.training_runs import (
    KEEP_EVERY_UPDATE,
    assert_ended_alike,
    best_weights,
    differences,
    latest_checkpoint,
    metrics,
    raw_trajectory,
    tagger_config,
    train_here,
)

RECALIBRATE = {"type": "moving_average_buffers"}
AVERAGE = {"type": "moving_average_buffers", "mode": "average"}


def config(*callbacks: Any, **trainer: Any) -> Dict[str, Any]:
    """A tagger with two batch norms, whose averaged weights differ much from the raw ones."""
    weights_before_norms = {"lr": 3.0, "weight_decay": 0.1}
    optimizer = {
        "type": "sgd",
        "lr": 1.0,
        "parameter_groups": [[["convolutions"], weights_before_norms]],
    }
    moving_average = {"type": "uniform", "start_step": 6}
    plain = tagger_config(
        callbacks=list(callbacks),
        **{"moving_average": moving_average, "optimizer": optimizer, **trainer},
    )
    plain["model"]["encoder"] = {
        "type": "fixtures.batch_norm_encoder.BatchNormCnnEncoder",
        "input_dim": 6,
        "hidden_dim": 16,
    }
    return plain


def test_a_changed_configuration_leaves_what_others_share() -> None:
    config(RECALIBRATE)["trainer"]["callbacks"][0]["num_batches"] = 4
    assert RECALIBRATE == {"type": "moving_average_buffers"}


def evaluated(directory: Path, weights: Dict[str, torch.Tensor]) -> Dict[str, float]:
    """The validation metrics of `weights`, by AllenNLP itself."""
    trainer = TrainModel.from_params(
        Params.from_file(directory / "config.json"), serialization_dir=str(directory), local_rank=0
    ).trainer
    trainer.model.load_state_dict(weights)
    return evaluate(trainer.model, trainer._validation_data_loader)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same training, of 8 epochs, without the callback and with it in both of its modes."""
    directory = tmp_path_factory.mktemp("runs")
    for name, callbacks in (("raw", []), ("recalibrate", [RECALIBRATE]), ("average", [AVERAGE])):
        train_here(config(*callbacks, num_epochs=8), directory / name)
    return directory


@pytest.mark.everywhere
class TestBatchNormModel:
    def test_raw_statistics_are_clearly_worse(self, runs: Path) -> None:
        loss = {name: metrics(runs / name)["validation_loss"] for name in ("raw", "recalibrate")}
        assert loss["raw"] > 1.4 * loss["recalibrate"]
        raw_model_state, _ = latest_checkpoint(runs / "raw")
        loss_of_raw_weights = evaluated(runs / "raw", raw_model_state)["loss"]
        assert loss["recalibrate"] < loss_of_raw_weights

    @pytest.mark.parametrize("mode", ["recalibrate", "average"])
    def test_best_weights_have_what_was_validated(self, runs: Path, mode: str) -> None:
        best = best_weights(runs / mode)
        for name, value in evaluated(runs / mode, best).items():
            assert metrics(runs / mode)[f"best_validation_{name}"] == pytest.approx(value, rel=1e-6)
        raw, _ = latest_checkpoint(runs / mode)
        num_different = sum(not torch.equal(best[n], raw[n]) for n in raw if "running" in n)
        assert num_different == 4

    @pytest.mark.parametrize("mode", ["recalibrate", "average"])
    def test_training_does_not_notice(self, runs: Path, mode: str) -> None:
        (raw_model_state, raw), (model_state, state) = (
            latest_checkpoint(runs / name) for name in ("raw", mode)
        )
        assert differences(dict(raw_model_state), dict(model_state)) == []
        assert differences(raw["optimizer"], state["optimizer"]) == []
        attachment = {"recalibrate": "recalibrated_statistics", "average": "averaged_buffers"}[mode]
        assert list(state["moving_average"].pop("attachments")) == [attachment]
        assert differences(raw["moving_average"], state["moving_average"]) == []
        for name in ("training_loss", "training_accuracy"):
            assert metrics(runs / mode)[name] == metrics(runs / "raw")[name]


class TestRecalibrate:
    def test_random_training_does_not_notice(self, tmp_path: Path) -> None:
        for name, callbacks in (("raw", []), ("recalibrated", [RECALIBRATE])):
            plain = config(*callbacks, num_epochs=3, num_gradient_accumulation_steps=2)
            plain["data_loader"]["shuffle"] = True
            lstm = {"type": "lstm", "input_size": 6, "hidden_size": 3, "bidirectional": True}
            encoders = [{**lstm, "num_layers": 2, "dropout": 0.3}, plain["model"]["encoder"]]
            plain["model"]["encoder"] = {"type": "compose", "encoders": encoders}
            train_here(plain, tmp_path / name)
        states = [latest_checkpoint(tmp_path / name) for name in ("raw", "recalibrated")]
        assert differences(dict(states[0][0]), dict(states[1][0])) == []
        for name in ("training_loss", "training_accuracy"):
            one, other = (metrics(tmp_path / run)[name] for run in ("raw", "recalibrated"))
            assert one == other

    def test_model_after_training_keeps_its_statistics(self, tmp_path: Path) -> None:
        plain = config(RECALIBRATE, num_epochs=2)
        del plain["validation_data_path"]
        model = train_here(plain, tmp_path / "run")
        assert model is not None
        # Whatever put them there is gone by now.
        gc.collect()
        state, best = model.state_dict(), best_weights(tmp_path / "run")
        assert differences(dict(state), dict(best)) == []
        raw, _ = latest_checkpoint(tmp_path / "run")
        assert all(not torch.equal(state[name], raw[name]) for name in raw if "running" in name)

    def test_checkpoints_of_averages_have_their_statistics(self, tmp_path: Path) -> None:
        directory = tmp_path / "run"
        train_here(config(RECALIBRATE, num_epochs=2, checkpointer={"type": "swapping"}), directory)
        for epoch in (1, 2):
            shown = json.loads((directory / f"metrics_epoch_{epoch - 1}.json").read_text())
            weights = torch.load(str(directory / f"model_state_e{epoch}_b0.th"))
            for name, value in evaluated(directory, weights).items():
                assert shown[f"validation_{name}"] == pytest.approx(value, rel=1e-6)

    def test_num_batches(self, tmp_path: Path) -> None:
        for num_batches in (6, 7):
            directory = tmp_path / str(num_batches)
            train_here(config({**RECALIBRATE, "num_batches": num_batches}, num_epochs=1), directory)
            log = (directory / "out.log").read_text()
            assert ("all of these are used" in log) == (num_batches > 6)
            assert "recalibrating batch norms: 100%" in log
            tracked = [v for n, v in best_weights(directory).items() if n.endswith("_tracked")]
            assert tracked == [6, 6]


MOVING_AVERAGES = {
    "exponential": {"type": "exponential", "decay": 0.8},
    "uniform": {"type": "uniform", "start_step": 7, "shadow_dtype": "float64"},
    "window": {"type": "window", "window_size": 4},
    "bank": {
        "type": "bank",
        "active": "exponential",
        "averages": {"uniform": {"type": "uniform"}, "exponential": {"decay": 0.8}},
    },
}


def weights_of(name: str, num_updates: int) -> List[float]:
    """Of the initial value and of each update, in the average after `num_updates`."""
    weights = [1.0]
    for n in range(1, num_updates + 1):
        weight = {
            "uniform": 1.0 if n < 7 else 1.0 / (n - 6),
            "window": 1.0 / n,
        }.get(name, 1.0 - min(0.8, (1 + n) / (10 + n)))
        weights = [(1.0 - weight) * each for each in weights] + [weight]
    if name == "window":
        return [0.0] * (num_updates - 3) + [0.25] * 4
    return weights


class TestAverage:
    @pytest.mark.parametrize("name", MOVING_AVERAGES)
    def test_buffers_are_averaged_as_the_parameters_are(self, name: str, tmp_path: Path) -> None:
        directory = tmp_path / "run"
        plain = config(
            AVERAGE,
            moving_average=MOVING_AVERAGES[name],
            checkpointer=KEEP_EVERY_UPDATE,
            num_epochs=3,
        )
        train_here(plain, directory)
        trajectory = raw_trajectory(directory)
        num_updates = 6 * (metrics(directory)["best_epoch"] + 1)
        assert num_updates >= 12
        weights = weights_of(name, num_updates)
        for key, value in best_weights(directory).items():
            if key.endswith("num_batches_tracked"):
                assert value == num_updates
            elif "running" in key:
                expected = weights[0] * (torch.ones if "var" in key else torch.zeros)(16).double()
                for weight, raw in zip(weights[1:], trajectory):
                    expected += weight * raw[key]
                assert torch.allclose(value.double(), expected, rtol=1e-5, atol=1e-6)

    def test_constants_and_caches(self, tmp_path: Path) -> None:
        """A constant stays what it is; what no checkpoint holds is not averaged."""
        model = ReplacingModel()
        model.register_buffer("expanded", torch.ones(1).expand(3))
        average = started(MovingAverageBuffersCallback(str(tmp_path), "average"), model)
        model.cache.fill_(3.0)
        average.apply()
        with average.average_values():
            assert torch.equal(model.constant, torch.tensor([0.1, 0.2]))
            assert model.cache.tolist() == [3.0] and model.expanded.all()

    def test_buffer_that_is_replaced_is_followed(self, tmp_path: Path) -> None:
        model = ReplacingModel()
        average = started(MovingAverageBuffersCallback(str(tmp_path), "average"), model)
        # With decays 2 / 11 and 3 / 12.
        for value in (11.0, 22.0):
            model(value)
            average.apply(average.num_updates + 1)
        expected = 0.25 * 11.0 * 9 / 11 + 0.75 * 22.0
        with average.average_values():
            assert model.replaced.item() == pytest.approx(expected)
        assert model.replaced.item() == 22.0
        model(33.0)
        with average.average_values():
            pass
        assert model.replaced.item() == 33.0

    @pytest.mark.parametrize("settings", [{"update_every": 2}, {"start_step": 5}])
    def test_it_is_followed_without_a_sample_too(self, settings: Any, tmp_path: Path) -> None:
        model = ReplacingModel()
        callback = MovingAverageBuffersCallback(str(tmp_path), "average")
        average = started(callback, model, UniformMovingAverage, **settings)
        for value in (11.0, 22.0, 33.0):
            model(value)
            average.apply(average.num_updates + 1)
        # The second update's is the only sample, or averaging has not begun.
        expected = 22.0 if "update_every" in settings else 33.0
        (averages,) = average.state_dict()["attachments"]["averaged_buffers"]["averages"]
        assert averages["replaced"].item() == expected
        with average.average_values():
            assert model.replaced.item() == expected
        assert model.replaced.item() == 33.0

    def test_a_state_that_does_not_fit_changes_nothing(self, tmp_path: Path) -> None:
        model = ReplacingModel()
        average = started(MovingAverageBuffersCallback(str(tmp_path), "average"), model)
        model(11.0)
        torch.nn.init.ones_(model.weight)
        state = copy.deepcopy(average.state_dict())
        state["attachments"]["averaged_buffers"]["averages"][0]["constant"] = torch.zeros(3)
        state["averages"]["weight"].fill_(5.0)
        with pytest.raises(ConfigurationError, match=r'"averaged_buffers" has shape \(3,\)'):
            average.load_state_dict(state)
        assert average.average("weight").item() == 0.0


class TestRecovery:
    @pytest.mark.parametrize("callback", [RECALIBRATE, AVERAGE], ids=["recalibrate", "average"])
    @pytest.mark.parametrize("checkpointer", ["default", "swapping"])
    def test_killed_run_ends_alike(self, callback: Any, checkpointer: str, tmp_path: Path) -> None:
        plain = config(
            callback,
            moving_average={"type": "window", "window_size": 8},
            checkpointer={"type": checkpointer, "save_every_num_batches": 4},
            optimizer={"type": "sgd", "lr": 0.5},
        )
        straight, recovered = tmp_path / "straight", tmp_path / "recovered"
        train_here(plain, straight)
        train_here(plain, recovered, interrupt_at=(1, 5))
        train_here(plain, recovered, recover=True)
        if checkpointer == "default":
            assert_ended_alike(straight, recovered, best_after_epoch=1)
        assert differences(best_weights(straight), best_weights(recovered)) == []
        for epoch, batch in ((3, 4), (4, 0)):
            name = f"training_state_e{epoch}_b{batch}.th"
            one, other = (torch.load(str(run / name)) for run in (straight, recovered))
            for key in ("callbacks", "moving_average", "optimizer", "raw_model_state"):
                if key == "callbacks":
                    one[key], other[key] = one[key][:1], other[key][:1]
                assert differences(one.get(key), other.get(key)) == []

    @pytest.mark.parametrize("callback", [RECALIBRATE, AVERAGE], ids=["recalibrate", "average"])
    def test_finished_run_that_is_recovered_has_the_same_model(
        self, callback: Any, tmp_path: Path
    ) -> None:
        plain = config(callback, num_epochs=1)
        plain["data_loader"]["shuffle"] = True
        model = train_here(plain, tmp_path / "run")
        again = train_here(plain, tmp_path / "run", recover=True)
        assert model is not None and again is not None
        assert differences(dict(model.state_dict()), dict(again.state_dict())) == []

    def test_random_run_with_everything(self, tmp_path: Path) -> None:
        """Recalibrated after other batches than before the kill, it would not be the same run."""
        plain = config(
            {**RECALIBRATE, "num_batches": 4},
            {"type": "moving_average_monitor"},
            {"type": "random_state"},
            moving_average={"type": "window", "window_size": 8},
            checkpointer={"save_every_num_batches": 4},
            optimizer={"type": "sgd", "lr": 0.5},
        )
        plain["data_loader"]["shuffle"] = True
        straight, recovered = tmp_path / "straight", tmp_path / "recovered"
        train_here(plain, straight)
        train_here(plain, recovered, interrupt_at=(1, 5))
        train_here(plain, recovered, recover=True)
        assert_ended_alike(straight, recovered, best_after_epoch=1)
        table = (straight / "moving_average.csv").read_text()
        assert (recovered / "moving_average.csv").read_text() == table


class TestNothingToDo:
    @pytest.mark.parametrize("callback", [RECALIBRATE, AVERAGE], ids=["recalibrate", "average"])
    def test_model_without_such_buffers(self, callback: Any, tmp_path: Path) -> None:
        plain = tagger_config(
            moving_average={"type": "exponential"}, callbacks=[callback], num_epochs=1
        )
        train_here(plain, tmp_path / "run")
        _, state = latest_checkpoint(tmp_path / "run")
        assert "attachments" not in state["moving_average"]
        assert "recalibrating" not in (tmp_path / "run" / "out.log").read_text()

    @pytest.mark.parametrize("mode", ["recalibrate", "average"])
    def test_second_training_adds_nothing(self, mode: str, tmp_path: Path) -> None:
        model = ReplacingModel()
        model.norm = torch.nn.BatchNorm1d(1)
        callback = MovingAverageBuffersCallback(str(tmp_path), mode)
        average = started(callback, model)
        callback.on_start(callback.trainer)
        assert len(average.running.attachments) == 1
        followers = average.running.shadow_weights.followers
        assert len(followers) == (0 if mode == "recalibrate" else 1)

    @pytest.mark.parametrize("mode", ["recalibrate", "average"])
    def test_average_of_such_a_model_is_left_alone(self, mode: str, tmp_path: Path) -> None:
        model = ReplacingModel()
        del model._buffers["replaced"], model._buffers["constant"]
        average = started(MovingAverageBuffersCallback(str(tmp_path), mode), model)
        assert average.running.attachments == []


class TestFormerState:
    """Checkpoints once had the buffers in the state of the callback."""

    def test_recalibrated_statistics(self, tmp_path: Path) -> None:
        model = ReplacingModel()
        model.norm = torch.nn.BatchNorm1d(1)
        statistics = {"norm": {"running_mean": torch.tensor([3.0])}}
        counts = AveragingCounts().as_dict()
        callback = MovingAverageBuffersCallback(str(tmp_path))
        callback.load_state_dict(
            {"statistics": [{"counts": counts, "statistics": statistics}], "averages": []}
        )
        with started(callback, model).average_values():
            assert model.norm.running_mean == 3.0
        assert model.norm.running_mean == 0.0

    def test_averaged_buffers(self, tmp_path: Path) -> None:
        model = ReplacingModel()
        model.norm = torch.nn.BatchNorm1d(1)
        callback = MovingAverageBuffersCallback(str(tmp_path), "average")
        buffers = {name: value + 2.0 for name, value in AveragedBuffers(model).tensors().items()}
        callback.load_state_dict({"statistics": [], "averages": [buffers]})
        with started(callback, model).average_values():
            assert model.norm.running_mean == 2.0
        assert model.norm.running_mean == 0.0


class TestMistakes:
    @pytest.mark.parametrize(
        "callback, named",
        [
            (
                {"mode": "recompute"},
                "\"mode\" is 'recompute', but has to be one of 'recalibrate', ",
            ),
            ({"num_batches": 0}, '"num_batches" is 0, but has to be an integer >= 1'),
            ({"num_batches": "x"}, "\"num_batches\" is 'x', but has to be an integer"),
            ({"batches": 5}, '"batches" .*its keys are mode, num_batches'),
        ],
    )
    def test_configuration(self, callback: Any, named: str, tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match=named):
            train_here(config({**RECALIBRATE, **callback}), tmp_path / "run")

    @pytest.mark.parametrize("callback", [RECALIBRATE, AVERAGE], ids=["recalibrate", "average"])
    def test_no_average(self, callback: Any, tmp_path: Path) -> None:
        plain = config(callback)
        del plain["trainer"]["moving_average"]
        with pytest.raises(ConfigurationError, match="moving_average_buffers.*needs an average"):
            train_here(plain, tmp_path / "run")


class ReplacingModel(Model):
    """Its buffers: a constant, a cache, and one for which each forward pass has a new tensor."""

    def __init__(self) -> None:
        super().__init__(Vocabulary())
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.register_buffer("constant", torch.tensor([0.1, 0.2]))
        self.register_buffer("cache", torch.zeros(1), persistent=False)
        self.register_buffer("replaced", torch.zeros(1))

    def forward(self, value: float) -> Any:
        self.replaced = torch.tensor([value])
        return {"loss": self.weight.sum()}


def started(
    callback: MovingAverageBuffersCallback,
    model: Model,
    type_: Any = ExponentialMovingAverage,
    **settings: Any,
) -> MovingAverage:
    """The average of a trainer of `model` that has introduced itself to `callback`."""
    average: MovingAverage = type_(list(model.named_parameters()), **settings)
    trainer = GradientDescentTrainer(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        SimpleDataLoader([], 1),
        moving_average=average,
        callbacks=[callback],
        serialization_dir=callback.serialization_dir,
    )
    callback.on_start(trainer)
    return average
