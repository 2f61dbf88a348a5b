"""
The sum of several states of one model, and its mean.
"""

from typing import Any, Dict, Mapping, Optional

import torch
from torch import Tensor


class WeightSums:
    """Sums by name of all floating-point and complex tensors, in double precision."""

    def __init__(self) -> None:
        self.num_states = 0
        self._sums: Dict[str, Tensor] = {}

    def add(self, state: Mapping[str, Any]) -> None:
        """Adds a model's state. What else there is in it, integer buffers, is left alone."""
        for name, value in state.items():
            if not isinstance(value, Tensor):
                continue
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
            One more state that the means are of, without adding it.
        """
        for name, total in self._sums.items():
            if with_state is None:
                state[name].copy_(total / self.num_states)
            else:
                state[name].copy_((total + with_state[name]) / (self.num_states + 1))
