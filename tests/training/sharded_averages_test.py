"""
Averages, and all that goes with them, of a model that `torch_fsdp` shards: beside AllenNLP's own
accelerator, beside one process, and killed and recovered.
"""

import csv
from pathlib import Path
from typing import Any, Dict, List

import pytest
import torch
from torch import Tensor

from allennlp_ema.averages.snapshot_files import find_snapshots, snapshot_values
from tests.shadow_weights.sharded_test import needs_fully_shard
from tests.support.command_line import allennlp, archived_weights
from tests.support.forked_trainings import Training, run_trainings, workers_config
from tests.support.training_runs import best_weights, differences, metrics

pytestmark = needs_fully_shard

FSDP = {"type": "torch_fsdp", "wrap": ["encoder", "tag_projection"]}
BANK = {
    "type": "bank",
    "averages": {
        "fast": {"type": "exponential", "decay": 0.5},
        "mean": {"type": "uniform"},
        "last": {"type": "window", "window_size": 2},
    },
    "active": "fast",
}
CALLBACKS = [
    "moving_average_monitor",
    {"type": "moving_average_selection", "candidates": ["fast", "mean", "last"]},
    {"type": "moving_average_snapshots", "every_num_updates": 3},
    "random_state",
    {"type": "tests.support.whole_states.WholeStates"},
]


def config(num_workers: int, accelerator: Any, with_norms: bool) -> Dict[str, Any]:
    buffers = [{"type": "moving_average_buffers", "num_batches": 4}] if with_norms else []
    plain = workers_config(
        num_workers,
        accelerator,
        num_epochs=3,
        optimizer={"type": "sgd", "lr": 0.5, "momentum": 0.5},
        moving_average=BANK,
        callbacks=[*buffers, *CALLBACKS],
        checkpointer={"type": "swapping", "save_every_num_batches": 4},
    )
    plain["data_loader"] = {"batch_size": 4 // num_workers, "shuffle": False}
    plain["validation_data_loader"] = {"batch_size": 1}
    if with_norms:
        plain["model"]["encoder"] = {
            "type": "fixtures.batch_norm_encoder.BatchNormCnnEncoder",
            "input_dim": 6,
            "hidden_dim": 7,
        }
    if num_workers == 1:
        del plain["distributed"]
    return plain


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("runs")
    run_trainings(
        [
            Training(config(1, None, with_norms=False), directory / "one"),
            Training(config(2, FSDP, with_norms=False), directory / "two"),
        ],
        [
            Training(config(2, None, with_norms=True), directory / "norms_whole"),
            Training(config(2, FSDP, with_norms=True), directory / "norms"),
        ],
        [Training(config(2, FSDP, with_norms=True), directory / "killed", kill_at=(1, 6))],
        [Training(config(2, FSDP, with_norms=True), directory / "killed", recover=True)],
    )
    return directory


def snapshots(run: Path) -> Dict[str, Dict[str, Tensor]]:
    return {
        snapshot.path.name: {name: value.clone() for name, value in snapshot_values(snapshot)}
        for snapshot in find_snapshots(run / "averages")
    }


def table(run: Path) -> List[Dict[str, Any]]:
    with open(str(run / "moving_average.csv")) as file:
        return list(csv.DictReader(file))


def figures(run: Path) -> Dict[str, Any]:
    """What metrics are of the model, without times and memory."""
    left_out = ("memory", "duration", "training_loss")
    return {k: v for k, v in metrics(run).items() if not any(word in k for word in left_out)}


def test_values_are_those_of_one_process_but_for_rounding(runs: Path) -> None:
    for name in ("epoch0.th", "epoch2.th"):
        one, two = (torch.load(str(runs / run / name)) for run in ("one", "two"))
        torch.testing.assert_close(two["weights"], one["weights"], rtol=1e-4, atol=1e-5)
        assert sorted(two["averages"]) == ["fast", "last", "mean"]
        torch.testing.assert_close(two["averages"], one["averages"], rtol=1e-4, atol=1e-5)
    best = [dict(best_weights(runs / run)) for run in ("two", "one")]
    torch.testing.assert_close(*best, rtol=1e-4, atol=1e-5)


def test_metrics_are_those_of_one_process_but_for_rounding(runs: Path) -> None:
    one, two = figures(runs / "one"), figures(runs / "two")
    assert one["validation_raw_loss"] != pytest.approx(one["validation_loss"], rel=1e-3)
    assert one["training_moving_average_distance"] > 0.01
    for key in ("selected", "best_selected"):
        assert one.pop(key) == two.pop(key)
    assert two == pytest.approx(one, rel=1e-4)
    for row, row_of_one in zip(table(runs / "two"), table(runs / "one")):
        assert row.keys() == row_of_one.keys() and row["selected"] == row_of_one["selected"]
        for key in row.keys() - {"selected"}:
            assert float(row[key]) == pytest.approx(float(row_of_one[key]), rel=1e-4), key


def test_snapshots_are_whole_and_those_of_one_process(runs: Path) -> None:
    one, two = snapshots(runs / "one"), snapshots(runs / "two")
    assert len(two) == 18 and two.keys() == one.keys()
    torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-5)
    last = torch.load(str(runs / "two" / "epoch2.th"))["averages"]
    for name, values in last.items():
        assert differences(two[f"update_0000000018.{name}.safetensors"], values) == []


def test_the_command_line_knows_nothing_of_shards(
    runs: Path, capsys: pytest.CaptureFixture
) -> None:
    archive, average = runs / "synthesized.tar.gz", '{"type": "uniform"}'
    command = ("average", "synthesize", runs / "two", "--average", average, "-o", archive)
    assert allennlp(capsys, *command).status == 0
    mean = torch.load(str(runs / "two" / "epoch2.th"))["averages"]["mean"]
    torch.testing.assert_close(archived_weights(archive), mean, rtol=1e-4, atol=1e-5)


def test_everything_is_bit_equal_to_whole_models_with_norms_too(runs: Path) -> None:
    whole, sharded = runs / "norms_whole", runs / "norms"
    for name in ("epoch0.th", "epoch2.th"):
        states = [torch.load(str(run / name)) for run in (sharded, whole)]
        assert differences(*states) == []
    assert differences(snapshots(sharded), snapshots(whole)) == []
    assert differences(dict(best_weights(sharded)), dict(best_weights(whole))) == []
    one, other = figures(sharded), figures(whole)
    assert one.pop("training_moving_average_distance") == pytest.approx(
        other.pop("training_moving_average_distance")
    )
    assert one == other


def test_killed_and_recovered_it_ends_bit_equal(runs: Path) -> None:
    straight, recovered = runs / "norms", runs / "killed"
    for kind in ("model", "training"):
        for worker in (0, 1):
            name = f"{kind}_state_e3_b0_w{worker}.th"
            one, other = (torch.load(str(run / name)) for run in (straight, recovered))
            for state in (one, other):
                state.pop("best_model_filename", None)
            assert differences(one, other) == []
    assert differences(snapshots(straight), snapshots(recovered)) == []
    assert differences(dict(best_weights(straight)), dict(best_weights(recovered))) == []
    assert figures(straight) == figures(recovered) and table(straight) == table(recovered)
    assert archived_weights(recovered / "model.tar.gz").keys() == best_weights(straight).keys()


def test_each_worker_averages_its_part(runs: Path) -> None:
    whole = sum(value.numel() for value in best_weights(runs / "two").values())
    sizes = []
    for worker in (0, 1):
        log = (runs / "two" / f"out_worker{worker}.log").read_text()
        words = next(line for line in log.splitlines() if "ExponentialMovingAverage" in line)
        sizes.append(int(words.split(" parameters with ")[1].split(" values in this")[0]))
    assert len(sizes) == 2 and abs(sizes[0] - sum(sizes) / 2) < 60
    assert sum(sizes) == whole
