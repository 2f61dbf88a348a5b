"""
What an average takes: memory beside the model, bytes in a checkpoint, and time at import.

    python -m benchmarks.footprint IMPLEMENTATION MODEL
"""

import io
import json
import resource
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any, Dict, Iterable

import torch
from torch import nn

from benchmarks.implementations import Implementation, build
from benchmarks.models import MODELS, model, of_64_tensors

REPOSITORY = Path(__file__).parent.parent
_STATUS = Path("/proc/self/status")

# In bytes; Linux gives kibibytes.
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


def memory(names: Iterable[str], of_model: str) -> Dict[str, Dict[str, float]]:
    """
    # Returns

    memory : `Dict[str, Dict[str, float]]`
        By implementation: the highest memory beside the model `"training"`, `"assigned"` where
        averages can be assigned, and the bytes of the state `"in a checkpoint"`; each divided by
        the bytes of the averaged values.
    """
    return {
        name: json.loads(_python("-m", "benchmarks.footprint", name, of_model)) for name in names
    }


def import_seconds(repeats: int) -> Dict[str, float]:
    """
    # Returns

    seconds : `Dict[str, float]`
        What importing AllenNLP's command line takes, and allennlp_ema after it: medians.
    """
    code = (
        "import json, time\n"
        "start = time.perf_counter()\n"
        "import allennlp.commands\n"
        "between = time.perf_counter()\n"
        "import allennlp_ema\n"
        "print(json.dumps([between - start, time.perf_counter() - between]))"
    )
    times = [json.loads(_python("-W", "ignore", "-c", code)) for _ in range(repeats)]
    return {
        "allennlp": median(allennlp for allennlp, _ in times),
        "allennlp_ema": median(ours for _, ours in times),
    }


def _python(*arguments: str) -> str:
    """What a process of its own writes in its last line."""
    process = subprocess.run(
        [sys.executable, *arguments], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True
    )
    return process.stdout.splitlines()[-1]


def _measured(name: str, of_model: str) -> Dict[str, float]:
    # What is loaded at the first use is not the average's.
    tiny = model(of_64_tensors(64))
    _use(build(name, tiny))
    averaged = model(MODELS[of_model])
    averaged_bytes = sum(p.numel() * p.element_size() for p in averaged.parameters())
    before = _highest_memory()
    average = build(name, averaged)
    for _ in range(5):
        _train(averaged)
        average.update()
    highest = {"training": _highest_memory() - before}
    if average.assign and average.restore:
        average.assign()
        average.restore()
        highest["assigned"] = _highest_memory() - before
    highest["in a checkpoint"] = _bytes_saved(average.state())
    return {what: num_bytes / averaged_bytes for what, num_bytes in highest.items()}


def _use(implementation: Implementation) -> None:
    implementation.update()
    if implementation.assign and implementation.restore:
        implementation.assign()
        implementation.restore()
    _bytes_saved(implementation.state())


def _train(averaged: nn.Module) -> None:
    with torch.no_grad():
        for parameter in averaged.parameters():
            parameter.mul_(0.999)


def _highest_memory() -> int:
    if _STATUS.exists():
        # What `getrusage` has begins with the peak of the process that started this one.
        line = next(line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT


def _bytes_saved(state: Any) -> int:
    counter = _Counter()
    torch.save(state, counter)
    return counter.num_bytes


class _Counter(io.RawIOBase):
    """A file that keeps nothing but its length."""

    num_bytes = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.num_bytes += len(data)
        return len(data)


if __name__ == "__main__":
    print(json.dumps(_measured(*sys.argv[1:])))
