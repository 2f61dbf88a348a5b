"""
Buffers that are averaged with the parameters.
"""

from typing import Dict, Tuple

import torch
import torch.distributed as dist
from allennlp.common.util import is_distributed
from torch import Tensor

from allennlp_ema.averages.attachment import Attachment
from allennlp_ema.training.first_worker import is_expanded


class AveragedBuffers(Attachment):
    """
    The floating-point and complex buffers in a model's state dict. They are averaged by the same
    rule and with the same weights as the parameters.

    # Parameters

    model : `torch.nn.Module`
    """

    name = "averaged_buffers"

    def __init__(self, model: torch.nn.Module) -> None:
        self._places = _floating_point_buffers(model)
        self._buffers = {name: module.get_buffer(k) for name, (module, k) in self._places.items()}

    def tensors(self) -> Dict[str, Tensor]:
        return self._buffers

    def follow(self) -> None:
        with torch.no_grad():
            for name, (module, key) in self._places.items():
                followed = self._buffers[name]
                if module._buffers[key] is not followed:
                    # Some modules replace a buffer by a new tensor instead of changing it in place.
                    module._buffers[key] = followed.copy_(module.get_buffer(key))

    def before_sample(self) -> None:
        if is_distributed():
            # All processes average the primary's buffers, which `DistributedDataParallel` would
            # send only before the next batch.
            followed_tensors = list(self._buffers.values())
            flat = torch.cat([followed.reshape(-1) for followed in followed_tensors])
            dist.broadcast(flat, src=0)
            pieces = flat.split([followed.numel() for followed in followed_tensors])
            with torch.no_grad():
                for followed, piece in zip(followed_tensors, pieces):
                    followed.copy_(piece.view_as(followed))


def _floating_point_buffers(model: torch.nn.Module) -> Dict[str, Tuple[torch.nn.Module, str]]:
    """The module and the key of each floating-point or complex buffer in a state dict, by name."""
    return {
        f"{prefix}.{key}" if prefix else key: (module, key)
        for prefix, module in model.named_modules()
        for key, buffer in module.named_buffers(recurse=False)
        if (buffer.is_floating_point() or buffer.is_complex())
        and key not in module._non_persistent_buffers_set
        and not is_expanded(buffer)
    }
