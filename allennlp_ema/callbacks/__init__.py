"""
The callbacks, one a file.
"""

from allennlp_ema.callbacks.buffers import MovingAverageBuffersCallback
from allennlp_ema.callbacks.monitor import MovingAverageMonitorCallback
from allennlp_ema.callbacks.random_state import RandomStateCallback
from allennlp_ema.callbacks.snapshots import MovingAverageSnapshotsCallback

__all__ = [
    "MovingAverageBuffersCallback",
    "MovingAverageMonitorCallback",
    "MovingAverageSnapshotsCallback",
    "RandomStateCallback",
]
