from typing import Any, List

import torch

from allennlp_ema import MovingAverageOptimizer, UniformMovingAverage
from allennlp_ema.training.update_numbers import UpdateNumbers


class EveryOther(UniformMovingAverage):
    """It leaves updates out by itself."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters)
        self.given: List[int] = []

    def apply(self, num_updates: Any = None) -> None:
        self.given.append(num_updates)
        if num_updates % 2 == 0:
            super().apply(num_updates)


def test_updates_that_are_left_out_have_numbers_too() -> None:
    average = EveryOther([("weight", torch.zeros(2))])
    numbers = UpdateNumbers(average)
    for _ in range(5):
        numbers.apply(average.apply, before=0)
    assert average.given == [1, 2, 3, 4, 5]
    assert (average.num_updates, average.num_averaged) == (4, 2)


def test_an_average_that_begins_late_goes_on_from_the_updates_before_it() -> None:
    average = EveryOther([("weight", torch.zeros(2))])
    numbers = UpdateNumbers(average)
    for before in (8, 9, 10, 11):
        numbers.apply(average.apply, before=before)
    assert average.given == [9, 10, 11, 12]


def test_a_loaded_state_says_from_where_an_optimizer_goes_on() -> None:
    weight = torch.nn.Parameter(torch.zeros(2))
    average = EveryOther([("weight", weight)])
    inner = torch.optim.SGD([weight], lr=0.1)
    optimizer = MovingAverageOptimizer([("weight", weight)], inner, average)
    weight.grad = torch.ones(2)
    states = []
    for _ in range(5):
        optimizer.step()
        states.append(optimizer.state_dict(copy=True))
    optimizer.load_state_dict(states[1])
    optimizer.step()
    optimizer.step()
    assert average.given == [1, 2, 3, 4, 5, 3, 4]
