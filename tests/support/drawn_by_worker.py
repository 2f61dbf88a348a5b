"""
An initializer that draws other values on each worker.
"""

import torch
import torch.distributed as dist
from allennlp.nn import Initializer


@Initializer.register("drawn_by_worker")
class DrawnByWorker(Initializer):
    """
    Draws uniform values within [-0.1, 0.1], from a generator seeded by the worker's rank.

    Registered as an `Initializer` with name "drawn_by_worker".
    """

    def __call__(self, tensor: torch.Tensor, **kwargs: object) -> None:
        generator = torch.Generator().manual_seed(dist.get_rank())
        with torch.no_grad():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) / 5 - 0.1)
