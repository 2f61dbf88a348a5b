"""
One thing at a time that is done beside what follows it.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Callable, Dict, Optional


class Background:
    """
    Calls a function on a thread. What is raised in it is raised here by the next `check`, `wait` or
    `run`, once. The interpreter does not end before the function does.
    """

    def __init__(self) -> None:
        self._future: Optional[Future] = None

    def run(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Waits for the function before, and calls this one."""
        self.wait()
        executor = ThreadPoolExecutor(1, thread_name_prefix="allennlp_ema_background")
        self._future = executor.submit(function, *arguments)
        # The thread ends with the function.
        executor.shutdown(wait=False)

    def check(self) -> None:
        """Raises what was raised in a function that has ended. Does not wait."""
        if self._future is not None and self._future.done():
            self.wait()

    def wait(self) -> None:
        """Returns when the function has ended."""
        future, self._future = self._future, None
        if future is not None:
            future.result()

    def __getstate__(self) -> Dict[str, Any]:
        # A thread cannot be copied.
        self.wait()
        return vars(self)
