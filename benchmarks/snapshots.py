"""
What a snapshot takes of a training step, and what it takes of a disk.
"""

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

from allennlp_ema import ExponentialMovingAverage
from allennlp_ema.averages.snapshot_files import take_snapshot, write_snapshot
from benchmarks.models import Shapes, model


class SnapshotSeconds(NamedTuple):
    """
    # Parameters

    copy : `float`
        On the wall, for the copy that a step waits for.
    write : `float`
        For the file, beside the training.
    """

    copy: float
    write: float


def snapshot_seconds(shapes: Shapes, repeats: int = 5) -> SnapshotSeconds:
    """Medians; the file is in the folder for temporary ones."""
    average = ExponentialMovingAverage(model(shapes).named_parameters())
    average.apply(1)
    copies, writes = [], []
    with tempfile.TemporaryDirectory() as directory:
        for _ in range(repeats):
            start = time.perf_counter()
            snapshot = take_snapshot("exponential", average)
            taken = time.perf_counter()
            write_snapshot(Path(directory) / "snapshot.safetensors", snapshot)
            copies.append(taken - start)
            writes.append(time.perf_counter() - taken)
    return SnapshotSeconds(median(copies), median(writes))
