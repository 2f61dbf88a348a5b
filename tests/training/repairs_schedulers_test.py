"""
What a learning rate scheduler had done to the optimizer is done again after `--recover`.
"""

import copy
import io
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

import pytest
import torch
from allennlp.common import Params
from allennlp.training.learning_rate_schedulers import LearningRateScheduler
from allennlp.training.momentum_schedulers import MomentumScheduler

from tests.support.training_runs import assert_ended_alike, tagger_config, train_here

UNFREEZING = {"type": "slanted_triangular", "gradual_unfreezing": True}
WARMUP = {"type": "constant_with_warmup", "num_warmup_steps": 4}
STEP = {"type": "step", "step_size": 2, "gamma": 0.5}
COSINE = {"type": "cosine_with_warmup", "num_warmup_steps": 2, "num_training_steps": 6}
SCHEDULERS: Dict[str, Dict[str, Any]] = {
    "step": STEP,
    "multi_step": {"type": "multi_step", "milestones": [2, 3], "gamma": 0.5},
    "exponential": {"type": "exponential", "gamma": 0.5},
    "reduce_on_plateau": {"type": "reduce_on_plateau", "patience": 0},
    "cosine": {"type": "cosine", "t_initial": 2, "t_mul": 1.5, "eta_mul": 0.9},
    "noam": {"type": "noam", "model_size": 8, "warmup_steps": 5},
    "polynomial_decay": {"type": "polynomial_decay", "warmup_steps": 3, "power": 2},
    "linear_with_warmup": {"type": "linear_with_warmup", "warmup_steps": 3},
    "constant_with_warmup": WARMUP,
    "cosine_with_warmup": COSINE,
    "slanted_triangular": {"type": "slanted_triangular"},
    "unfreezing": UNFREEZING,
    "fine_tuning": {"type": "slanted_triangular", "discriminative_fine_tuning": True},
    "unfreezing_fine_tuning": {**UNFREEZING, "discriminative_fine_tuning": True},
    "combined_warmups": {"type": "combined", "schedulers": [[2, WARMUP], [3, COSINE]]},
    "combined_step": {"type": "combined", "schedulers": [[2, WARMUP], [3, STEP]]},
    "combined_unfreezing": {"type": "combined", "schedulers": [[2, UNFREEZING], [3, STEP]]},
    "momentum": {"type": "inverted_triangular", "cool_down": 2, "warm_up": 2},
}


class Training(NamedTuple):
    parameters: List[torch.nn.Parameter]
    optimizer: torch.optim.Optimizer
    scheduler: Any

    def state(self) -> Tuple[Any, ...]:
        """What it has set, by group."""
        groups = self.optimizer.param_groups
        set_values = [(group["lr"], group["momentum"]) for group in groups]
        return set_values, [parameter.requires_grad for parameter in self.parameters]


def begun(name: str) -> Training:
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(3)]
    # The last group is the default one.
    groups: Any = [{"params": [p], "lr": 0.1 * (i + 1)} for i, p in enumerate(parameters)]
    optimizer = torch.optim.SGD([*groups, {"params": []}], lr=1.0, momentum=0.9)
    params = Params(copy.deepcopy(SCHEDULERS[name]))
    scheduler: Any
    if name == "momentum":
        scheduler = MomentumScheduler.from_params(params, optimizer=optimizer)
    else:
        scheduler = LearningRateScheduler.from_params(
            params, optimizer=optimizer, num_epochs=6, num_steps_per_epoch=3
        )
    return Training(parameters, optimizer, scheduler)


def recovered(name: str, training: Training) -> Training:
    file = io.BytesIO()
    torch.save((training.optimizer.state_dict(), training.scheduler.state_dict()), file)
    file.seek(0)
    optimizer_state, scheduler_state = torch.load(file)
    again = begun(name)
    again.optimizer.load_state_dict(optimizer_state)
    again.scheduler.load_state_dict(scheduler_state)
    return again


def states_at_each_step(name: str, recover_at: Optional[Tuple[int, int]] = None) -> List[Any]:
    training = begun(name)
    states = []
    for epoch in range(6):
        for batch in range(3):
            training.scheduler.step_batch(3 * epoch + batch + 1)
            training.optimizer.step()
            states.append(training.state())
            if (epoch, batch + 1) == recover_at:
                training = recovered(name, training)
        training.scheduler.step(1.0)
        if (epoch + 1, 0) == recover_at:
            training = recovered(name, training)
    return states


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SCHEDULERS)
def test_recovered_at_any_time_it_goes_on_as_without(name: str) -> None:
    straight = states_at_each_step(name)
    assert len({str(state) for state in straight}) > 1
    for recover_at in ((0, 2), (1, 0), (1, 2), (2, 0), (2, 1), (3, 0), (4, 2), (5, 0)):
        assert states_at_each_step(name, recover_at) == straight, recover_at


def test_unfrozen_layers_train_on_after_recover(tmp_path: Path) -> None:
    layers = [[["embedder"], {}], [["encoder"], {}], [["tag"], {}]]
    config = tagger_config(
        moving_average={"decay": 0.9},
        learning_rate_scheduler=UNFREEZING,
        optimizer={"type": "adam", "lr": 0.1, "parameter_groups": layers},
    )
    train_here(config, tmp_path / "straight")
    train_here(config, tmp_path / "recovered", interrupt_at=(2, 3))
    train_here(config, tmp_path / "recovered", recover=True)
    assert_ended_alike(tmp_path / "straight", tmp_path / "recovered", best_after_epoch=0)
