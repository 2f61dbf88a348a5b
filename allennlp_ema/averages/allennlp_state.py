"""
Loads the state that AllenNLP's own exponential average writes.
"""

import logging
from typing import Any, Callable, Dict, Iterable

import torch
from torch import Tensor

from allennlp_ema.averages.parameters import without_prefixes
from allennlp_ema.averages.running_average import RunningAverage
from allennlp_ema.averages.states import matched
from allennlp_ema.weighting.weighting import AveragingCounts

logger = logging.getLogger(__name__)


def is_allennlp_state(state_dict: Any) -> bool:
    return isinstance(state_dict, dict) and "shadows" in state_dict and "version" not in state_dict


def prepare_load_of_allennlp_state(
    running: RunningAverage, all_names: Iterable[str], state_dict: Dict[str, Any]
) -> Callable[[], None]:
    """
    Checks the whole state, and returns a function that loads it. If the state's parameters differ
    from the model's, its averages have not followed the model since an earlier `--recover`. Then
    averaging begins anew, with a warning.

    # Parameters

    running : `RunningAverage`
        The average into which the state is loaded.
    all_names : `Iterable[str]`
        The names of all parameters, whether they are averaged here or not.
    state_dict : `Dict[str, Any]`
    """
    averaged = {without_prefixes(name) for name in running.shadow_weights.names}
    left_out = {without_prefixes(name) for name in all_names} - averaged

    def averaged_here(values: Any) -> Dict[str, Tensor]:
        return {n: v for n, v in dict(values).items() if without_prefixes(n) not in left_out}

    raw = running.shadow_weights.raw_values()
    averages = matched("shadows", averaged_here(state_dict["shadows"]), raw)
    saved = matched("parameters", averaged_here(state_dict["parameters"]), raw)
    is_dead = any(
        not torch.equal(saved[name].to(value.device, value.dtype), value)
        for name, value in raw.items()
    )

    def load() -> None:
        if is_dead:
            logger.warning(
                "The state of AllenNLP's own moving average holds averages of dead parameters: "
                "since an earlier --recover they have not followed the model's parameters. These "
                "averages are not loaded; averaging begins anew from the model's present "
                "parameters."
            )
            running.load(raw, AveragingCounts())
        else:
            # With a share of 1 `zero_debias` does not take the averages for an initial value.
            running.load(averages, AveragingCounts(sampled_share=1.0))

    return load
