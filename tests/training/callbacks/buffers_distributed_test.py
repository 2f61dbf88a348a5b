"""
Two processes over gloo, one of which has a batch more than the other.
"""

from pathlib import Path
from typing import Any, Callable, Dict

import pytest
import torch
from allennlp.commands.train import TrainModel
from allennlp.common import Params
from allennlp.training.util import evaluate
from torch.optim.swa_utils import update_bn

from allennlp_ema.training.callbacks import MovingAverageBuffersCallback
from tests.support.training_runs import DATA, differences, train
from tests.training.callbacks.buffers_test import RECALIBRATE, ReplacingModel, config, started
from tests.training.callbacks.recalibrated_statistics_test import NormModel, trainer_of

NUM_SENTENCES, BATCH_SIZE = 21, 2
BATCHES_OF_THE_SMALLER_SHARE = 5


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training with checkpoints that hold averages, also within an epoch."""
    directory = tmp_path_factory.mktemp("distributed")
    sentences = (DATA / "train.tsv").read_text().splitlines(True)
    (directory / "train.tsv").write_text("".join(sentences[:NUM_SENTENCES]))
    plain = config(
        RECALIBRATE,
        {"type": "moving_average_monitor"},
        {"type": "tests.support.buffers_of_each_rank.BuffersOfEachRank"},
        num_epochs=2,
        checkpointer={"type": "swapping", "save_every_num_batches": 3},
    )
    plain["train_data_path"] = str(directory / "train.tsv")
    plain["data_loader"]["batch_size"] = BATCH_SIZE
    plain["distributed"] = {"cuda_devices": [-1, -1]}
    train(plain, directory / "run")
    return directory / "run"


def of_ranks(directory: Path) -> Any:
    return [torch.load(str(directory / f"rank{rank}.th")) for rank in (0, 1)]


def test_all_ranks_have_the_same_statistics(run: Path) -> None:
    primary, other = of_ranks(run)
    assert differences(primary["averaged"], other["averaged"]) == []
    raw, averaged = primary["raw"], primary["averaged"]
    assert all(not torch.equal(raw[name], averaged[name]) for name in raw if "running" in name)


def trainer_with(directory: Path, weights: Dict[str, torch.Tensor]) -> Any:
    parameters = Params.from_file(directory / "config.json")
    parameters.pop("distributed")
    trainer = TrainModel.from_params(
        parameters, serialization_dir=str(directory), local_rank=0
    ).trainer
    trainer.model.load_state_dict(weights)
    return trainer


def test_statistics_are_those_of_the_data_of_all_ranks(run: Path) -> None:
    recalibrated = torch.load(str(run / "best.th"))
    trainer = trainer_with(run, recalibrated)
    instances = list(trainer.data_loader.iter_instances())
    batches = [
        trainer.data_loader.collate_fn(instances[rank::2][first : first + BATCH_SIZE])
        for rank in (0, 1)
        for first in range(0, BATCHES_OF_THE_SMALLER_SHARE * BATCH_SIZE, BATCH_SIZE)
    ]

    class OfOneArgument(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = trainer.model

        def forward(self, batch: Dict[str, torch.Tensor]) -> None:
            self.model(**batch)

    update_bn(batches, OfOneArgument())
    for name, value in trainer.model.state_dict().items():
        assert torch.allclose(value, recalibrated[name], atol=1e-5), name


def test_raw_metrics_are_those_of_the_primarys_raw_model(run: Path) -> None:
    primary, other = of_ranks(run)
    raw = torch.load(str(run / "training_state_e2_b0.th"))["raw_model_state"]
    weights = {**torch.load(str(run / "model_state_e2_b0.th")), **raw}
    trainer = trainer_with(run, weights)
    expected = evaluate(trainer.model, trainer._validation_data_loader)
    for metrics in (primary["metrics"], other["metrics"]):
        assert metrics["validation_raw_accuracy"] == expected["accuracy"]
    assert primary["metrics"]["validation_raw_loss"] == other["metrics"]["validation_raw_loss"]
    assert (run / "moving_average.csv").read_text().count("\n") == 3


def test_primary_alone_shows_its_progress(run: Path) -> None:
    logs = [(run / f"out_worker{rank}.log").read_text() for rank in (0, 1)]
    assert ["recalibrating batch norms: " in log for log in logs] == [True, False]
    assert "has only 5: all of these are used" in logs[0]


def on_two_ranks(function: Callable[[int, Path], Any], directory: Path) -> Any:
    """What `function(rank, directory)` returns on each of two ranks."""

    def run_rank(rank: int) -> None:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{directory}/rendezvous", rank=rank, world_size=2
        )
        torch.save(function(rank, directory), str(directory / f"rank{rank}.th"))
        torch.distributed.barrier()

    context = torch.multiprocessing.get_context("fork")
    processes = [context.Process(target=run_rank, args=(rank,)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        process.kill()
    return of_ranks(directory)


def test_averaged_buffers_are_the_primarys(tmp_path: Path) -> None:
    def averages(rank: int, directory: Path) -> Any:
        model = ReplacingModel()
        average = started(MovingAverageBuffersCallback(str(directory), "average"), model)
        for number in range(3):
            model(float(10 * number + rank))
            model.constant += rank
            average.apply()
        with average.average_values():
            return {name: buffer.clone() for name, buffer in model.named_buffers()}

    primary, other = on_two_ranks(averages, tmp_path)
    assert differences(primary, other) == []
    assert primary["constant"].tolist() == pytest.approx([0.1, 0.2])
    assert primary["replaced"].item() > 0.0


def test_primary_may_assign_alone_after_an_epoch(tmp_path: Path) -> None:
    """To save the best model, before which nothing is validated if there is no such data."""

    def statistics(rank: int, directory: Path) -> Any:
        model = NormModel()
        trainer = trainer_of(model, directory)
        callback = MovingAverageBuffersCallback(str(directory))
        callback.on_start(trainer)
        callback.on_epoch(trainer, {}, 0)
        if rank == 0:
            with trainer._moving_average.average_values():
                return model.plain.running_mean.clone()

    primary, other = on_two_ranks(statistics, tmp_path)
    assert primary.shape == (3,) and other is None
