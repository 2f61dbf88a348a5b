"""
How long updates, exchanges and constructions take.
"""

import random
from functools import partial
from typing import Any, Callable, Dict, Iterable, List

import torch
from torch import nn

from benchmarks.implementations import ALLENNLP, DECAY, OURS, TIMM, build
from benchmarks.models import Shapes, model, num_values, of_64_tensors
from benchmarks.timing import FLOOR, FLOOR_BYTES, Timing, flat_floor, interleaved

Calls = Dict[str, Callable[[], Any]]
Timings = Dict[str, Timing]

SEPARATE = "three averages by themselves"


def updates(shapes: Shapes, names: Iterable[str], seconds: float) -> Timings:
    """One update of each implementation."""
    names = list(names)
    orders = random.Random(0)

    def calls() -> Calls:
        averaged = model(shapes)
        # What is made first lies in other memory, and what has its turn after an average of the
        # same parameters finds a part of them in the cache: each in another place each time.
        order = [FLOOR, *names]
        orders.shuffle(order)
        return {name: a_call(name, averaged, shapes) for name in order}

    timings = interleaved(calls, seconds)
    return {name: timings[name] for name in (FLOOR, *names)}


def a_call(name: str, averaged: nn.Module, shapes: Shapes) -> Callable[[], Any]:
    return flat_floor(num_values(shapes)) if name == FLOOR else build(name, averaged).update


def updates_by_size(
    sizes: Iterable[int], names: Iterable[str], seconds: float
) -> Dict[int, Timings]:
    """One update of models of 64 equal tensors, by the number of values in all of them."""
    return {size: updates(of_64_tensors(size), list(names), seconds) for size in sizes}


def mixed_precision_updates(
    shapes: Shapes,
    names: Iterable[str],
    seconds: float,
    parameters: torch.dtype,
    shadows: torch.dtype,
) -> Timings:
    """Parameters of one dtype, averaged in another: of those who can."""
    arguments: Dict[str, Dict[str, Any]] = {
        OURS: {"shadow_dtype": str(shadows).replace("torch.", "")},
        TIMM: {"dtype": shadows},
    }

    def calls() -> Calls:
        averaged = model(shapes, parameters)
        updates = {n: build(n, averaged, **arguments[n]).update for n in names if n in arguments}
        return {FLOOR: flat_floor(num_values(shapes)), **updates}

    # The parameters are read, the shadows read and written.
    return interleaved(calls, seconds, num_bytes(parameters) + 2 * num_bytes(shadows))


def bank_updates(shapes: Shapes, seconds: float) -> Timings:
    """Three averages of the same parameters, in a bank and by themselves."""
    from allennlp_ema import BankMovingAverage, ExponentialMovingAverage

    def calls() -> Calls:
        averaged = model(shapes)

        def three() -> Dict[str, ExponentialMovingAverage]:
            return {
                str(number): ExponentialMovingAverage(averaged.named_parameters(), DECAY**number)
                for number in (1, 2, 3)
            }

        bank = BankMovingAverage(averaged.named_parameters(), averages=three(), active="1")
        separate = three().values()
        return {
            FLOOR: flat_floor(num_values(shapes)),
            OURS: bank.apply,
            SEPARATE: lambda: [average.apply() for average in separate],
        }

    return interleaved(calls, seconds, floor_bytes=4 + 3 * 8)


def rare_updates(shapes: Shapes, seconds: float, update_every: int = 10) -> Timings:
    """An update where only each tenth samples: the mean of ten."""

    def calls() -> Calls:
        average = build(OURS, model(shapes), update_every=update_every)
        return {FLOOR: flat_floor(num_values(shapes)), OURS: average.update}

    return interleaved(calls, seconds, FLOOR_BYTES / update_every, repeats=update_every)


def exchanges(shapes: Shapes, names: Iterable[str], seconds: float) -> Timings:
    """Assigning the averages and restoring the raw weights, of those who can."""

    def calls() -> Calls:
        averaged = model(shapes)
        steps: Calls = {FLOOR: flat_floor(num_values(shapes))}
        for name in names:
            implementation = build(name, averaged)
            if implementation.assign and implementation.restore:
                steps[f"{name}: assign"] = implementation.assign
                steps[f"{name}: restore"] = implementation.restore
        return steps

    # An exact exchange reads and writes both.
    return interleaved(calls, seconds, floor_bytes=16, repeats=1)


def constructions(shapes: Shapes, names: Iterable[str], seconds: float) -> Timings:
    """Making the average, against copying the parameters."""

    def calls() -> Calls:
        averaged = model(shapes)
        making: Calls = {FLOOR: lambda: copies(averaged)}
        for name in names:
            if name in (OURS, ALLENNLP):
                making[name] = partial(build, name, averaged)
        return making

    return interleaved(calls, seconds)


def copies(averaged: nn.Module) -> List[torch.Tensor]:
    return [parameter.detach().clone() for parameter in averaged.parameters()]


def num_bytes(dtype: torch.dtype) -> int:
    return torch.empty((), dtype=dtype).element_size()
