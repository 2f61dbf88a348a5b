"""
`to_params` and `from_params` are each other's inverse, for all that this package registers.
"""

from typing import Any, Dict, List

import pytest
import torch
from allennlp.common import Params, Registrable
from allennlp.nn.parallel import DdpAccelerator
from allennlp.training.callbacks import TrainerCallback
from allennlp.training.checkpointer import Checkpointer
from allennlp.training.moving_average import MovingAverage as AllenNLPMovingAverage
from allennlp.training.optimizers import Optimizer
from torch.nn import Parameter

import allennlp_ema
from allennlp_ema import DecaySchedule
from tests.support.every_average import EVERY_AVERAGE

pytestmark = pytest.mark.everywhere

EVERY_KEY: Dict[str, Any] = {
    "start_step": 3,
    "update_every": {"epochs": 1.0},
    "shadow_dtype": "float64",
    "shadow_device": "cpu",
    "sequential_update": False,
    "include": ["p"],
    "exclude": ["q"],
}
AVERAGES: List[Dict[str, Any]] = [
    {"type": "exponential"},
    {"type": "exponential", "decay": 0.9, "numerator": 2.0, "denominator": 3.0},
    {"type": "exponential", "decay": {"type": "half_life", "half_life": {"epochs": 2.0}}},
    *({"type": "exponential", **params} for params in EVERY_AVERAGE.values()),
    {"type": "swa", **EVERY_KEY},
    {"type": "lawa", "window_size": 4},
    {"type": "power_function", "gamma": 3.0},
]
SCHEDULES: List[Dict[str, Any]] = [
    {"type": "constant", "decay": 0.5},
    {"type": "warmup", "decay": 0.5, "numerator": 2.0},
    {"type": "inverse_power", "max_decay": 0.9, "power": 0.5},
    {"type": "half_life", "half_life": 7.0},
    {"type": "half_life", "half_life": {"fraction": 0.1}},
    {"type": "cosine", "num_updates": 9, "start": 0.5},
    {"type": "power_function", "sigma_rel": 0.1},
]
CALLBACKS: List[Dict[str, Any]] = [
    {"type": "moving_average_monitor", "validate_raw": False},
    {"type": "moving_average_selection", "candidates": ["raw"], "metric": ["+f1", "-loss"]},
    {"type": "moving_average_selection", "metric": "+f1"},
    {"type": "moving_average_buffers", "mode": "average", "num_batches": 3},
    {"type": "moving_average_snapshots", "every_num_updates": {"epochs": 0.5}, "keep": 2},
    {"type": "moving_average_snapshots", "every_num_epochs": 2, "directory": "elsewhere"},
    {"type": "random_state"},
]
CHECKPOINTERS: List[Dict[str, Any]] = [
    {"type": "swapping", "keep_most_recent_by_count": 5, "save_every_num_batches": 7}
]
OPTIMIZERS: List[Dict[str, Any]] = [
    {
        "type": "moving_average",
        "optimizer": {"type": "adam", "lr": 0.1, "betas": [0.5, 0.9]},
        "moving_average": {"type": "uniform", "start_step": 2},
    }
]
ACCELERATORS: List[Dict[str, Any]] = [
    {"type": "torch_fsdp"},
    {"type": "torch_fsdp", "wrap": ["layer"], "offload_to_cpu": True},
    {"type": "torch_fsdp", "reshard_after_forward": False, "mixed_precision": "bfloat16"},
]


def parameters() -> Any:
    return [("p", Parameter(torch.zeros(2))), ("q", Parameter(torch.zeros(2)))]


REGISTRIES: Dict[Any, Any] = {
    AllenNLPMovingAverage: (AVERAGES, {"parameters": parameters}),
    DecaySchedule: (SCHEDULES, {}),
    TrainerCallback: (CALLBACKS, {"serialization_dir": lambda: "run"}),
    Checkpointer: (CHECKPOINTERS, {"serialization_dir": lambda: "run"}),
    Optimizer: (OPTIMIZERS, {"model_parameters": parameters}),
    DdpAccelerator: (
        ACCELERATORS,
        {"local_rank": lambda: 0, "world_size": lambda: 1, "cuda_device": lambda: -1},
    ),
}


@pytest.mark.parametrize(
    "base, params",
    [(base, params) for base, (all_params, _) in REGISTRIES.items() for params in all_params],
    ids=str,
)
def test_what_is_built_again_has_the_same_params(
    base: Any, params: Dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, extras = REGISTRIES[base]
    if base is DdpAccelerator:
        # Which needs a torch and other workers.
        name = "allennlp_ema.training.accelerator._check_environment"
        monkeypatch.setattr(name, lambda on_cpu: None)

    def build(from_params: Dict[str, Any]) -> Any:
        return base.from_params(Params(from_params), **{k: make() for k, make in extras.items()})

    built = build({**params})
    again = built.to_params().as_dict(quiet=True)
    for key, value in params.items():
        if key not in ("type", "averages", "decay"):
            assert again[key] == value
    twice = build(built.to_params().as_dict(quiet=True))
    assert type(twice) is type(built)
    assert twice.to_params().as_dict(quiet=True) == again


@pytest.mark.parametrize("base", REGISTRIES, ids=str)
def test_nothing_that_is_registered_is_left_out(base: Any) -> None:
    all_params, _ = REGISTRIES[base]
    tried = {base.by_name(params.get("type", "exponential")) for params in all_params}
    ours = {
        cls
        for cls, _ in Registrable._registry[base].values()
        if cls.__module__.startswith(allennlp_ema.__name__)
    }
    assert ours <= tried
