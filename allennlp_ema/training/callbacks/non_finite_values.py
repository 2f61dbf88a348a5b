"""
Counts the NaN and infinities in an average that the parameters do not have. One sample with such a
value spoils an average for good, unless it is a window.
"""

from typing import List, NamedTuple

import torch
from allennlp.nn.util import dist_reduce_sum
from torch import Tensor

from allennlp_ema.averages.moving_average import MovingAverage
from allennlp_ema.shadow_weights.sharded import local_part
from allennlp_ema.training.callbacks.distance import blocks


class NonFiniteValues(NamedTuple):
    """
    # Parameters

    names : `List[str]`
        The names of the parameters whose averages hold such values.
    num_values : `int`
        The number of such values.
    num_averaged : `int`
        The number of all averaged values.
    """

    names: List[str]
    num_values: int
    num_averaged: int


def non_finite_values(average: MovingAverage) -> NonFiniteValues:
    """
    Counts the values of `average` that are neither finite nor equal to the parameters' values: a
    mask has infinities itself. If the average is sharded, the shards of all processes are counted.
    """
    raw_values = dict(average.named_raw_values())
    names, counts, num_averaged = [], [], 0
    for name, averaged in average.named_averages():
        averaged = local_part(averaged)
        raw = local_part(raw_values[name]).detach().to(averaged.device, averaged.dtype)
        # A transfer from the device is slow, so there is one per tensor, not one per block.
        block_counts = [_count(*pair) for pair in zip(blocks(averaged), blocks(raw))]
        names.append(name)
        counts.append(torch.stack(block_counts).sum().cpu())
        num_averaged += averaged.numel()
    *name_counts, num_averaged = dist_reduce_sum(
        torch.stack([*counts, torch.tensor(num_averaged)])
    ).tolist()
    found = [name for name, count in zip(names, name_counts) if count]
    return NonFiniteValues(found, sum(name_counts), num_averaged)


def _count(averaged: Tensor, raw: Tensor) -> Tensor:
    is_same = (averaged == raw) | (averaged.isnan() & raw.isnan())
    return (~averaged.isfinite() & ~is_same).sum()
