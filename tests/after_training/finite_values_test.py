import math
from pathlib import Path

import pytest
import torch
from allennlp.common.checks import ConfigurationError

from allennlp_ema.after_training.finite_values import InfiniteConstants, not_finite

MASK = torch.tensor([0.0, -math.inf])


def test_infinite_values_that_are_alike_are_constants():
    constants = InfiniteConstants()
    for value in (1.0, 3.0):
        state = {"mask": MASK + value, "weight": torch.tensor(value), "count": torch.tensor(3)}
        constants.check_state(Path("f.th"), state)
    combined = torch.tensor([2.0, math.nan], dtype=torch.float64)
    constants.restore("mask", combined)
    assert combined.tolist() == [2.0, -math.inf]
    weight = torch.tensor(2.0)
    constants.restore("weight", weight)
    assert weight == 2.0


@pytest.mark.parametrize(
    "value",
    [torch.zeros(2), -MASK, MASK.flip(0), torch.full((2,), -math.inf)],
    ids=["finite", "other sign", "elsewhere", "more"],
)
def test_infinite_values_that_are_not_are_named(value):
    for first, second in ((MASK, value), (value, MASK)):
        constants = InfiniteConstants()
        constants.check(Path("one.th"), "mask", first)
        with pytest.raises(ConfigurationError, match='two.th: "mask" is infinite where others'):
            constants.check(Path("two.th"), "mask", second)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.complex64])
def test_a_nan_is_named(dtype):
    value = torch.tensor([1.0, math.nan]).to(dtype)
    with pytest.raises(ConfigurationError, match='one.th: "weight" has a NaN'):
        InfiniteConstants().check(Path("one.th"), "weight", value)


def test_what_is_not_finite_in_words():
    values = {f"w{n}": torch.tensor(math.nan) for n in range(5)}
    values.update(mask=MASK, weight=torch.zeros(3), count=torch.tensor(3))
    assert not_finite(values.items()) == "NaN in w0, w1, w2 and 2 more; infinity in mask"
    assert not_finite({"weight": torch.zeros(3), "step": 5}.items()) == ""
