"""
The callbacks, each in its own file.
"""

from allennlp_ema.training.callbacks.buffers import MovingAverageBuffersCallback
from allennlp_ema.training.callbacks.monitor import MovingAverageMonitorCallback
from allennlp_ema.training.callbacks.random_state import RandomStateCallback
from allennlp_ema.training.callbacks.selection import MovingAverageSelectionCallback
from allennlp_ema.training.callbacks.snapshots import MovingAverageSnapshotsCallback

__all__ = [
    "MovingAverageBuffersCallback",
    "MovingAverageMonitorCallback",
    "MovingAverageSelectionCallback",
    "MovingAverageSnapshotsCallback",
    "RandomStateCallback",
]
