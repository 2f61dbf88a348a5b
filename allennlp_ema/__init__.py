"""
Averaged weights for AllenNLP. Importing this package registers everything in it.
"""

try:
    import allennlp  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "allennlp":
        raise
    raise ModuleNotFoundError(
        "allennlp_ema needs AllenNLP 2.10.1. Up to Python 3.10: pip install 'allennlp==2.10.1' "
        "'numpy<2'. On a later Python AllenNLP's own requirements cannot be met: install them by "
        "hand and then pip install --no-deps allennlp==2.10.1 (see the README of allennlp_ema)",
        name="allennlp",
    ) from error

from allennlp_ema.averages import (
    BankMovingAverage,
    ExponentialMovingAverage,
    PolynomialMovingAverage,
    PowerFunctionMovingAverage,
    UniformMovingAverage,
    WindowMovingAverage,
)
from allennlp_ema.averages.moving_average import MovingAverage
from allennlp_ema.commands import Average
from allennlp_ema.training.accelerator import TorchFsdpAccelerator
from allennlp_ema.training.callbacks import (
    MovingAverageBuffersCallback,
    MovingAverageMonitorCallback,
    MovingAverageSelectionCallback,
    MovingAverageSnapshotsCallback,
    RandomStateCallback,
)
from allennlp_ema.training.checkpointer import SwappingCheckpointer
from allennlp_ema.training.optimizer import MovingAverageOptimizer
from allennlp_ema.training.repairs import repair_allennlp
from allennlp_ema.weighting.decay_schedules import (
    ConstantDecay,
    CosineDecay,
    DecaySchedule,
    HalfLifeDecay,
    InversePowerDecay,
    PowerFunctionDecay,
    WarmupDecay,
)

repair_allennlp()

__version__ = "1.0.0"

__all__ = [
    "Average",
    "BankMovingAverage",
    "ConstantDecay",
    "CosineDecay",
    "DecaySchedule",
    "ExponentialMovingAverage",
    "HalfLifeDecay",
    "InversePowerDecay",
    "MovingAverage",
    "MovingAverageBuffersCallback",
    "MovingAverageMonitorCallback",
    "MovingAverageOptimizer",
    "MovingAverageSelectionCallback",
    "MovingAverageSnapshotsCallback",
    "PolynomialMovingAverage",
    "PowerFunctionDecay",
    "PowerFunctionMovingAverage",
    "RandomStateCallback",
    "SwappingCheckpointer",
    "TorchFsdpAccelerator",
    "UniformMovingAverage",
    "WarmupDecay",
    "WindowMovingAverage",
]
