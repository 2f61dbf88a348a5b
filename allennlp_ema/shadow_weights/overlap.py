"""
Updates that run beside what follows them, and are waited for before anything writes to the
parameters: on a CUDA stream of their own, and what the host does on a thread.
"""

import functools
import importlib
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Callable, Optional, Sequence, Set

import torch

from allennlp_ema.shadow_weights.passes import Pass


class Overlap:
    """
    A pass that is under way.

    # Parameters

    current : `Pass`
    weights : `Sequence[float]`
        One for each member.
    device : `torch.device`
        Of the sources.
    """

    def __init__(self, current: Pass, weights: Sequence[float], device: torch.device) -> None:
        self._pass = current
        self._device = device
        self._event: Optional[torch.cuda.Event] = None
        self._future: Optional[Future] = None
        if device.type == "cuda":
            stream = _stream(device)
            # After what has led to the present values.
            stream.wait_stream(torch.cuda.current_stream(device))
            with torch.cuda.stream(stream):
                has_host_part = current.run(weights)
                self._event = stream.record_event()
            if has_host_part:
                self._future = _thread().submit(current.flush)
        else:
            self._future = _thread().submit(current.run, weights)
        _wait_before_steps()
        _under_way.add(self)

    def flush(self) -> None:
        """
        Returns when what is asked for from now on comes after the pass. What was raised in it is
        raised here, once.
        """
        _under_way.discard(self)
        if self._event is not None:
            torch.cuda.current_stream(self._device).wait_event(self._event)
        future, self._future = self._future, None
        if future is not None:
            future.result()


class HostPart:
    """What a pass has left to the host, on a thread: the main one has other things to do."""

    def __init__(self, current: Pass) -> None:
        self._future: Optional[Future] = _thread().submit(current.flush)

    def flush(self) -> None:
        future, self._future = self._future, None
        if future is not None:
            future.result()


_under_way: Set[Overlap] = set()
_register_hook: Optional[Callable[..., Any]] = getattr(
    importlib.import_module("torch.optim.optimizer"), "register_optimizer_step_pre_hook", None
)


def can_overlap() -> bool:
    """Whether torch tells of the steps of optimizers before they write (2.0 and later)."""
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
        for overlap in list(_under_way):
            overlap.flush()

    assert _register_hook is not None
    _register_hook(wait)
