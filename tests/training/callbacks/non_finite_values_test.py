import math
from typing import Any, List

import pytest
import torch

from allennlp_ema import ExponentialMovingAverage, MovingAverage
from allennlp_ema.training.callbacks import distance
from allennlp_ema.training.callbacks.non_finite_values import non_finite_values

INF, NAN = math.inf, math.nan


@pytest.fixture(params=[1 << 20, 2], autouse=True)
def block(request: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors are worked on in one block, and in several."""
    monkeypatch.setattr(distance, "_BLOCK", request.param)


def holding(averages: List[List[float]], raw_values: List[List[float]]) -> MovingAverage:
    parameters = [torch.nn.Parameter(torch.tensor(values)) for values in raw_values]
    average = ExponentialMovingAverage([(str(n), p) for n, p in enumerate(parameters)])
    for (_, shadow), values in zip(average.named_averages(), averages):
        shadow.copy_(torch.tensor(values))
    return average


def test_those_that_the_parameters_do_not_hold_are_counted() -> None:
    average = holding([[1.0, NAN, INF], [2.0, 3.0], [-INF]], [[1.0, 2.0, 3.0], [NAN, INF], [4.0]])
    assert non_finite_values(average) == (["0", "2"], 3, 6)


def test_those_that_the_parameters_hold_too_are_not() -> None:
    """A mask, and a training that has itself come to a NaN."""
    average = holding([[0.0, -INF, INF], [NAN]], [[1.0, -INF, INF], [NAN]])
    assert non_finite_values(average) == ([], 0, 4)


def test_an_infinity_of_the_other_sign_or_a_nan_in_its_place_is_not_the_same() -> None:
    average = holding([[NAN, INF, -INF]], [[-INF, -INF, NAN]])
    assert non_finite_values(average) == (["0"], 3, 3)


def test_parameters_in_half_precision_are_compared_as_they_are_averaged() -> None:
    parameter = torch.nn.Parameter(torch.tensor([-INF, 1.0], dtype=torch.float16))
    average = ExponentialMovingAverage([("0", parameter)])
    assert non_finite_values(average) == ([], 0, 2)
    shadow = average.average("0")
    assert shadow is not None
    shadow[1] = NAN
    assert non_finite_values(average) == (["0"], 1, 2)
