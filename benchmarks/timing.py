"""
Times of several calls, turn by turn in one process.
"""

import gc
import time
from contextlib import contextmanager
from statistics import median
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional

import torch

FLOOR = "floor"
FLOOR_BYTES = 12

# A turn is at least as long, so that reading the clock does not count.
_SECONDS_A_TURN = 0.002
_PLACEMENTS = 7
_MIN_ROUNDS = 2


class Timing(NamedTuple):
    """
    # Parameters

    milliseconds : `float`
        Of one call, the median of all rounds.
    times_the_floor : `float`
        The median of the quotients within a round, so that what slows down a while of the run
        concerns both.
    """

    milliseconds: float
    times_the_floor: float


def flat_floor(num_values: int) -> Callable[[], Any]:
    """One `lerp_` over one flat float32 tensor: 12 bytes of memory traffic a value."""
    # Apart by a power of two of bytes they would be in each other's way in the cache: half as fast.
    both = torch.randn(2 * num_values + (1 << 14))
    shadow, parameter = both[:num_values], both[-num_values:]

    def lerp() -> None:
        with torch.no_grad():
            shadow.lerp_(parameter, 0.001)

    return lerp


def interleaved(
    make_calls: Callable[[], Dict[str, Callable[[], Any]]],
    seconds: float,
    floor_bytes: float = FLOOR_BYTES,
    repeats: Optional[int] = None,
) -> Dict[str, Timing]:
    """
    Calls everything turn by turn and takes the CPU time of the one thread that does it, which other
    processes on the machine do not stretch as they stretch the time on the wall.

    # Parameters

    make_calls : `Callable[[], Dict[str, Callable[[], Any]]]`
        Makes the calls, by name and in the order of the turns. What is called `"floor"` is what the
        others are compared with. They are made several times, because where the tensors happen to
        lie in memory makes a difference of up to a tenth.
    seconds : `float`
        How long to go on; at least for 14 rounds.
    floor_bytes : `float`, optional (default = `12`)
        The traffic in bytes a value that the calls cannot do without. The time of `flat_floor` is
        multiplied by the quotient of this and its own 12 bytes.
    repeats : `int`, optional (default = `None`)
        How often each is called in its turn. `None` means for 2 milliseconds.
    """
    times: Dict[str, List[float]] = {}
    with one_thread_without_garbage_collection():
        for _ in range(_PLACEMENTS):
            # Some implementations leave their copies of the model in cycles.
            gc.collect()
            _take_times(make_calls(), seconds / _PLACEMENTS, repeats, times)
    times[FLOOR] = [seconds * floor_bytes / FLOOR_BYTES for seconds in times[FLOOR]]
    return {
        name: Timing(
            1e3 * median(values), median(t / floor for t, floor in zip(values, times[FLOOR]))
        )
        for name, values in times.items()
    }


def _take_times(
    calls: Dict[str, Callable[[], Any]],
    seconds: float,
    repeats: Optional[int],
    times: Dict[str, List[float]],
) -> None:
    for call in calls.values():
        call()
    repeats_of = {name: repeats or _fitting_repeats(call) for name, call in calls.items()}
    end = time.perf_counter() + seconds
    num_rounds = 0
    while time.perf_counter() < end or num_rounds < _MIN_ROUNDS:
        for name, call in calls.items():
            times.setdefault(name, []).append(_seconds(call, repeats_of[name]))
        num_rounds += 1


def _fitting_repeats(call: Callable[[], Any]) -> int:
    return max(1, round(_SECONDS_A_TURN / max(_seconds(call, 2), 1e-9)))


def _seconds(call: Callable[[], Any], repeats: int) -> float:
    start = time.thread_time()
    for _ in range(repeats):
        call()
    return (time.thread_time() - start) / repeats


@contextmanager
def one_thread_without_garbage_collection() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        torch.set_num_threads(num_threads)
