"""
One function call at a time in the background.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Callable, Dict, Optional


class Background:
    """
    Calls a function on a thread. The next `check`, `wait` or `run` raises its exception, once. The
    interpreter does not end before the function does.
    """

    def __init__(self) -> None:
        self._future: Optional[Future] = None

    def run(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Waits for the previous function, and then starts this one."""
        self.wait()
        executor = ThreadPoolExecutor(1, thread_name_prefix="allennlp_ema_background")
        self._future = executor.submit(function, *arguments)
        # Otherwise the thread would live on after the function has ended.
        executor.shutdown(wait=False)

    def check(self) -> None:
        """Raises the exception of a function that has ended. Does not wait."""
        if self._future is not None and self._future.done():
            self.wait()

    def wait(self) -> None:
        """Waits until the function has ended, and raises its exception."""
        future, self._future = self._future, None
        if future is not None:
            future.result()

    def __getstate__(self) -> Dict[str, Any]:
        # A running thread cannot be copied.
        self.wait()
        return vars(self)
