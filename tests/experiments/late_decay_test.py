from typing import Any, List

import pytest
import torch

from experiments.late_decay import LateDecay


def learning_rates(num_steps: int, **options: Any) -> List[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule = LateDecay(optimizer, num_epochs=2, num_steps_per_epoch=num_steps // 2, **options)
    found = []
    for step in range(num_steps):
        found.append(optimizer.param_groups[0]["lr"])
        schedule.step_batch(step + 1)
        schedule.step()
    return found


@pytest.mark.parametrize(
    "options, expected",
    [
        ({}, [2.0] * 8),
        ({"fraction": 1.0}, [2.0, 1.75, 1.5, 1.25, 1.0, 0.75, 0.5, 0.25]),
        ({"fraction": 0.5}, [2.0, 2.0, 2.0, 2.0, 2.0, 1.5, 1.0, 0.5]),
        ({"warmup_steps": 4}, [0.5, 1.0, 1.5, 2.0, 2.0, 2.0, 2.0, 2.0]),
        ({"fraction": 0.5, "warmup_steps": 2}, [1.0, 2.0, 2.0, 2.0, 2.0, 1.5, 1.0, 0.5]),
    ],
)
def test_it_rises_stays_and_falls(options: Any, expected: List[float]) -> None:
    assert learning_rates(8, **options) == expected
