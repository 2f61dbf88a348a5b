"""
The length of a training, for durations in epochs or as a fraction.
"""

import math
import random
from typing import Any

import torch.distributed as dist
from allennlp.nn.util import dist_reduce
from allennlp.training import GradientDescentTrainer

from allennlp_ema.weighting.duration import TrainingLength


def training_length(trainer: GradientDescentTrainer) -> TrainingLength:
    """
    The number of updates in an epoch, if the data loader has a length, and the number of epochs.
    """
    num_batches = _num_batches(trainer.data_loader)
    if trainer._distributed:
        # An epoch ends when the worker with the fewest batches has no more.
        num_batches = dist_reduce(num_batches, dist.ReduceOp.MIN)
    num_updates = math.ceil(num_batches / trainer._num_gradient_accumulation_steps)
    return TrainingLength(num_updates or None, trainer._num_epochs)


def _num_batches(data_loader: Any) -> int:
    # Some batch samplers shuffle to find out their length, which must not change the training.
    state = random.getstate()
    try:
        return len(data_loader)
    except TypeError:
        return 0
    finally:
        random.setstate(state)
