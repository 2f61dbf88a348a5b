from typing import Any, Callable, Tuple

import torch


def bytes_taken(call: Callable[[], Any]) -> Tuple[Any, int]:
    """What `call` returns, and how much memory is allocated and not freed when it does."""
    with torch.autograd.profiler.profile(profile_memory=True) as profile:
        result = call()
    return result, sum(event.self_cpu_memory_usage for event in profile.function_events)
