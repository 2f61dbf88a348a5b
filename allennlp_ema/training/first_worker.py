"""
Values that all workers take from the first one, where each could have its own.
"""

from typing import Iterable

import torch
import torch.distributed as dist
from allennlp.nn.util import distributed_device
from torch import Tensor


def take_from_first_worker(tensors: Iterable[Tensor]) -> None:
    """As `DistributedDataParallel` does. All workers have to call it together."""
    for tensor in tensors:
        # What shares its values within cannot be written to.
        is_expanded = any(n > 1 and not step for n, step in zip(tensor.shape, tensor.stride()))
        if tensor.numel() and not is_expanded:
            # Not every backend takes every dtype, but each takes bytes.
            values = tensor.detach().to(distributed_device()).reshape(-1).contiguous()
            dist.broadcast(values.view(torch.uint8), src=0)
            if dist.get_rank() != 0:
                tensor.data.copy_(values.view_as(tensor))
