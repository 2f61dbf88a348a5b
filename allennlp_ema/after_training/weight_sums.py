"""
The running sum of several states of one model, and their mean.
"""

from typing import Any, Dict, Mapping, Optional

import torch
from torch import Tensor


class WeightSums:
    """The sums of all floating-point and complex tensors by name, in double precision."""

    def __init__(self) -> None:
        self.num_states = 0
        self._sums: Dict[str, Tensor] = {}

    def add(self, state: Mapping[str, Any]) -> None:
        """Adds a model's state. Other entries, integer buffers for example, are ignored."""
        for name, value in state.items():
            if not isinstance(value, Tensor):
                continue
            # A file may hold parameters that require gradients.
            value = value.detach()
            if name in self._sums:
                self._sums[name] += value
            elif value.is_floating_point() or value.is_complex():
                dtype = torch.complex128 if value.is_complex() else torch.float64
                self._sums[name] = value.to(dtype, copy=True)
        self.num_states += 1

    def write_mean(
        self, state: Mapping[str, Any], with_state: Optional[Mapping[str, Any]] = None
    ) -> None:
        """
        Writes the means into the tensors of a model's state, so that tied ones stay tied.

        # Parameters

        state : `Mapping[str, Any]`
        with_state : `Mapping[str, Any]`, optional (default = `None`)
            A state to include in the means without adding it to the sums.
        """
        for name, total in self._sums.items():
            target = state[name].detach()
            if with_state is None:
                target.copy_(total / self.num_states)
            else:
                target.copy_((total + with_state[name].detach()) / (self.num_states + 1))
