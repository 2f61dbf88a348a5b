"""
The mean of the weights in several checkpoints.
"""

from pathlib import Path
from typing import Any, Callable, Dict, Optional, Sequence

from allennlp.common.checks import ConfigurationError
from torch import Tensor

from allennlp_ema.after_training.finite_values import InfiniteConstants
from allennlp_ema.after_training.weight_sums import WeightSums
from allennlp_ema.common.terminal import progress
from allennlp_ema.common.torch_files import load_dictionary


def mean_of_checkpoints(paths: Sequence[Path]) -> Dict[str, Tensor]:
    """
    # Parameters

    paths : `Sequence[Path]`
        Files of model states, the newest last. Only one of them is in memory at a time, and the sum
        of all.

    # Returns

    state : `Dict[str, Tensor]`
        The means of all floating-point and complex tensors, computed in double precision. All other
        entries (integer buffers, for example) are those of the newest model state.

    # Raises

    `ConfigurationError` : naming a file that cannot be read, that has other names or shapes than
        the first, or that has a NaN.
    """
    return mean_of_states(paths, load_dictionary)


def mean_of_states(
    paths: Sequence[Path], read: Callable[[Path], Dict[str, Any]]
) -> Dict[str, Tensor]:
    """As `mean_of_checkpoints`, for files that `read` turns into model states."""
    sums = WeightSums()
    constants = InfiniteConstants()
    state: Dict[str, Any] = {}
    first_forms: Dict[str, str] = {}
    for path in progress(paths, desc="reading weights"):
        # Free the previous checkpoint before the next one is loaded.
        state.clear()
        state = read(path)
        forms = forms_of(state)
        first_forms = first_forms or forms
        check_forms(path, forms, paths[0], first_forms)
        constants.check_state(path, state)
        sums.add(state)
    sums.write_mean(state)
    return state


def forms_of(state: Dict[str, Any]) -> Dict[str, str]:
    """Descriptions of the dtypes and shapes in a model's state, by name."""
    return {name: _form(value) for name, value in state.items()}


def check_forms(
    path: Path, forms: Dict[str, str], other_path: Path, other_forms: Dict[str, str]
) -> None:
    """
    # Raises

    `ConfigurationError` : if two files have different names, dtypes or shapes.
    """
    difference = first_difference(path, forms, other_path, other_forms)
    if difference is not None:
        raise ConfigurationError(f"{difference}: they are not of one model")


def first_difference(
    path: Path, forms: Dict[str, str], other_path: Path, other_forms: Dict[str, str]
) -> Optional[str]:
    """A description of the first entry in which two files differ. `None` if they do not differ."""
    for name in [*other_forms, *forms]:
        here, there = forms.get(name, "nothing"), other_forms.get(name, "nothing")
        if here != there:
            return f'{path} has {here} for "{name}", but {other_path} has {there}'
    return None


def _form(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).replace('torch.', '')}{list(value.shape)}"
    return f"a {type(value).__name__}"
