"""
How far averages are from the raw weights, and whether they still follow.
"""

import math
from typing import NamedTuple, Sequence

import torch
from allennlp.nn.util import dist_reduce_sum
from torch import Tensor

from allennlp_ema.averages.moving_average import MovingAverage
from allennlp_ema.shadow_weights.sharded import local_values

# In values: what is worked on at a time, so that no second copy of a large tensor is made.
_BLOCK = 1 << 20


class Distance(NamedTuple):
    """
    # Parameters

    relative : `float`
        The L2 norm of what averages and raw weights differ by, relative to that of the raw weights.
    stalled_share : `float`
        The share of the values, within [0, 1], that an update with the weight of the latest one
        would move by less than one unit in the last place although they are not equal to the raw
        ones. Rounding decides whether these move at all.
    """

    relative: float
    stalled_share: float


def distance_of(average: MovingAverage) -> Distance:
    """Measures `average` with all of its values, those of all processes if it is in shards."""
    raw_values = dict(average.named_raw_values())
    # Tied parameters have one average under several names.
    pairs = {id(value): (value, raw_values[name]) for name, value in average.named_averages()}
    decay = average.decay_in_force
    weight = 0.0 if decay is None else 1.0 - decay
    sums = torch.zeros(4, dtype=torch.float64)
    sums[3] = sum(local_values(averaged).numel() for averaged, _ in pairs.values())
    for averaged, raw in pairs.values():
        averaged, raw = local_values(averaged), local_values(raw)
        # One transfer from the device for each tensor, not for each block.
        of_blocks = [_sums(*pair, weight) for pair in zip(blocks(averaged), blocks(raw))]
        sums[:3] += torch.stack(of_blocks).sum(0).cpu()
    squared_difference, squared_norm, num_stalled, num_values = dist_reduce_sum(sums).tolist()
    if squared_norm:
        relative = math.sqrt(squared_difference / squared_norm)
    else:
        relative = math.inf if squared_difference else 0.0
    return Distance(relative, num_stalled / num_values)


def blocks(values: Tensor) -> Sequence[Tensor]:
    """`values` in pieces that can be worked on without a second copy of a large tensor."""
    return values.detach().reshape(-1).split(_BLOCK)


def _sums(averaged: Tensor, raw: Tensor, weight: float) -> Tensor:
    raw = raw.to(averaged.device, averaged.dtype)
    # The infinite values of a mask, which are the same in both, have no distance and no norm.
    is_infinite = raw.isinf() & (raw == averaged)
    raw, averaged = raw.masked_fill(is_infinite, 0.0), averaged.masked_fill(is_infinite, 0.0)
    difference = raw - averaged
    # A rule whose weight is 0 stands still on purpose.
    is_stalled = (difference != 0) & (difference.abs() * weight < _last_place(averaged))
    is_stalled &= weight > 0
    return torch.stack(
        [
            difference.double().square().sum(),
            raw.double().square().sum(),
            is_stalled.sum().double(),
        ]
    )


def _last_place(values: Tensor) -> Tensor:
    values = values.abs()
    return torch.nextafter(values, values.new_tensor(math.inf)) - values
