"""
Averages that are assigned to some of the parameters only.
"""

import copy
from typing import Any, Dict

import pytest
import torch
from allennlp.common import Params
from allennlp.common.checks import ConfigurationError
from torch.nn import Linear

from allennlp_ema import ExponentialMovingAverage, MovingAverageOptimizer
from allennlp_ema.training.callbacks.averaged_buffers import AveragedBuffers
from tests.support.every_average import EVERY_AVERAGE, built

EVERY = pytest.mark.parametrize("params", EVERY_AVERAGE.values(), ids=EVERY_AVERAGE)


def moved(params: Dict[str, Any], dtype: torch.dtype = torch.float32) -> Any:
    model = Linear(2, 2).to(dtype)
    model.register_buffer("scale", torch.ones(1))
    average = built(params, list(model.named_parameters()))
    average.attach(AveragedBuffers(model))
    for number in range(1, 4):
        with torch.no_grad():
            for tensor in (*model.parameters(), model.scale):
                tensor.add_(1.0)
        average.apply(number)
    return model, average


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("by_name", [False, True])
def test_the_others_keep_their_values(params: Any, dtype: torch.dtype, by_name: bool) -> None:
    model, average = moved(params, dtype)
    weight, bias = model.weight.detach().clone(), model.bias.detach().clone()
    expected = average.average("weight").clone()
    average.assign_average_value(["module.weight"] if by_name else [model.weight])
    assert torch.equal(model.weight, expected.to(dtype)) and not torch.equal(model.weight, weight)
    assert torch.equal(model.bias, bias) and model.scale == 4.0
    assert torch.equal(average.average("weight"), expected)
    raw = dict(average.named_raw_values())
    assert torch.equal(raw["weight"], weight) and torch.equal(raw["bias"], bias)
    average.restore()
    assert torch.equal(model.weight, weight) and torch.equal(model.bias, bias)


def test_other_parameters_are_not_assigned_meanwhile() -> None:
    model, average = moved({"decay": 0.5})
    average.assign_average_value(["weight"])
    average.assign_average_value(["weight"])
    for others in (["bias"], None):
        with pytest.raises(RuntimeError, match="to other parameters than these"):
            average.assign_average_value(others)
    average.restore()
    average.restore()
    assert not average.is_assigned


@EVERY
def test_a_state_that_is_loaded_meanwhile_leaves_the_others_alone(params: Any) -> None:
    model, average = moved(params)
    weight, bias = model.weight.detach().clone(), model.bias.detach().clone()
    average.assign_average_value(["weight"])
    state = average.state_dict()
    average.load_state_dict(state)
    assert torch.equal(model.bias, bias) and not torch.equal(model.weight, weight)
    average.restore()
    assert torch.equal(model.weight, weight) and torch.equal(model.bias, bias)


@pytest.mark.parametrize("what, named", [(["scale"], '"scale"'), ([torch.zeros(3)], r"\[3\]")])
def test_what_is_not_averaged_is_refused(what: Any, named: str) -> None:
    model, average = moved({"decay": 0.5})
    with pytest.raises(ConfigurationError, match=f"{named} is not averaged"):
        average.assign_average_value(what)
    assert not average.is_assigned


def test_a_misspelt_name_gets_the_nearest() -> None:
    _, average = moved({"decay": 0.5})
    name = next(iter(dict(average.named_averages())))
    with pytest.raises(ConfigurationError, match=f'; did you mean "{name}"\\?$'):
        average.assign_average_value([name[:-1]])


class TestOptimizer:
    def optimizer(self, **arguments: Any) -> Any:
        model = Linear(2, 1)
        inner = torch.optim.SGD(model.parameters(), lr=0.5)
        optimizer = MovingAverageOptimizer(model.named_parameters(), inner, **arguments)
        model(torch.ones(2)).backward()
        optimizer.step()
        return model, optimizer

    def test_swapping_twice_brings_the_same_parameters_back(self) -> None:
        model, optimizer = self.optimizer(average_decay=0.5)
        weight, bias = model.weight.detach().clone(), model.bias.detach().clone()
        optimizer.assign_average_vars([model.weight])
        assigned = model.weight.detach().clone()
        for _ in range(2):
            optimizer.swap_weights()
            assert torch.equal(model.weight, weight) and torch.equal(model.bias, bias)
            optimizer.swap_weights()
            assert torch.equal(model.weight, assigned) and torch.equal(model.bias, bias)

    def test_none_means_all_after_some_were_assigned(self) -> None:
        model, optimizer = self.optimizer(average_decay=0.5)
        averages = copy.deepcopy(dict(optimizer.moving_average.named_averages()))
        optimizer.assign_average_vars(["bias"])
        for others in (["weight"], None):
            with pytest.raises(RuntimeError, match="to other parameters than these"):
                optimizer.assign_average_vars(others)
        optimizer.assign_average_vars([model.bias])
        optimizer.swap_weights()
        optimizer.assign_average_vars()
        assert all(torch.equal(value, averages[name]) for name, value in model.named_parameters())
        # The bias has its average already.
        optimizer.assign_average_vars(["bias"])
        optimizer.swap_weights()
        assert not optimizer.moving_average.is_assigned

    def test_the_short_form_is_a_constant_decay(self) -> None:
        _, optimizer = self.optimizer(average_decay=0.99)
        assert optimizer.moving_average.decay_in_force == pytest.approx(0.99)

    def test_the_short_form_and_an_average_are_too_much(self) -> None:
        with pytest.raises(ConfigurationError, match="but both are$"):
            average = ExponentialMovingAverage([("p", torch.ones(1))])
            self.optimizer(average_decay=0.9, moving_average=average)


def test_a_decay_may_be_a_tensor_that_is_read_once() -> None:
    decay = torch.tensor(0.75)
    average = ExponentialMovingAverage([("p", torch.ones(1))], decay=decay)
    decay.fill_(0.5)
    assert average.decay == 0.75 and type(average.decay) is float
    average.decay = torch.tensor([0.25])
    assert average.decay == 0.25
    assert Params(average.to_params().as_dict(quiet=True)).params["decay"] == 0.25
    for wrong in (torch.tensor([0.1, 0.2]), torch.tensor(1.5)):
        with pytest.raises(ConfigurationError, match='"decay"'):
            average.decay = wrong
