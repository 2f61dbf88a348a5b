"""
The state that AllenNLP's own exponential average writes.
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
    Checks the whole state and returns what then loads it. If the parameters in it are not the
    present ones, its averages have not followed the model since a `--recover`: averaging begins
    anew, with a warning.

    # Parameters

    running : `RunningAverage`
        What it is loaded into.
    all_names : `Iterable[str]`
        Of all parameters, of which only some may be averaged here.
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
                "the parameters in it are not the model's, which they stopped following at an "
                "earlier --recover. These averages are left alone; averaging begins anew from "
                "the model's present parameters."
            )
            running.load(raw, AveragingCounts())
        else:
            # They come from samples: `zero_debias` must not take them for an initial value.
            running.load(averages, AveragingCounts(sampled_share=1.0))

    return load
