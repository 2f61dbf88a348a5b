"""
The mean of the weights in several checkpoints.
"""

from pathlib import Path
from typing import Any, Dict, Optional, Sequence

import torch
from allennlp.common.checks import ConfigurationError
from torch import Tensor

from allennlp_ema.common.terminal import progress
from allennlp_ema.common.torch_files import load_dictionary


def mean_of_checkpoints(paths: Sequence[Path]) -> Dict[str, Tensor]:
    """
    # Parameters

    paths : `Sequence[Path]`
        Files of model states, the newest last. One at a time is in memory, beside the sum of all.

    # Returns

    state : `Dict[str, Tensor]`
        The newest model state with the means, summed up in float64 or complex128, of all
        floating-point and complex tensors. What else there is, integer buffers, is as in the
        newest.

    # Raises

    `ConfigurationError` : naming the file that cannot be read, or whose names or shapes are not
        those of the first.
    """
    sums: Dict[str, Tensor] = {}
    state: Dict[str, Any] = {}
    first_forms: Dict[str, str] = {}
    for path in progress(paths, desc="reading checkpoints"):
        # The one before is let go first.
        state.clear()
        state = load_dictionary(path)
        forms = {name: _form(value) for name, value in state.items()}
        first_forms = first_forms or forms
        difference = first_difference(path, forms, paths[0], first_forms)
        if difference is not None:
            raise ConfigurationError(f"{difference}: they are not checkpoints of one model")
        _add(state, sums)
    # In place, so that tied parameters stay tied. No sum is left to be changed by that.
    for name in list(sums):
        state[name].copy_(sums.pop(name) / len(paths))
    return state


def first_difference(
    path: Path, forms: Dict[str, str], other_path: Path, other_forms: Dict[str, str]
) -> Optional[str]:
    """Where two files hold things of different forms, by name, in words; `None` if nowhere."""
    for name in [*other_forms, *forms]:
        here, there = forms.get(name, "nothing"), other_forms.get(name, "nothing")
        if here != there:
            return f'{path} has {here} for "{name}", but {other_path} has {there}'
    return None


def _add(state: Dict[str, Any], sums: Dict[str, Tensor]) -> None:
    for name, value in state.items():
        if not isinstance(value, Tensor) or not (value.is_floating_point() or value.is_complex()):
            continue
        if name in sums:
            sums[name] += value
        else:
            wide = torch.complex128 if value.is_complex() else torch.float64
            sums[name] = value.to(wide, copy=True)


def _form(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).replace('torch.', '')}{list(value.shape)}"
    return f"a {type(value).__name__}"
