"""
Passes that run in the background: on a CUDA stream of their own, and on a thread for the work of
the host. Optimizers wait for them before they write to the parameters.
"""

import functools
import importlib
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Callable, Optional, Sequence, Set, Union

import torch

from allennlp_ema.shadow_weights.passes import Pass


class BackgroundPass:
    """
    A pass that starts at once and runs in the background.

    # Parameters

    current : `Pass`
    weights : `Sequence[float]`
        One weight for each member.
    device : `torch.device`
        The device of the sources.
    """

    def __init__(self, current: Pass, weights: Sequence[float], device: torch.device) -> None:
        self._pass = current
        self._device = device
        self._event: Optional[torch.cuda.Event] = None
        self._future: Optional[Future] = None
        if device.type == "cuda":
            stream = _stream(device)
            # The pass must read the sources only after the work that computes them.
            stream.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(stream):
                has_host_part = current.run(weights)
                self._event = stream.record_event()
            if has_host_part:
                self._future = _thread().submit(current.flush)
        else:
            self._future = _thread().submit(current.run, weights)
        _wait_before_steps()
        _running.add(self)

    def flush(self) -> None:
        """
        Waits for the pass: later work on the current stream and thread runs after it. An exception
        from the pass is raised here, once.
        """
        _running.discard(self)
        if self._event is not None:
            torch.cuda.current_stream(self._device).wait_event(self._event)
        future, self._future = self._future, None
        if future is not None:
            future.result()


class BackgroundFlush:
    """The part of a pass that runs on the host, in a thread, so that the main thread can go on."""

    def __init__(self, current: Pass) -> None:
        self._future: Optional[Future] = _thread().submit(current.flush)

    def flush(self) -> None:
        future, self._future = self._future, None
        if future is not None:
            future.result()


Pending = Union[BackgroundPass, BackgroundFlush]

_running: Set[BackgroundPass] = set()
_register_hook: Optional[Callable[..., Any]] = getattr(
    importlib.import_module("torch.optim.optimizer"), "register_optimizer_step_pre_hook", None
)


def run(
    current: Pass, weights: Sequence[float], overlaps_on: Optional[torch.device]
) -> Optional[Pending]:
    """
    # Parameters

    current : `Pass`
    weights : `Sequence[float]`
        One weight for each member.
    overlaps_on : `Optional[torch.device]`
        The device with whose work the whole pass may overlap. `None` if it may not.

    # Returns

    pending : `Optional[Pending]`
        What has to be waited for, if there is something.
    """
    if overlaps_on is not None and can_overlap():
        return BackgroundPass(current, weights, overlaps_on)
    return BackgroundFlush(current) if current.run(weights) else None


def can_overlap() -> bool:
    """Whether torch has a hook that is called before an optimizer's step (2.0 and later)."""
    return _register_hook is not None


@functools.lru_cache(maxsize=None)
def _thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="allennlp_ema")


@functools.lru_cache(maxsize=None)
def _stream(device: torch.device) -> Any:
    return torch.cuda.Stream(device)


@functools.lru_cache(maxsize=None)
def _wait_before_steps() -> None:
    def wait(*arguments: Any) -> None:
        for background_pass in list(_running):
            background_pass.flush()

    assert _register_hook is not None
    _register_hook(wait)
