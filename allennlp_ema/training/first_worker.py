"""
Values that all workers take from the first one, where each could have its own.
"""

from typing import Iterable

import torch
import torch.distributed as dist
from allennlp.nn.util import distributed_device
from torch import Tensor


def broadcast_from_first_worker(tensors: Iterable[Tensor]) -> None:
    """As `DistributedDataParallel` does. All workers have to call it together."""
    for tensor in tensors:
        if tensor.numel() and not is_expanded(tensor):
            # Not every backend takes every dtype, but each takes bytes.
            values = tensor.detach().to(distributed_device()).reshape(-1).contiguous()
            dist.broadcast(values.view(torch.uint8), src=0)
            if dist.get_rank() != 0:
                tensor.data.copy_(values.view_as(tensor))


def is_expanded(tensor: Tensor) -> bool:
    """Whether values of `tensor` share memory. Nobody can write to such a tensor."""
    return any(size > 1 and stride == 0 for size, stride in zip(tensor.shape, tensor.stride()))
