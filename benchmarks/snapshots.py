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
from benchmarks.timing import one_thread_without_garbage_collection


class SnapshotSeconds(NamedTuple):
    """
    # Parameters

    copy : `float`
        Of CPU on one thread, for the copy that a step waits for: of another one than the first.
    write : `float`
        On the wall, for the file, beside the training.
    """

    copy: float
    write: float


def snapshot_seconds(shapes: Shapes, repeats: int = 5) -> SnapshotSeconds:
    """Medians; the file is in the folder for temporary ones."""
    average = ExponentialMovingAverage(model(shapes).named_parameters())
    average.apply(1)
    snapshot = take_snapshot("exponential", average)
    copies, writes = [], []
    with one_thread_without_garbage_collection(), tempfile.TemporaryDirectory() as directory:
        for _ in range(repeats):
            start = time.thread_time()
            snapshot = take_snapshot("exponential", average, previous=snapshot)
            copies.append(time.thread_time() - start)
            start = time.perf_counter()
            write_snapshot(Path(directory) / "snapshot.safetensors", snapshot)
            writes.append(time.perf_counter() - start)
    return SnapshotSeconds(median(copies), median(writes))
