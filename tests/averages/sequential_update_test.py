"""
`"sequential_update": false`: the update runs beside the training, with the same values bit for bit.
"""

import copy
import random
import time
from typing import Any, Dict, List

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import Linear, Sequential, Tanh

from allennlp_ema import MovingAverage
from allennlp_ema.shadow_weights import overlap
from allennlp_ema.shadow_weights.passes import Pass
from tests.support.every_average import EVERY_AVERAGE, built

pytestmark = pytest.mark.skipif(
    not overlap.can_overlap(), reason="this torch does not tell of the steps of optimizers"
)
EVERY = pytest.mark.parametrize("params", EVERY_AVERAGE.values(), ids=EVERY_AVERAGE)


@pytest.fixture
def slow_passes(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Updates begin at any time after they were asked for, if nobody waits for them."""
    run, generator = Pass.run, random.Random(0)

    def run_late(self: Pass, weights: Any) -> bool:
        time.sleep(generator.choice([0.0, 0.0, 0.002]))
        return run(self, weights)

    monkeypatch.setattr(Pass, "run", run_late)
    return run_late


def trained(params: Dict[str, Any], asks: List[str], **settings: Any) -> List[Dict[str, Tensor]]:
    """What an average says when it is asked along a training."""
    torch.manual_seed(0)
    model = Sequential(Linear(3, 4), Tanh(), Linear(4, 1))
    model[0].to(torch.bfloat16)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    average: MovingAverage = built(params, list(model.named_parameters()), **settings)
    said: List[Dict[str, Tensor]] = []
    for number, asked in enumerate(asks, start=1):
        optimizer.zero_grad()
        hidden = model[1](model[0](torch.ones(2, 3, dtype=torch.bfloat16)).float())
        model[2](hidden).sum().backward()
        optimizer.step()
        average.apply(number)
        if asked == "assign":
            with average.average_values():
                said.append({k: v.detach().clone() for k, v in model.named_parameters()})
        elif asked == "state":
            state = average.state_dict(copy=True)
            said.append(state.get("averages", {}))
        elif asked == "average":
            value = average.average("0.weight")
            assert value is not None
            said.append({"0.weight": value.clone()})
        elif asked == "load":
            average.load_state_dict(average.state_dict(copy=True))
        elif asked == "copy":
            average, model, optimizer = copy.deepcopy((average, model, optimizer))
    said.append({name: value.clone() for name, value in average.named_averages()})
    return said


def differ(some: Any, others: Any) -> bool:
    if isinstance(some, dict):
        return any(differ(some[key], others[key]) for key in some)
    if isinstance(some, list):
        return any(differ(one, other) for one, other in zip(some, others))
    if isinstance(some, Tensor):
        return not torch.equal(some, others)
    return some != others


@EVERY
@settings(max_examples=12)
@given(
    asks=st.lists(
        st.sampled_from(["", "", "assign", "state", "average", "load", "copy"]),
        min_size=1,
        max_size=6,
    ),
    shadow_dtype=st.sampled_from([None, "float64"]),
    start_step=st.integers(0, 2),
)
@pytest.mark.usefixtures("slow_passes")
def test_values_are_those_of_sequential_updates(
    params: Dict[str, Any], asks: List[str], shadow_dtype: Any, start_step: int
) -> None:
    keys = {"shadow_dtype": shadow_dtype, "start_step": start_step}
    sequential = trained(params, asks, **keys)
    beside = trained(params, asks, sequential_update=False, **keys)
    for one, other in zip(sequential, beside):
        assert not differ(one, other)


def test_the_main_thread_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []
    run = Pass.run

    def note_and_run(self: Pass, weights: Any) -> bool:
        threads.append(__import__("threading").current_thread().name)
        return run(self, weights)

    monkeypatch.setattr(Pass, "run", note_and_run)
    for sequential_update, name in ((True, "MainThread"), (False, "allennlp_ema_0")):
        threads.clear()
        trained({"decay": 0.9}, ["", ""], sequential_update=sequential_update)
        assert threads == [name, name]


def test_what_is_raised_in_the_update_comes_out_at_the_next_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    average = built({"decay": 0.5}, [("p", parameter)], sequential_update=False)

    def fail(self: Pass, weights: Any) -> bool:
        raise MemoryError("no room")

    monkeypatch.setattr(Pass, "run", fail)
    average.apply(1)
    monkeypatch.undo()
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    parameter.grad = torch.ones(2)
    with pytest.raises(MemoryError, match="no room"):
        optimizer.step()
    optimizer.step()
    average.apply(2)
    assert average.average("p") is not None


def test_wait_returns_when_parameters_may_be_written_to(slow_passes: Any) -> None:
    parameter = torch.nn.Parameter(torch.zeros(2))
    average = built({"type": "uniform"}, [("p", parameter)], sequential_update=False)
    for number in range(1, 6):
        with torch.no_grad():
            parameter.fill_(float(number))
        average.apply(number)
        average.wait()
    assert torch.equal(average.average("p"), torch.full((2,), 3.0))


def test_of_a_bank_all_run_beside_it_or_none(slow_passes: Any) -> None:
    bank = {**EVERY_AVERAGE["bank"], "sequential_update": False}
    assert not differ(trained(bank, ["", "assign"]), trained(EVERY_AVERAGE["bank"], ["", "assign"]))
