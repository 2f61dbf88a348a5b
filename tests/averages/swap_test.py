"""
A swap is whole or undone: whatever is raised in it, wherever, the parameters' own values are there
afterwards or come back with `restore`. What is assigned can be copied.
"""

import copy
import io
import os
import pickle
import sys
from typing import Any, Callable, Dict, List

import pytest
import torch
from torch import Tensor
from torch.nn import LSTM, Linear, Parameter, Sequential, Tanh

import allennlp_ema
from allennlp_ema import MovingAverage, MovingAverageOptimizer
from allennlp_ema.averages.attachment import Attachment
from allennlp_ema.shadow_weights import kernels
from tests.support.every_average import EVERY_AVERAGE, built

pytestmark = pytest.mark.everywhere

PACKAGE = os.path.dirname(allennlp_ema.__file__)
EVERY = pytest.mark.parametrize("params", EVERY_AVERAGE.values(), ids=EVERY_AVERAGE)


class Interrupt(BaseException):
    pass


class Buffer(Attachment):
    """Something that changes with the swap in two steps."""

    name = "buffer"

    def __init__(self) -> None:
        self.now, self.own = "raw", None

    def assign(self, average: MovingAverage) -> None:
        self.own = self.now
        self.now = "averaged"

    def restore(self, average: MovingAverage) -> None:
        if self.own is not None:
            self.now = self.own
            self.own = None


def interrupted_at(line: int, call: Callable[[], Any]) -> bool:
    """Whether `call` came to its `line`-th line within the package, where it was interrupted."""
    left = line

    def trace(frame: Any, event: str, argument: Any) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        if event == "line":
            left -= 1
            if left == 0:
                raise Interrupt
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except Interrupt:
        return True
    finally:
        sys.settrace(before)
    return False


def trained(params: Dict[str, Any], dtype: torch.dtype = torch.float32) -> Any:
    """An average of parameters of several dtypes, tied and overlapping ones too."""
    flat = Parameter(torch.arange(12.0)).detach()
    tied = Parameter(torch.ones(5))
    parameters = [
        ("a", Parameter(torch.ones(3, 4, dtype=dtype))),
        ("b", tied),
        ("c", tied),
        ("half", Parameter(torch.ones(4, dtype=torch.bfloat16))),
        ("first", Parameter(flat[:8])),
        ("second", Parameter(flat[4:])),
    ]
    average = built(params, parameters)
    for number in range(1, 4):
        with torch.no_grad():
            for _, parameter in parameters:
                parameter.add_(1.0)
        average.apply(number)
    return average, parameters


def values(parameters: List[Any]) -> List[Tensor]:
    return [parameter.detach().clone() for _, parameter in parameters]


def equal(some: List[Tensor], others: List[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(some, others))


@EVERY
def test_interrupted_anywhere_raw_weights_are_there_or_come_back(params: Dict[str, Any]) -> None:
    average, parameters = trained(params)
    buffer = Buffer()
    average.attach(buffer)
    raw, averages = values(parameters), copy.deepcopy(dict(average.named_averages()))

    def swap() -> None:
        average.assign_average_value()
        average.restore()

    line = 0
    while True:
        line += 1
        was_interrupted = interrupted_at(line, swap)
        if average.is_assigned:
            average.restore()
        assert equal(values(parameters), raw), line
        assert buffer.now == "raw", line
        now = dict(average.named_averages())
        assert all(torch.equal(now[name], value) for name, value in averages.items()), line
        if not was_interrupted:
            break
    assert line > 100
    with average.average_values():
        assert not equal(values(parameters), raw)


def test_out_of_memory_in_the_midst_of_it_leaves_raw_weights(monkeypatch: Any) -> None:
    average, parameters = trained({"decay": 0.5})
    raw, copy_ = values(parameters), kernels.copy_
    calls_left = 0

    def fail(*arguments: Any, **options: Any) -> None:
        nonlocal calls_left
        calls_left -= 1
        if calls_left == 0:
            raise MemoryError
        copy_(*arguments, **options)

    monkeypatch.setattr("allennlp_ema.shadow_weights.swap.copy_", fail)
    for calls_left in range(1, 12):
        try:
            with average.average_values():
                pass
        except MemoryError:
            pass
        calls_left = 0
        assert not average.is_assigned and equal(values(parameters), raw)


def pickled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


def saved(value: Any) -> Any:
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    # The keyword came with torch 1.13.
    options = {"weights_only": False} if torch.__version__ > "1.13" else {}
    return torch.load(file, **options)


@EVERY
@pytest.mark.parametrize("copied", [copy.deepcopy, pickled, saved])
@pytest.mark.parametrize("is_assigned", [False, True])
def test_a_copy_is_one_of_its_own(
    params: Dict[str, Any], copied: Callable[[Any], Any], is_assigned: bool
) -> None:
    average, parameters = trained(params)
    raw, averages = values(parameters), copy.deepcopy(dict(average.named_averages()))
    if is_assigned:
        average.assign_average_value()
    present = values(parameters)
    other, others = copied((average, parameters))
    assert other.is_assigned == is_assigned
    if is_assigned:
        other.restore()
    assert equal(values(others), raw)
    for name, value in other.named_averages():
        assert torch.equal(value, averages[name])
    with torch.no_grad():
        for _, parameter in others:
            parameter.add_(1.0)
    other.apply(4)
    assert average.num_updates == 3 and average.is_assigned == is_assigned
    assert equal(values(parameters), present)
    with other.average_values():
        pass
    if is_assigned:
        average.restore()
    assert equal(values(parameters), raw)
    assert all(torch.equal(value, averages[name]) for name, value in average.named_averages())


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled])
def test_an_optimizer_is_copied_while_averages_are_assigned(copied: Any) -> None:
    model = Linear(2, 1)
    optimizer = MovingAverageOptimizer(
        list(model.named_parameters()),
        torch.optim.SGD(model.parameters(), lr=0.1),
        allennlp_ema.ExponentialMovingAverage(model.named_parameters(), decay=0.5),
    )
    model(torch.ones(2)).backward()
    optimizer.step()
    raw = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer.swap_weights()
    other_model, other = copied((model, optimizer))
    other.swap_weights()
    assert equal(list(other_model.parameters()), raw) and not equal(list(model.parameters()), raw)
    optimizer.swap_weights()
    assert equal(list(model.parameters()), raw)


@EVERY
@pytest.mark.parametrize(
    "move",
    [
        lambda model: model.double(),
        lambda model: model.half().float(),
        lambda model: [setattr(p, "data", p.data.clone()) for p in model.parameters()],
    ],
    ids=["double", "half and back", "clone"],
)
def test_parameters_may_be_given_other_memory_while_averages_are_assigned(
    move: Callable[[torch.nn.Module], Any], params: Dict[str, Any]
) -> None:
    model = Linear(3, 2)
    average = built(params, list(model.named_parameters()))
    for number in range(1, 4):
        with torch.no_grad():
            model.weight.add_(0.1)
        average.apply(number)
    raw, expected = model.weight.detach().clone(), average.average("weight").clone()
    with average.average_values():
        move(model)
        assert torch.equal(average.average("weight"), expected)
        # A state that is loaded now goes where the average is.
        average.load_state_dict(average.state_dict())
    assert torch.equal(model.weight.float(), raw)
    assert torch.equal(average.average("weight"), expected)


@EVERY
def test_what_is_assigned_in_inference_mode_is_restored_outside(params: Dict[str, Any]) -> None:
    average, parameters = trained(params)
    raw = values(parameters)
    with torch.inference_mode():
        average.assign_average_value()
    assert not equal(values(parameters), raw)
    average.restore()
    assert equal(values(parameters), raw)


@pytest.mark.skipif(
    not hasattr(torch, "autocast") or not hasattr(torch, "clear_autocast_cache"),
    reason="this torch has no autocast for the CPU",
)
def test_autocast_computes_with_the_values_that_are_there() -> None:
    model = Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    average = allennlp_ema.ExponentialMovingAverage(model.named_parameters(), decay=0.5)
    torch.nn.init.constant_(model.weight, 8.0)
    # Without a number there is no warm-up.
    average.apply()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        student = model(torch.ones(1))
        with average.average_values():
            teacher = model(torch.ones(1))
            state = average.state_dict()
            state["averages"]["weight"].fill_(2.0)
            average.load_state_dict(state)
            other_teacher = model(torch.ones(1))
        again = model(torch.ones(1))
    outputs = [student, teacher, other_teacher, again]
    assert [output.item() for output in outputs] == [8.0, 4.0, 2.0, 8.0]
    student.backward()
    assert model.weight.grad.item() == 1.0


@EVERY
def test_a_state_taken_while_assigned_is_right_for_ever(params: Dict[str, Any]) -> None:
    average, parameters = trained(params)
    expected = copy.deepcopy(average.state_dict())
    with average.average_values():
        assigned = average.state_dict()
    copied = average.state_dict(copy=True)
    with torch.no_grad():
        for _, parameter in parameters:
            parameter.add_(1.0)
    average.apply(4)
    with average.average_values():
        for state in (assigned, copied):
            fresh, _ = trained(params)
            fresh.load_state_dict(state)
            for name, value in flat(fresh.state_dict()).items():
                wanted = flat(expected)[name]
                assert torch.equal(value, wanted) if isinstance(value, Tensor) else value == wanted


def flat(state: Any, prefix: str = "") -> Dict[str, Any]:
    if isinstance(state, dict):
        items = state.items()
    elif isinstance(state, list):
        items = enumerate(state)  # type: ignore[assignment]
    else:
        return {prefix: state}
    return {k: v for key, value in items for k, v in flat(value, f"{prefix}.{key}").items()}


@pytest.mark.parametrize("layer", [Sequential(Linear(3, 3), Tanh()), LSTM(3, 3)])
def test_a_teacher_may_look_between_a_forward_pass_and_its_backward_pass(layer: Any) -> None:
    average = built({"decay": 0.9}, list(layer.named_parameters()))
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1)
    average.apply(1)

    def gradients(with_teacher: bool) -> List[Tensor]:
        layer.zero_grad()
        student = layer(torch.ones(2, 3))
        if with_teacher:
            with torch.no_grad(), average.average_values():
                layer(torch.ones(2, 3))
        student = student[0] if isinstance(student, tuple) else student
        student.square().sum().backward()
        return [parameter.grad.clone() for parameter in layer.parameters()]

    assert equal(gradients(False), gradients(True))


def test_what_is_kept_becomes_the_parameters_own() -> None:
    for params in EVERY_AVERAGE.values():
        average, parameters = trained(params)
        buffer = Buffer()
        average.attach(buffer)
        with pytest.raises(RuntimeError, match="nothing to keep"):
            average.keep_average_value()
        averages = copy.deepcopy(dict(average.named_averages()))
        average.assign_average_value()
        assigned = values(parameters)
        average.keep_average_value()
        assert not average.is_assigned and equal(values(parameters), assigned)
        assert all(torch.equal(value, averages[n]) for n, value in average.named_averages())
        with pytest.raises(RuntimeError, match="nothing to restore"):
            average.restore()
        average.apply(4)
        with average.average_values():
            pass
        assert equal(values(parameters), assigned)
