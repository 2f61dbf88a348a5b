"""
The accelerator `torch_fsdp` under `allennlp train`, beside AllenNLP's own and one process.
"""

import json
from pathlib import Path
from typing import Any, Dict

import pytest
import torch
from allennlp.models.archival import load_archive

from allennlp_ema.after_training.finished_training import FinishedTraining
from allennlp_ema.after_training.snapshot_synthesis import SnapshotSynthesis
from allennlp_ema.averages.specifications import build_average
from tests.shadow_weights.sharded_test import needs_fully_shard
from tests.support.command_line import evaluated
from tests.support.forked_trainings import Training, run_trainings, workers_config
from tests.support.training_runs import best_weights, differences, metrics

FSDP = {"type": "torch_fsdp"}
WHOLE_STATES = {"type": "tests.support.whole_states.WholeStates"}
DRAWN = {"type": "tests.support.drawn_by_worker.DrawnByWorker"}
SCALED = {"type": "tests.support.scaled_training.ScaledTraining"}

pytestmark = needs_fully_shard


def config(num_workers: int, accelerator: Any, *callbacks: Any, **trainer: Any) -> Dict[str, Any]:
    """
    With dropout, a list of layers of three rows, of which four workers have one at most, and
    weights that each worker initializes to other values.
    """
    plain = workers_config(
        num_workers,
        accelerator,
        **{
            "num_epochs": 2,
            "moving_average": {"decay": 0.7},
            "callbacks": ["random_state", WHOLE_STATES, *callbacks],
            "grad_clipping": 0.05,
            **trainer,
        },
    )
    plain["model"]["initializer"] = {"regexes": [["tag_projection", DRAWN]]}
    layers = {"input_dim": 5, "num_layers": 2, "hidden_dims": 3, "activations": "tanh"}
    plain["model"]["encoder"] = {
        "type": "compose",
        "encoders": [
            {"type": "lstm", "input_size": 6, "hidden_size": 5},
            {"type": "feedforward", "feedforward": {**layers, "dropout": 0.2}},
        ],
    }
    return plain


def with_penalty(plain: Dict[str, Any]) -> Dict[str, Any]:
    plain["model"]["regularizer"] = {"regexes": [[".*", {"type": "l2", "alpha": 0.01}]]}
    return plain


def with_tied_weights(plain: Dict[str, Any]) -> Dict[str, Any]:
    plain["model"]["type"] = "tests.support.tied_tagger.TiedTagger"
    return plain


CONFIGS = {
    "ddp": config(2, None),
    "fsdp": config(2, FSDP),
    "root": config(2, {**FSDP, "wrap": [], "reshard_after_forward": False}),
    "offloaded": config(2, {**FSDP, "wrap": ["encoder"], "offload_to_cpu": True}),
    "bfloat16": config(2, {**FSDP, "mixed_precision": "bfloat16"}),
    "four_ddp": config(4, None, num_gradient_accumulation_steps=3),
    "four": config(4, FSDP, num_gradient_accumulation_steps=3),
    "scaled_ddp": config(2, None, SCALED),
    "scaled": config(2, FSDP, SCALED),
    "clipped_ddp": with_penalty(config(2, None, grad_norm=0.1)),
    "clipped": with_penalty(config(2, FSDP, grad_norm=0.1)),
    "normed": config(2, FSDP, grad_norm=True),
    "tied": with_tied_weights(config(2, FSDP, "moving_average_snapshots")),
}


# What is run together, when the first of it is asked for.
GROUPS = [
    ["ddp", "fsdp", "root", "offloaded", "bfloat16", "tied"],
    ["four_ddp", "four"],
    ["scaled_ddp", "scaled", "normed"],
    ["clipped_ddp", "clipped"],
]


class Runs:
    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def __truediv__(self, name: str) -> Path:
        if not (self.directory / name).exists():
            (group,) = (group for group in GROUPS if name in group)
            trainings = [Training(CONFIGS[each], self.directory / each) for each in group]
            run_trainings(*(trainings[first : first + 2] for first in range(0, len(group), 2)))
        return self.directory / name


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs(tmp_path_factory.mktemp("runs"))


def last_state(run: Path) -> Dict[str, Any]:
    return torch.load(str(run / "epoch1.th"))


def sharding(run: Path) -> Dict[str, Any]:
    return json.loads((run / "sharding.json").read_text())


def numbers(run: Path) -> Dict[str, Any]:
    return {k: v for k, v in metrics(run).items() if "memory" not in k and "duration" not in k}


@pytest.mark.parametrize(
    ("run", "other"),
    [
        ("fsdp", "ddp"),
        ("root", "ddp"),
        ("offloaded", "ddp"),
        ("scaled", "scaled_ddp"),
        ("normed", "ddp"),
    ],
)
def test_a_training_is_bit_equal_to_that_of_whole_models(runs: Runs, run: str, other: str) -> None:
    assert differences(last_state(runs / run), last_state(runs / other)) == []
    assert differences(dict(best_weights(runs / run)), dict(best_weights(runs / other))) == []
    assert numbers(runs / run) == numbers(runs / other)


@pytest.mark.parametrize("run", ["four", "clipped"])
def test_it_is_but_for_the_order_of_sums(runs: Runs, run: str) -> None:
    state, other = last_state(runs / run), last_state(runs / f"{run}_ddp")
    torch.testing.assert_close(state["weights"], other["weights"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(state["averages"], other["averages"], rtol=1e-4, atol=1e-5)
    assert numbers(runs / run) == pytest.approx(numbers(runs / f"{run}_ddp"), rel=1e-4)


def test_clipping_and_penalties_are_at_work(runs: Runs) -> None:
    assert differences(last_state(runs / "clipped"), last_state(runs / "fsdp")) != []
    assert metrics(runs / "clipped")["training_reg_loss"] > 0.01


def test_the_scaler_leaves_a_step_out_for_all_workers(runs: Runs) -> None:
    steps = {int(s["step"]) for s in last_state(runs / "scaled")["optimizer"].values()}
    assert steps == {11}


def test_mixed_precision_keeps_weights_and_outputs_in_float32(runs: Runs) -> None:
    half, full = last_state(runs / "bfloat16"), last_state(runs / "fsdp")
    assert {value.dtype for value in half["weights"].values()} == {torch.float32}
    assert {value.dtype for value in half["averages"]["exponential"].values()} == {torch.float32}
    assert differences(half["weights"], full["weights"]) != []
    torch.testing.assert_close(half["weights"], full["weights"], rtol=0.05, atol=0.05)
    loss = metrics(runs / "bfloat16")["validation_loss"]
    assert loss == pytest.approx(metrics(runs / "fsdp")["validation_loss"], rel=0.02)
    assert sharding(runs / "bfloat16")["outputs"] == ["torch.float32"]


def test_units_are_gathered_by_themselves(runs: Runs) -> None:
    layers = [f"encoder.encoder1._feedforward._linear_layers.{n}" for n in (0, 1)]
    assert sharding(runs / "fsdp")["units"] == ["", *layers]
    assert sharding(runs / "root")["units"] == [""]
    assert "encoder" in sharding(runs / "offloaded")["units"]


@pytest.mark.parametrize("run", ["fsdp", "four"])
def test_each_worker_has_its_part_alone(runs: Runs, run: str) -> None:
    num_workers = len(CONFIGS[run]["distributed"]["cuda_devices"])
    parts = [
        torch.load(str(runs / run / f"model_state_e2_b0_w{worker}.th"))
        for worker in range(num_workers)
    ]
    weights = last_state(runs / run)["weights"]
    for name, value in weights.items():
        rows = [part["weights"][name] for part in parts]
        assert max(len(each) for each in rows) == -(-len(value) // num_workers)
        assert torch.equal(torch.cat(rows), value)
    optimizer = torch.load(str(runs / run / "training_state_e2_b0_w0.th"))["optimizer"]
    sizes = sum(v.numel() for v in parts[0]["weights"].values())
    moments = [state["exp_avg"]["rows_of_worker"] for state in optimizer["state"].values()]
    assert sum(moment.numel() for moment in moments) == sizes
    log = (runs / run / "out_worker0.log").read_text()
    assert f"averages {len(weights)} parameters with {sizes:,} values in this process" in log


def test_what_it_writes_is_a_model_as_any_other(runs: Runs) -> None:
    archive = runs / "fsdp" / "model.tar.gz"
    model = load_archive(str(archive)).model
    assert differences(dict(model.state_dict()), dict(best_weights(runs / "fsdp"))) == []
    best = {k: v for k, v in metrics(runs / "fsdp").items() if k.startswith("best_validation_")}
    for name, value in evaluated(archive).items():
        assert value == pytest.approx(best[f"best_validation_{name}"], rel=1e-5)


def test_tied_weights_are_tied_in_the_model_that_it_writes(runs: Runs) -> None:
    training = FinishedTraining(runs / "tied")
    one, other = "text_field_embedder.token_embedder_tokens.weight", "output.weight"
    best = training.best_weights()
    assert best[one].data_ptr() == best[other].data_ptr()
    assert best["_extra_state"] == {"is_tied": True}
    # So an average that knows one of the names reaches both.
    synthesis = SnapshotSynthesis(training.snapshots(), num_updates=6)
    weights = training.weights_around(6, synthesis.names)
    wanted = build_average({"type": "exponential", "decay": 0.7}).weighting
    synthesis.copy_into(weights, synthesis.solve(wanted))
    average = torch.load(str(runs / "tied" / "epoch0.th"))["averages"]["exponential"][one]
    assert not torch.equal(best[one], average)
    assert torch.equal(weights[one], average) and torch.equal(weights[other], average)
