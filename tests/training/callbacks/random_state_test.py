import copy
import json
import pickle
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Dict, Optional
from unittest import mock

import pytest
import torch
from allennlp.commands.train import TrainModel
from allennlp.common import Params
from allennlp.common.checks import ConfigurationError
from allennlp.data.data_loaders import MultiProcessDataLoader
from allennlp.models import Model, SimpleTagger
from allennlp.training.callbacks import TrainerCallback

from allennlp_ema.training.callbacks import random_state
from tests.support.grad_scaler import grad_scaler_on_cpu
from tests.support.training_runs import (
    best_weights,
    differences,
    latest_checkpoint,
    tagger_config,
    train,
    train_here,
)

DRAWS = {"type": "tests.support.draws_of_generators.DrawsOfGenerators"}

CHECKPOINTER = {"save_every_num_batches": 2, "keep_most_recent_by_count": None}


def config(
    loader: Dict[str, Any],
    validation_loader: Optional[Dict[str, Any]] = None,
    callbacks: Any = ("random_state", DRAWS),
    **trainer: Any,
) -> Dict[str, Any]:
    """A training with dropout, and with a checkpoint at every other step."""
    moving_average = {"type": "exponential", "decay": 0.9}
    configuration = tagger_config(
        callbacks=list(callbacks),
        **{"moving_average": moving_average, "checkpointer": CHECKPOINTER, **trainer},
    )
    configuration["model"]["encoder"].update(num_layers=2, dropout=0.3)
    configuration["data_loader"] = loader
    configuration["validation_data_loader"] = validation_loader or loader
    return configuration


SHUFFLED = {"batch_size": 4, "shuffle": True}
BUCKETED = {"batch_sampler": {"type": "bucket", "batch_size": 4}}
CONFIGS = {
    "shuffled": config(SHUFFLED, BUCKETED),
    "bucketed": config(BUCKETED, SHUFFLED),
    "by_number_of_tokens": config(
        {"batch_sampler": {"type": "max_tokens_sampler", "max_tokens": 30}}
    ),
    "shuffled_in_place": config({"type": "simple", **SHUFFLED}),
    "part_of_an_epoch": config({**SHUFFLED, "batches_per_epoch": 5}),
    "lazy": config({**SHUFFLED, "max_instances_in_memory": 12}),
    "accumulated": config(
        {"batch_size": 2, "shuffle": True},
        SHUFFLED,
        num_gradient_accumulation_steps=2,
        grad_norm=1.0,
    ),
}


class TaggerOfTasks(SimpleTagger):
    def forward(self, task: Any, **inputs: Any) -> Dict[str, Any]:  # type: ignore
        return super().forward(**inputs)


READER = tagger_config()["dataset_reader"]
CONFIGS["multitask"] = {
    **config(
        {
            "type": "multitask",
            "scheduler": {"type": "homogeneous_roundrobin", "batch_size": 4},
            "max_instances_in_memory": {"lazy": 8},
        }
    ),
    "dataset_reader": {"type": "multitask", "readers": {"lazy": READER, "other": READER}},
    **{
        path: {"lazy": tagger_config()[path], "other": tagger_config()[path]}
        for path in ("train_data_path", "validation_data_path")
    },
}
CONFIGS["multitask"]["model"]["type"] = f"{__name__}.{TaggerOfTasks.__qualname__}"
CONFIGS["accumulated"]["model"]["regularizer"] = {
    "regexes": [["weight", {"type": "l2", "alpha": 0.01}]]
}


def assert_is_the_same_run(straight: Path, recovered: Path) -> None:
    assert differences(best_weights(straight), best_weights(recovered)) == []
    model_state, training_state = latest_checkpoint(straight)
    recovered_model_state, recovered_training_state = latest_checkpoint(recovered)
    assert differences(model_state, recovered_model_state) == []
    for state in (training_state, recovered_training_state):
        state["best_model_filename"] = Path(state["best_model_filename"]).name
    assert differences(training_state, recovered_training_state) == []
    for name in ["metrics.json", *(f"metrics_epoch_{epoch}.json" for epoch in range(4))]:
        assert reproducible_metrics(straight / name) == reproducible_metrics(recovered / name)
    for file in straight.glob("draws*.json"):
        assert json.loads(file.read_text()) == json.loads((recovered / file.name).read_text())


def reproducible_metrics(file: Path) -> Dict[str, Any]:
    values = json.loads(file.read_text())
    return {k: v for k, v in values.items() if not k.endswith(("_memory_MB", "_duration"))}


@pytest.fixture(scope="module", params=list(CONFIGS))
def straight(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("straight") / request.param
    train_here(CONFIGS[request.param], directory)
    return directory


# With checkpoints of the end of an epoch, and of the middle of the last one.
@pytest.mark.parametrize("interrupt_at", [(2, 1), (3, 4)], ids=str)
def test_recovered_run_is_the_same_run(straight: Path, interrupt_at: Any, tmp_path: Path) -> None:
    train_here(CONFIGS[straight.name], tmp_path / "run", interrupt_at=interrupt_at)
    train_here(CONFIGS[straight.name], tmp_path / "run", recover=True)
    assert_is_the_same_run(straight, tmp_path / "run")


@pytest.mark.everywhere
def with_stateful_encoder() -> Dict[str, Any]:
    plain = config(SHUFFLED)
    encoder = {"type": "lstm", "input_size": 6, "hidden_size": 4, "stateful": True}
    plain["model"]["encoder"] = encoder
    return plain


@Model.register("epoch_tagger")
class EpochTagger(SimpleTagger):
    """Its loss depends on the epoch."""

    epoch = 0

    def forward(self, *args: Any, **inputs: Any) -> Dict[str, Any]:
        output = super().forward(*args, **inputs)
        if self.training:
            output["loss"] = output["loss"] * (1 + self.epoch)
        return output


def with_epochs() -> Dict[str, Any]:
    plain = config(
        SHUFFLED,
        callbacks=("track_epoch_callback", "random_state"),
        optimizer={"type": "sgd", "lr": 0.1},
    )
    plain["model"]["type"] = "epoch_tagger"
    return plain


@pytest.mark.parametrize("make", [with_stateful_encoder, with_epochs])
@pytest.mark.parametrize("interrupt_at", [(2, 3), (1, 6)])
def test_what_a_model_carries_from_batch_to_batch_is_the_same(
    make: Any, interrupt_at: Any, tmp_path: Path
) -> None:
    train_here(make(), tmp_path / "straight")
    train_here(make(), tmp_path / "recovered", interrupt_at=interrupt_at)
    train_here(make(), tmp_path / "recovered", recover=True)
    ends = [best_weights(tmp_path / name) for name in ("straight", "recovered")]
    assert differences(*ends) == []


def test_recovered_from_a_checkpoint_of_the_last_batch_of_an_epoch(tmp_path: Path) -> None:
    train_here(CONFIGS["shuffled"], tmp_path / "straight")
    train_here(CONFIGS["shuffled"], tmp_path / "run", interrupt_at=(2, 1))
    for what in ("model", "training"):
        (tmp_path / "run" / f"{what}_state_e2_b0.th").unlink()
    assert (tmp_path / "run" / "model_state_e1_b6.th").exists()
    train_here(CONFIGS["shuffled"], tmp_path / "run", recover=True)
    assert_is_the_same_run(tmp_path / "straight", tmp_path / "run")


def test_without_the_callback_it_is_another_run(tmp_path: Path) -> None:
    without = config(SHUFFLED, BUCKETED, callbacks=[])
    train_here(without, tmp_path / "straight")
    train_here(without, tmp_path / "run", interrupt_at=(2, 1))
    train_here(without, tmp_path / "run", recover=True)
    straight, recovered = best_weights(tmp_path / "straight"), best_weights(tmp_path / "run")
    assert differences(straight, recovered) != []


def test_order_of_the_data_depends_on_nothing_else_that_draws(tmp_path: Path) -> None:
    words = []
    for draws in (True, False):
        run = tmp_path / str(draws)
        callbacks = ["random_state", {**DRAWS, "draws": draws}]
        train_here(config(SHUFFLED, BUCKETED, callbacks=callbacks), run)
        drawn = json.loads((run / "draws.json").read_text())
        words.append({when: batch for when, (batch, _) in drawn.items()})
    assert words[0] == words[1]
    # But on the epoch it does, and on the seed.
    assert words[0]["0 1 True"] != words[0]["1 1 True"]
    other_seed = {**config(SHUFFLED, BUCKETED), "random_seed": 1}
    train_here(other_seed, tmp_path / "other_seed")
    drawn = json.loads((tmp_path / "other_seed" / "draws.json").read_text())
    assert drawn["0 1 True"][0] != words[0]["0 1 True"]


def build(directory: Path, **kwargs: Any) -> Any:
    """The trainer of a training, not yet started."""
    params = Params(json.loads(json.dumps(config(SHUFFLED, **kwargs))))
    return TrainModel.from_params(
        params, serialization_dir=str(directory), local_rank=0, batch_weight_key=""
    ).trainer


@pytest.mark.parametrize(
    "state, said",
    [
        ({}, "the checkpoint has no random state"),
        ({"of": "another callback"}, "the checkpoint has no random state"),
        ({"workers": [{}, {}]}, "2 workers' random state"),
    ],
    ids=["none", "another", "two_workers"],
)
def test_checkpoint_without_its_state_is_said_to_give_another_run(
    state: Dict[str, Any], said: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = build(tmp_path)
    callback = trainer._callbacks[0]
    assert callback.state_dict() == {}
    for has_checkpoint in (False, True):
        trainer._start_after_epochs_completed = int(has_checkpoint)
        callback.load_state_dict(state)
        callback.on_start(trainer)
        callback.on_end(trainer)
        assert (said in caplog.text) == has_checkpoint


def test_after_training_the_loaders_are_as_before_and_copies_are_at_any_time(
    tmp_path: Path,
) -> None:
    trainer = build(tmp_path)
    callback, loader = trainer._callbacks[0], trainer.data_loader
    callback.on_start(trainer)
    assert trainer.data_loader is loader and isinstance(loader, MultiProcessDataLoader)
    first, again = ([b["tokens"]["tokens"]["tokens"].tolist() for b in loader] for _ in range(2))
    assert first == again and len(loader) == 6
    for other in (copy.copy(loader), pickle.loads(pickle.dumps(loader))):
        assert type(other) is MultiProcessDataLoader
        assert len(list(other)) == 6
    callback.on_end(trainer)
    assert type(loader) is MultiProcessDataLoader
    assert type(trainer._validation_data_loader) is MultiProcessDataLoader
    assert trainer._train_epoch.__func__ is type(trainer)._train_epoch


def test_loader_whose_class_has_no_length_goes_on_having_none(tmp_path: Path) -> None:
    class Batches:
        def __init__(self, loader: Any) -> None:
            self.loader = loader

        def __iter__(self) -> Any:
            return iter(self.loader)

    trainer = build(tmp_path)
    trainer.data_loader = Batches(trainer.data_loader)
    trainer._callbacks[0].on_start(trainer)
    with pytest.raises(TypeError):
        len(trainer.data_loader)
    assert trainer.data_loader and len(list(trainer.data_loader)) == 6


def test_loader_that_fails_leaves_the_generators_outside_as_they_were(tmp_path: Path) -> None:
    trainer = build(tmp_path)
    callback = trainer._callbacks[0]
    callback.on_start(trainer)
    random.seed(5)
    expected = random.Random(5).random()
    with mock.patch.object(trainer.data_loader, "collate_fn", side_effect=KeyError):
        with pytest.raises(KeyError):
            next(iter(trainer.data_loader))
    assert random.random() == expected


def test_seed_and_scale_of_grad_scaler_are_kept(tmp_path: Path) -> None:
    trainer, other = build(tmp_path / "one"), build(tmp_path / "other")
    trainer._scaler, other._scaler = grad_scaler_on_cpu(8.0), grad_scaler_on_cpu(1024.0)
    for each in (trainer, other):
        each._scaler.scale(torch.ones(1))
    other._start_after_epochs_completed = 1
    trainer._callbacks[0].on_start(trainer)
    other._callbacks[0].load_state_dict(trainer._callbacks[0].state_dict())
    other._callbacks[0].on_start(other)
    assert other._scaler.get_scale() == 8.0
    # Also if something else drew before the callback was built.
    orders = [
        [batch["tokens"]["tokens"]["tokens"].tolist() for batch in each.data_loader]
        for each in (trainer, other)
    ]
    assert orders[0] == orders[1]


def test_generators_of_all_cuda_devices_are_kept() -> None:
    states = [torch.tensor([1], dtype=torch.uint8), torch.tensor([2], dtype=torch.uint8)]
    set_states: Dict[int, Any] = {}
    with mock.patch.multiple(
        torch.cuda,
        is_available=lambda: True,
        is_initialized=lambda: True,
        device_count=lambda: 2,
        get_rng_state_all=lambda: states,
        set_rng_state=lambda state, device: set_states.update({device: state}),
    ):
        kept = random_state._all_generators()
        random_state._set_all_generators(kept)
    assert kept["cuda"] == states
    assert set_states == {0: states[0], 1: states[1]}


def test_bad_configuration() -> None:
    with pytest.raises(ConfigurationError, match='unknown key "seed" for RandomStateCallback'):
        TrainerCallback.from_params(
            Params({"type": "random_state", "seed": 3}), serialization_dir="nowhere"
        )


KILLED_AT = (2, 3)
# Together with the optimizer that averages and the checkpointer that swaps.
OF_ONE_PROCESS = config(
    BUCKETED,
    SHUFFLED,
    moving_average=None,
    optimizer={
        "type": "moving_average",
        "optimizer": {"type": "adam", "lr": 0.02},
        "moving_average": {"type": "exponential", "decay": 0.9},
    },
    checkpointer={"type": "swapping", **CHECKPOINTER},
)
OF_TWO_PROCESSES = {
    **OF_ONE_PROCESS,
    "data_loader": {"batch_sampler": {"type": "bucket", "batch_size": 2}},
    "distributed": {"cuda_devices": [-1, -1]},
}


@pytest.mark.parametrize("config", [OF_ONE_PROCESS, OF_TWO_PROCESSES], ids=["one", "two"])
def test_by_the_command_line_a_killed_run_is_the_same_run(
    config: Dict[str, Any], tmp_path: Path
) -> None:
    def run_straight() -> None:
        if "distributed" in config:
            train(config, tmp_path / "straight")
        else:
            train_here(config, tmp_path / "straight")

    def run_killed() -> None:
        train(config, tmp_path / "run", kill_at=KILLED_AT)
        assert (tmp_path / "run" / "model_state_e2_b2.th").exists()
        train(config, tmp_path / "run", recover=True)

    with ThreadPoolExecutor(2) as executor:
        killed = executor.submit(run_killed)
        run_straight()
        killed.result()
    assert_is_the_same_run(tmp_path / "straight", tmp_path / "run")
