"""
The callbacks, one a file.
"""

from allennlp_ema.callbacks.buffers import MovingAverageBuffersCallback
from allennlp_ema.callbacks.monitor import MovingAverageMonitorCallback
from allennlp_ema.callbacks.random_state import RandomStateCallback

__all__ = [
    "MovingAverageBuffersCallback",
    "MovingAverageMonitorCallback",
    "RandomStateCallback",
]
