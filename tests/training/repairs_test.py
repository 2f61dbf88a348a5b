"""
What AllenNLP 2.10.1 cannot do by itself on a current torch, and with this package can.
"""

import copy
import inspect
import io
import json
import shutil
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Dict, NamedTuple

import numpy
import pytest
import torch
from allennlp.commands.train import TrainModel
from allennlp.common import Params
from allennlp.common.checks import ConfigurationError
from allennlp.common.util import prepare_environment
from allennlp.training import GradientDescentTrainer
from allennlp.training.callbacks import TrainerCallback
from allennlp.training.learning_rate_schedulers import (
    LearningRateScheduler,
    ReduceOnPlateauLearningRateScheduler,
)
from torch.torch_version import TorchVersion

from allennlp_ema import ExponentialMovingAverage, MovingAverage
from allennlp_ema.shadow_weights.overlap import can_overlap
from allennlp_ema.shadow_weights.passes import Pass
from tests.support.grad_scaler import grad_scaler_on_cpu
from tests.support.training_runs import (
    FinishedProcess,
    assert_ended_alike,
    best_weights,
    differences,
    latest_checkpoint,
    metrics,
    tagger_config,
    train,
    train_here,
)

needs_numpys_repair = pytest.mark.skipif(
    TorchVersion(torch.__version__) < "2.6", reason="torch.load takes everything before torch 2.6"
)
needs_verboses_repair = pytest.mark.skipif(
    "verbose" in inspect.signature(torch.optim.lr_scheduler.ReduceLROnPlateau).parameters,
    reason="this torch's ReduceLROnPlateau takes verbose",
)


def config(**scheduler: Any) -> Dict[str, Any]:
    return tagger_config(
        moving_average={"type": "exponential", "decay": 0.9}, learning_rate_scheduler=scheduler
    )


COSINE = config(type="cosine", t_initial=5)
# Nothing is an improvement by 10, so the learning rate is halved after each epoch but the first.
PLATEAU = config(
    type="reduce_on_plateau", factor=0.5, patience=0, threshold=10.0, threshold_mode="abs"
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


def run_without_and_with(
    config: Dict[str, Any], directory: Path, recover: bool = False
) -> FinishedProcess:
    """
    Runs in the folders "without" and "with", of which the first may fail: it is what comes back.
    """
    with ThreadPoolExecutor(2) as executor:
        without = executor.submit(
            train,
            config,
            directory / "without",
            recover,
            # No plug-in file is here, nor in the user's home.
            cwd=directory.parent,
            environment={"HOME": str(directory.parent)},
            expected_returncode=None,
        )
        executor.submit(train, config, directory / "with", recover).result()
        return without.result()


@pytest.fixture(scope="module")
def cosine_without(directory: Path) -> FinishedProcess:
    runs = directory / "cosine"
    train_here(COSINE, runs / "with", interrupt_at=(2, 3))
    shutil.copytree(str(runs / "with"), str(runs / "without"))
    return run_without_and_with(COSINE, runs, recover=True)


@pytest.fixture(scope="module")
def plateau_without(directory: Path) -> FinishedProcess:
    return run_without_and_with(PLATEAU, directory / "plateau")


@needs_numpys_repair
def test_cosine_without(cosine_without: FinishedProcess) -> None:
    assert cosine_without.returncode == 1
    assert "UnpicklingError" in cosine_without.output
    assert "multiarray.scalar" in cosine_without.output


def test_cosine_with(cosine_without: FinishedProcess, directory: Path) -> None:
    train_here(COSINE, directory / "cosine" / "straight")
    assert_ended_alike(directory / "cosine" / "straight", directory / "cosine" / "with")


@needs_verboses_repair
def test_reduce_on_plateau_without(plateau_without: FinishedProcess) -> None:
    assert plateau_without.returncode == 1
    assert "unexpected keyword argument 'verbose'" in plateau_without.output


def test_reduce_on_plateau_with(plateau_without: FinishedProcess, directory: Path) -> None:
    _, training_state = latest_checkpoint(directory / "plateau" / "with")
    assert training_state["optimizer"]["param_groups"][0]["lr"] == 0.02 / 2**3


def test_reduce_on_plateau_keeps_its_signature() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    by_position = ReduceOnPlateauLearningRateScheduler(optimizer, "max", 0.5, 3, True)
    assert by_position.lr_scheduler.mode == "max"
    assert by_position.lr_scheduler.factor == 0.5
    assert by_position.lr_scheduler.patience == 3
    params = {"type": "reduce_on_plateau", "mode": "max", "verbose": True}
    by_name = LearningRateScheduler.from_params(Params(params), optimizer=optimizer)
    assert by_name.lr_scheduler.mode == "max"
    with pytest.raises(ConfigurationError, match="factr"):
        params = {"type": "reduce_on_plateau", "factr": 0.5}
        LearningRateScheduler.from_params(Params(params), optimizer=optimizer)


@needs_numpys_repair
@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64", "bool"])
def test_numpys_numbers_of_numpy_1_and_2(dtype: str, module: str) -> None:
    number = numpy.dtype(dtype).type(3)
    written, renamed = io.BytesIO(), io.BytesIO()
    torch.save({"number": number}, written)
    here = type(number).__reduce__(number)[0].__module__
    with zipfile.ZipFile(written) as source, zipfile.ZipFile(renamed, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("data.pkl"):
                assert f"c{here}\nscalar\n".encode() in content
                content = content.replace(f"c{here}\n".encode(), f"c{module}\n".encode())
            target.writestr(name, content)
    renamed.seek(0)
    loaded = torch.load(renamed)["number"]
    assert loaded == number and loaded.dtype == number.dtype


def build(config: Dict[str, Any], directory: Path) -> Any:
    """The trainer of a training, not yet started."""
    params = Params(json.loads(json.dumps(config)))
    return TrainModel.from_params(
        params, serialization_dir=str(directory), local_rank=0, batch_weight_key=""
    ).trainer


class Step(NamedTuple):
    weights: Dict[str, torch.Tensor]
    averages: Dict[str, torch.Tensor]
    num_updates: int


class OverflowingCallback(TrainerCallback):
    """Lets a gradient overflow at some steps, counted from 1, and notes what each step led to."""

    overflows = (1, 4, 5, 9)

    def __init__(self, trainer: GradientDescentTrainer) -> None:
        super().__init__("")
        self.steps = [self.present(trainer)]

    def present(self, trainer: Any) -> Step:
        average = trainer._moving_average
        is_ours = isinstance(average, MovingAverage)
        return copy.deepcopy(
            Step(
                {n: p.detach().clone() for n, p in trainer.model.named_parameters()},
                dict(average.named_averages()) if is_ours else average._shadows,
                average.num_updates if is_ours else 0,
            )
        )

    def on_backward(self, trainer: Any, batch_outputs: Any, *args: Any, **kwargs: Any) -> bool:
        trainer._scaler.scale(batch_outputs["loss"]).backward()
        if len(self.steps) in self.overflows:
            next(trainer.model.parameters()).grad[0, 0] = float("inf")
        return True

    def on_batch(self, trainer: Any, *args: Any, **kwargs: Any) -> None:
        if kwargs["is_training"]:
            self.steps.append(self.present(trainer))


AVERAGE = {"type": "exponential", "decay": 0.9, "update_every": 2}
ADAM = {"type": "adam", "lr": 0.02}
SCALED: Dict[str, Dict[str, Any]] = {
    "trainer": {"moving_average": AVERAGE, "optimizer": ADAM},
    "trainer_clipped": {"moving_average": AVERAGE, "grad_norm": 1.0, "grad_clipping": 0.5},
    "trainer_fused": {"moving_average": AVERAGE, "optimizer": ADAM},
    "trainer_allennlps": {
        "moving_average": {"type": "allennlp.training.moving_average.ExponentialMovingAverage"}
    },
    "optimizer": {
        "optimizer": {"type": "moving_average", "optimizer": ADAM, "moving_average": AVERAGE}
    },
}
if not (hasattr(torch, "amp") and hasattr(torch.amp, "GradScaler")):
    del SCALED["trainer_fused"]


@pytest.mark.parametrize("name", list(SCALED))
def test_step_that_grad_scaler_skips_is_not_averaged(name: str, tmp_path: Path) -> None:
    trainer = build(tagger_config(num_epochs=2, **SCALED[name]), tmp_path)
    if name == "trainer_fused":
        trainer.optimizer = torch.optim.Adam(trainer.model.parameters(), lr=0.02, fused=True)
    # The trainer makes its own only for a GPU.
    trainer._scaler = grad_scaler_on_cpu()
    callback = OverflowingCallback(trainer)
    trainer._callbacks.append(callback)
    parameters = dict(copy.deepcopy(trainer.model).named_parameters())
    reference = ExponentialMovingAverage(parameters.items(), decay=0.9, update_every=2)
    trainer.train()

    num_steps = 0
    assert len(callback.steps) == 1 + 12
    for number, (before, after) in enumerate(zip(callback.steps, callback.steps[1:]), start=1):
        is_skipped = number in OverflowingCallback.overflows
        assert (differences(before.weights, after.weights) == []) == is_skipped
        if is_skipped:
            assert differences(before.averages, after.averages) == []
        else:
            num_steps += 1
            with torch.no_grad():
                for key, parameter in parameters.items():
                    parameter.copy_(after.weights[key])
            reference.apply(num_steps)
        if name == "trainer_allennlps":
            assert (differences(before.averages, after.averages) == []) == is_skipped
        else:
            assert after.num_updates == num_steps
            assert differences(after.averages, dict(reference.named_averages())) == []
    assert num_steps == 8
    # Nothing is left out any more when the training is over.
    if name != "trainer_allennlps":
        trainer._moving_average.restore()
        trainer._moving_average.apply()
        assert trainer._moving_average.num_updates == 9


ALL_CHECKPOINTS = {"keep_most_recent_by_count": None}
EVERY_OTHER_EPOCH = tagger_config(
    moving_average={"type": "exponential", "decay": 0.9},
    callbacks=[{"type": "should_validate_callback", "validation_interval": 2}],
    checkpointer=ALL_CHECKPOINTS,
)


@pytest.mark.parametrize("interrupt_at", [None, (1, 3), (3, 3)])
def test_best_epoch_is_a_validated_one(interrupt_at: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    if interrupt_at is not None:
        train_here(EVERY_OTHER_EPOCH, run, interrupt_at=interrupt_at)
    model = train_here(EVERY_OTHER_EPOCH, run, recover=interrupt_at is not None)
    assert model is not None
    averages = {}
    for epoch in range(4):
        training_state = torch.load(str(run / f"training_state_e{epoch + 1}_b0.th"))
        averages[epoch] = training_state["moving_average"]["averages"]
    assert metrics(run)["best_epoch"] == 2
    assert differences(dict(best_weights(run)), averages[2]) == []
    assert differences(dict(best_weights(run)), averages[3]) != []
    assert differences(dict(model.state_dict()), averages[2]) == []
    if interrupt_at is not None:
        # Where it goes on, no epoch is validated that was to be left out.
        resumed = json.loads((run / f"metrics_epoch_{interrupt_at[0]}.json").read_text())
        assert "validation_loss" not in resumed


def test_epoch_that_goes_on_after_its_last_batch_is_validated_or_not(tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = copy.deepcopy(EVERY_OTHER_EPOCH)
    config["trainer"]["checkpointer"] = {"save_every_num_batches": 6, **ALL_CHECKPOINTS}
    train_here(config, run, interrupt_at=(2, 1))
    for what in ("model", "training"):
        (run / f"{what}_state_e2_b0.th").unlink()
    train_here(config, run, recover=True)
    for epoch, is_validated in ((1, False), (2, True)):
        resumed = json.loads((run / f"metrics_epoch_{epoch}.json").read_text())
        assert ("validation_loss" in resumed) == is_validated


def test_without_validation_data_best_weights_go_on_being_saved(tmp_path: Path) -> None:
    config = {**EVERY_OTHER_EPOCH, "validation_data_path": None}
    train_here(config, tmp_path / "run")
    averages = torch.load(str(tmp_path / "run" / "training_state_e3_b0.th"))["moving_average"]
    assert differences(dict(best_weights(tmp_path / "run")), averages["averages"]) == []


@pytest.mark.skipif(not can_overlap(), reason="updates are never beside the training")
def test_the_last_update_is_over_when_the_best_model_is_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run_pass, averages = Pass.run, []

    def run_late(self: Pass, weights: Any) -> bool:
        time.sleep(0.02)
        return run_pass(self, weights)

    monkeypatch.setattr(Pass, "run", run_late)
    for sequential_update in (True, False):
        config = copy.deepcopy(EVERY_OTHER_EPOCH)
        config["trainer"]["moving_average"]["sequential_update"] = sequential_update
        # Otherwise the average is asked for after each epoch, and so waited for.
        config["trainer"]["checkpointer"] = {"save_completed_epochs": False}
        prepare_environment(Params({}))
        trainer = build(config, tmp_path / str(sequential_update))
        trainer.train()
        averages.append(dict(trainer._moving_average.named_averages()))
    assert differences(*averages) == []


@pytest.mark.parametrize("is_primary", [True, False])
def test_every_worker_saves_at_the_same_batches(is_primary: bool, tmp_path: Path) -> None:
    trainer = build(tagger_config(checkpointer={"save_every_num_batches": 2}), tmp_path)
    checkpointer = trainer._checkpointer
    if not is_primary:
        # What a trainer does on all workers but the primary.
        checkpointer._rank, trainer.get_checkpoint_state = 1, lambda: None
    saved = []
    for trainer._epochs_completed in (0, 1):
        for batch in range(1, 7):
            trainer._batches_in_epoch_completed = batch
            if checkpointer.maybe_save_checkpoint(trainer, trainer._epochs_completed, batch):
                saved.append((trainer._epochs_completed, batch))
    assert saved == [(epoch, batch) for epoch in (0, 1) for batch in (2, 4, 6)]
    assert bool(list(tmp_path.glob("*_state_*.th"))) == is_primary
