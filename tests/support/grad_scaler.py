"""
A `GradScaler` without a GPU.
"""

from collections import defaultdict
from typing import Any, Dict

import torch
from torch.cuda.amp import grad_scaler


def grad_scaler_on_cpu(scale: float = 1024.0) -> Any:
    """Torch's own where it has one for the CPU, else its code with the kernels written out."""
    if hasattr(torch, "amp") and hasattr(torch.amp, "GradScaler"):
        return torch.amp.GradScaler("cpu", init_scale=scale)
    return _GradScalerOnCPU(scale)


class _GradScalerOnCPU(grad_scaler.GradScaler):
    def __init__(self, scale: float) -> None:
        super().__init__(enabled=False)
        self._enabled = True
        self._scale = torch.tensor(scale)
        self._growth_factor, self._backoff_factor = 2.0, 0.5
        self._growth_interval, self._init_growth_tracker = 2000, 0
        self._growth_tracker = torch.tensor(0)
        self._per_optimizer_states = defaultdict(grad_scaler._refresh_per_optimizer_state)

    def scale(self, outputs: torch.Tensor) -> torch.Tensor:
        return outputs * self._scale

    def _unscale_grads_(
        self, optimizer: Any, inv_scale: torch.Tensor, found_inf: torch.Tensor, allow_fp16: bool
    ) -> Dict[torch.device, torch.Tensor]:
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    if not torch.isfinite(parameter.grad).all():
                        found_inf.fill_(1.0)
                    parameter.grad.mul_(inv_scale)
        return {found_inf.device: found_inf}

    def update(self, new_scale: Any = None) -> None:
        states = self._per_optimizer_states.values()
        if any(found.item() for s in states for found in s["found_inf_per_device"].values()):
            self._scale.mul_(self._backoff_factor)
        self._per_optimizer_states.clear()
