"""
One configuration of each type of average.
"""

from typing import Any, Dict, Iterable, Tuple

from allennlp.common import Params
from torch import Tensor

from allennlp_ema import MovingAverage

EVERY_AVERAGE: Dict[str, Dict[str, Any]] = {
    "exponential": {"decay": 0.9},
    "exponential_schedule": {
        "type": "exponential",
        "decay": {"type": "inverse_power", "max_decay": 0.95},
        "zero_debias": True,
    },
    "uniform": {"type": "uniform"},
    "power_function": {"type": "power_function", "sigma_rel": 0.1},
    "polynomial": {"type": "polynomial", "eta": 4.0},
    "window": {"type": "window", "window_size": 3},
    "bank": {
        "type": "bank",
        "averages": {
            "fast": {"decay": {"type": "half_life", "half_life": 2.0}, "zero_debias": True},
            "slow": {"type": "polynomial"},
            "last": {"type": "window", "window_size": 2},
        },
        "active": "slow",
    },
    "bank_in_a_bank": {
        "type": "bank",
        "averages": {
            "inner": {
                "type": "bank",
                "averages": {"mean": {"type": "uniform"}, "last": {"type": "polynomial"}},
                "active": "last",
            },
            "fast": {"type": "power_function", "sigma_rel": 0.1},
        },
        "active": "inner",
    },
}


def built(
    params: Dict[str, Any], named_parameters: Iterable[Tuple[str, Tensor]], **more: Any
) -> MovingAverage:
    return MovingAverage.from_params(Params({**params, **more}), parameters=named_parameters)
