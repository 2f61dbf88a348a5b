"""
Broadcasts values of the first worker to all others.
"""

from typing import Iterable

import torch
import torch.distributed as dist
from allennlp.nn.util import distributed_device
from torch import Tensor


def broadcast_from_first_worker(tensors: Iterable[Tensor]) -> None:
    """Does as `DistributedDataParallel` does. All workers have to call it together."""
    for tensor in tensors:
        if tensor.numel() and not is_expanded(tensor):
            # Some backends do not take every dtype, but all take bytes.
            values = tensor.detach().to(distributed_device()).reshape(-1).contiguous()
            dist.broadcast(values.view(torch.uint8), src=0)
            if dist.get_rank() != 0:
                tensor.data.copy_(values.view_as(tensor))


def is_expanded(tensor: Tensor) -> bool:
    """Whether values of `tensor` share memory, so that nothing can be written to it."""
    return any(size > 1 and stride == 0 for size, stride in zip(tensor.shape, tensor.stride()))
