"""
The distance between averages and raw weights, and the share of values that no longer move.
"""

import math
from typing import NamedTuple, Sequence

import torch
from allennlp.nn.util import dist_reduce_sum
from torch import Tensor

from allennlp_ema.averages.moving_average import MovingAverage
from allennlp_ema.shadow_weights.sharded import local_values

# The number of values that are processed at a time, so that no large tensor is copied as a whole.
_BLOCK = 1 << 20


class Distance(NamedTuple):
    """
    # Parameters

    relative : `float`
        The L2 norm of the difference between averages and raw weights, relative to the norm of the
        raw weights.
    stalled_share : `float`
        The share of the values, within [0, 1], that differ from the raw values, but would move by
        less than one unit in the last place in an update with the weight of the latest one.
        Rounding decides whether these values move at all.
    """

    relative: float
    stalled_share: float


def distance_of(average: MovingAverage) -> Distance:
    """
    Measures all values of `average`. For a sharded average these include all processes' values.
    """
    raw_values = dict(average.named_raw_values())
    # Tied parameters share one average under several names, which counts only once.
    pairs = {id(value): (value, raw_values[name]) for name, value in average.named_averages()}
    decay = average.decay_in_force
    weight = 0.0 if decay is None else 1.0 - decay
    sums = torch.zeros(4, dtype=torch.float64)
    sums[3] = sum(local_values(averaged).numel() for averaged, _ in pairs.values())
    for averaged, raw in pairs.values():
        averaged, raw = local_values(averaged), local_values(raw)
        # Only one transfer for each tensor, because a transfer from the device takes time.
        of_blocks = [_sums(*pair, weight) for pair in zip(blocks(averaged), blocks(raw))]
        sums[:3] += torch.stack(of_blocks).sum(0).cpu()
    squared_difference, squared_norm, num_stalled, num_values = dist_reduce_sum(sums).tolist()
    if squared_norm:
        relative = math.sqrt(squared_difference / squared_norm)
    else:
        relative = math.inf if squared_difference else 0.0
    return Distance(relative, num_stalled / num_values)


def blocks(values: Tensor) -> Sequence[Tensor]:
    """`values` in pieces that can be processed without a second copy of a large tensor."""
    return values.detach().reshape(-1).split(_BLOCK)


def _sums(averaged: Tensor, raw: Tensor, weight: float) -> Tensor:
    raw = raw.to(averaged.device, averaged.dtype)
    # A mask has the same infinite values in both, which would make the distance NaN and the norm
    # infinite.
    is_infinite = raw.isinf() & (raw == averaged)
    raw, averaged = raw.masked_fill(is_infinite, 0.0), averaged.masked_fill(is_infinite, 0.0)
    difference = raw - averaged
    # A rule with the weight 0 leaves the average as it is on purpose, so nothing has stalled.
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
