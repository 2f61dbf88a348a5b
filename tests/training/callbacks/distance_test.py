import math
from typing import Any, Iterator, List

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from allennlp_ema import ExponentialMovingAverage, MovingAverage
from allennlp_ema.training.callbacks import distance
from allennlp_ema.training.callbacks.distance import distance_of


@pytest.fixture(params=[1 << 20, 2])
def block(request: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Tensors are worked on in one block, and in several."""
    monkeypatch.setattr(distance, "_BLOCK", request.param)
    yield request.param


def averages_and_raw_values(
    averages: List[List[float]], raw_values: List[List[float]], decay: float, **arguments: Any
) -> MovingAverage:
    """An average that has come to `averages` by an update with `decay`."""
    parameters = [torch.nn.Parameter(torch.tensor(values)) for values in averages]
    average = ExponentialMovingAverage(
        [(str(number), parameter) for number, parameter in enumerate(parameters)],
        decay=decay,
        **arguments,
    )
    average.apply()
    for parameter, values in zip(parameters, raw_values):
        parameter.data = torch.tensor(values)
    return average


def test_distance_is_relative_to_the_raw_weights(block: int) -> None:
    average = averages_and_raw_values([[1.0, 2.0, 2.0], [0.0]], [[1.0, 5.0, 2.0], [4.0]], 0.9)
    assert distance_of(average).relative == pytest.approx(5.0 / math.sqrt(46.0), rel=1e-12)


def test_distance_where_all_weights_are_zero() -> None:
    assert distance_of(averages_and_raw_values([[0.0]], [[0.0]], 0.9)).relative == 0.0
    assert distance_of(averages_and_raw_values([[1.0]], [[0.0]], 0.9)).relative == math.inf


def test_infinite_values_that_are_the_same_have_no_distance(block: int) -> None:
    mask = [-math.inf, math.inf, -math.inf]
    average = averages_and_raw_values([[1.0, 2.0, 2.0], mask], [[1.0, 5.0, 2.0], mask], 0.9)
    average.average("1").copy_(torch.tensor(mask))
    assert distance_of(average).relative == pytest.approx(3.0 / math.sqrt(30.0), rel=1e-12)
    average.average("1")[1] = -math.inf
    assert not distance_of(average).relative < math.inf


def test_tied_parameters_count_once() -> None:
    tied, other = torch.nn.Parameter(torch.ones(1)), torch.nn.Parameter(torch.ones(1))
    average = ExponentialMovingAverage([("a", tied), ("b", tied), ("c", other)])
    tied.data += 1.0
    assert distance_of(average).relative == pytest.approx(1.0 / math.sqrt(5.0))


def test_share_of_updates_below_one_unit_in_the_last_place(block: int) -> None:
    # Between 1 and 2 the unit is 2^-23, and the weight 2^-10.
    averages = [[1.0, 1.0, 1.0, -1.0, 0.0], [64.0]]
    differences = [[2**-13 + 2**-20, 2**-13 - 2**-20, 0.0, 2**-14, 2**-14], [2**-8]]
    raw_values = [
        [value + difference for value, difference in zip(*rows)]
        for rows in zip(averages, differences)
    ]
    average = averages_and_raw_values(averages, raw_values, 1 - 2**-10)
    # 1.00012, -0.99994 and 64.0039: the second, the fourth and the last.
    assert distance_of(average).stalled_share == 3 / 6


def test_averages_of_double_precision_do_not_stall() -> None:
    values = [1.0 + 1e-6]
    stalled = averages_and_raw_values([[1.0]], [values], 0.9999)
    assert distance_of(stalled).stalled_share == 1.0
    double = averages_and_raw_values([[1.0]], [values], 0.9999, shadow_dtype="float64")
    assert distance_of(double).stalled_share == 0.0


@pytest.mark.parametrize("decay", [1.0, None])
def test_what_does_not_move_on_purpose_does_not_stall(decay: Any) -> None:
    average = averages_and_raw_values([[1.0]], [[2.0]], decay or 0.9)
    if decay is None:
        parameter = torch.nn.Parameter(torch.ones(1))
        average = ExponentialMovingAverage([("0", parameter)])
        parameter.data += 1.0
    assert distance_of(average).stalled_share == 0.0


@given(
    st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=9),
    st.sampled_from([0.5, 0.99, 0.99999, 0.9999999]),
)
def test_stalled_averages_are_those_that_another_update_moves_by_one_unit_or_less(
    values: List[float], decay: float
) -> None:
    raw_values = [value * (1 + 1e-4 * number) for number, value in enumerate(values)]
    average = averages_and_raw_values([values], [raw_values], decay)
    before = average.average("0").clone()
    share = distance_of(average).stalled_share
    average.apply()
    raw = dict(average.named_raw_values())["0"]
    limit = torch.full_like(before, math.inf).copysign(raw - before)
    moved_far = (average.average("0") - before).abs() > (before.nextafter(limit) - before).abs()
    assert share <= 1.0 - moved_far.double().mean().item()


def test_both_parts_of_complex_values_count() -> None:
    parameter = torch.nn.Parameter(torch.tensor([3.0 + 0.0j]))
    average = ExponentialMovingAverage([("0", parameter)], decay=0.5)
    with torch.no_grad():
        parameter.copy_(torch.tensor([3.0 + 4.0j]))
    # 4 of 5.
    assert distance_of(average).relative == pytest.approx(0.8)
