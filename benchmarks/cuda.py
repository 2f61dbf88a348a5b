"""
What an update costs on a CUDA device: bandwidth, kernel launches, synchronizations with the host.
"""

from statistics import median
from typing import Any, Callable, Dict, Iterable, NamedTuple, Optional

import torch

from benchmarks.implementations import build
from benchmarks.models import Shapes, model, num_values
from benchmarks.timing import FLOOR_BYTES

_COPIED_BYTES = 1 << 30
_ROUNDS = 20
_CALLS_A_ROUND = 10


class OnDevice(NamedTuple):
    """
    # Parameters

    milliseconds : `float`
    share_of_copy_bandwidth : `float`
        12 bytes a value over the time of an update, divided by what a copy on the device reaches.
    launches : `float`
        Kernels launched by one update.
    synchronizations : `float`
        How often one update makes the host wait for the device.
    """

    milliseconds: float
    share_of_copy_bandwidth: float
    launches: float
    synchronizations: float


def on_device(shapes: Shapes, names: Iterable[str]) -> Optional[Dict[str, OnDevice]]:
    """One update of each implementation, `None` where there is no CUDA device."""
    if not torch.cuda.is_available():
        return None
    averaged = model(shapes, device="cuda")
    copy_bandwidth = _copy_bandwidth()
    measured = {}
    for name in names:
        update = build(name, averaged).update
        milliseconds = _milliseconds(update)
        bandwidth = FLOOR_BYTES * num_values(shapes) / milliseconds
        events = _runtime_calls(update)
        measured[name] = OnDevice(
            milliseconds,
            bandwidth / copy_bandwidth,
            sum(count for event, count in events.items() if "LaunchKernel" in event),
            sum(count for event, count in events.items() if "Synchronize" in event),
        )
    return measured


def _copy_bandwidth() -> float:
    """In bytes a millisecond, read and written."""
    source = torch.empty(_COPIED_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * _COPIED_BYTES / _milliseconds(lambda: target.copy_(source))


def _milliseconds(call: Callable[[], Any]) -> float:
    for _ in range(3):
        call()
    times = []
    for _ in range(_ROUNDS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(_CALLS_A_ROUND):
            call()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / _CALLS_A_ROUND)
    return median(times)


def _runtime_calls(call: Callable[[], Any]) -> Dict[str, float]:
    """How often one call calls each function of the CUDA runtime."""
    torch.cuda.synchronize()
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    counts: Dict[str, float] = {}
    with torch.profiler.profile(activities=activities) as profile:
        for _ in range(_CALLS_A_ROUND):
            call()
    for event in profile.events():
        if event.name.startswith("cu"):
            counts[event.name] = counts.get(event.name, 0.0) + 1.0 / _CALLS_A_ROUND
    # The profiler itself waits for the device when it ends.
    counts["cudaDeviceSynchronize"] = max(
        0.0, counts.get("cudaDeviceSynchronize", 0.0) - 1.0 / _CALLS_A_ROUND
    )
    return counts
