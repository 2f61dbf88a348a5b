"""
Moves parameters along given values while an average follows them.
"""

from typing import Any, Callable, Iterable, List, Optional, Sequence, Tuple

import torch
from torch import Tensor
from torch.nn import Parameter

from allennlp_ema import MovingAverage

NamedParameters = List[Tuple[str, Parameter]]
MakeAverage = Callable[[NamedParameters], Any]


def random_walk(
    num_updates: int,
    shape: Sequence[int] = (5,),
    step: float = 0.1,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> Tensor:
    """
    # Returns

    trajectory : `Tensor`
        The initial value and the values at each update, `(num_updates + 1, *shape)`.
    """
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randn(num_updates + 1, *shape, generator=generator, dtype=torch.float64)
    steps[1:] *= step
    return steps.cumsum(0).to(dtype)


def named_parameter(value: Tensor) -> NamedParameters:
    return [("weight", Parameter(value.clone()))]


def averages_along(
    trajectory: Tensor,
    make_average: MakeAverage,
    numbers: Optional[Iterable[Optional[int]]] = None,
) -> Tensor:
    """
    # Parameters

    trajectory : `Tensor`
        As `random_walk` gives it.
    make_average : `MakeAverage`
        From the named parameters, the one of which holds the initial value, to their average.
    numbers : `Iterable[Optional[int]]`, optional (default = `None`)
        What `apply` is given at each update. `None` means the trainer's: 1, 2, ...

    # Returns

    averages : `Tensor`
        The values of the average, initially and after each update; of the trajectory's shape.
    """
    parameters = named_parameter(trajectory[0])
    average = make_average(parameters)
    numbers = range(1, len(trajectory)) if numbers is None else numbers
    values = [_value(average)]
    for number, value in zip(numbers, trajectory[1:]):
        move(parameters, value)
        average.apply(number)
        values.append(_value(average))
    return torch.stack(values)


def move(parameters: NamedParameters, value: Tensor) -> None:
    with torch.no_grad():
        parameters[0][1].copy_(value)


def weighted_along(trajectory: Tensor, weights: Iterable[float]) -> Tensor:
    """
    The reference: `average += weight * (parameter - average)` in float64, one weight an update.
    """
    values = [trajectory[0].double()]
    for weight, value in zip(weights, trajectory[1:].double()):
        values.append(values[-1] * (1.0 - weight) + weight * value)
    return torch.stack(values)


def profile(make_average: MakeAverage, num_updates: int) -> Tensor:
    """
    # Returns

    profile : `Tensor`
        How much of the initial value and of the parameters at each update is in the average after
        the last of `num_updates`: `(num_updates + 1,)`, float64.
    """
    return averages_along(torch.eye(num_updates + 1, dtype=torch.float64), make_average)[-1]


def _value(average: Any) -> Tensor:
    if isinstance(average, MovingAverage):
        value = average.average("weight")
        assert value is not None
        return value.clone()
    return average._shadows["weight"].clone()
