"""
Snapshots are written beside the training, which neither waits for the disk nor loses one.
"""

import errno
import json
import os
import threading
import time
from pathlib import Path
from typing import Any, Iterator, List

import pytest
import torch
from allennlp.common.checks import ConfigurationError

from allennlp_ema.averages.snapshot_files import (
    find_snapshots,
    snapshot_paths,
    take_snapshot,
    write_snapshot,
)
from tests.support.training_runs import run_python, train_here
from tests.training.callbacks.snapshots_test import Run, config, contents, updates


def find_updates(directory: Path) -> List[int]:
    """Of those that have their final names and can be read."""
    paths = sorted(directory.glob("*.safetensors"))
    return [snapshot.num_updates for snapshot in find_snapshots(directory)] if paths else []


class Disk:
    """One that is as slow as a test wants, and may be full."""

    def __init__(self) -> None:
        self.fsync_of_system = os.fsync
        self.is_asked, self.is_ready = threading.Event(), threading.Event()
        self.is_full = False

    def fsync(self, descriptor: int) -> None:
        if threading.current_thread() is not threading.main_thread():
            self.is_asked.set()
            assert self.is_ready.wait(20)
            if self.is_full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.fsync_of_system(descriptor)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    disk = Disk()
    monkeypatch.setattr(os, "fsync", disk.fsync)
    yield disk
    disk.is_ready.set()


def test_steps_do_not_wait_for_the_disk(tmp_path: Path, disk: Disk) -> None:
    run, directory = Run(tmp_path, every_num_updates=3), tmp_path / "averages"
    run.start()
    run.updates(1, 2, 3)
    in_foreground = {}
    for number in (3, 6):
        write_snapshot(tmp_path / "it", take_snapshot("exponential", run.average))
        in_foreground[number] = (tmp_path / "it").read_bytes()
        with torch.no_grad():
            run.model.weight.add_(1.0)
        if number == 3:
            run.updates(4, 5)
            assert disk.is_asked.wait(20)
            assert find_updates(directory) == []
            # The next one waits.
            threading.Timer(0.05, disk.is_ready.set).start()
            run.updates(6)
            assert 3 in find_updates(directory)
    run.end()
    assert {n: path.read_bytes() for path, n in snapshot_paths(directory).items()} == in_foreground


def test_the_oldest_is_removed_when_newer_ones_are_on_the_disk(tmp_path: Path, disk: Disk) -> None:
    run, directory = Run(tmp_path, every_num_updates=1, keep=1), tmp_path / "averages"
    run.start()
    disk.is_ready.set()
    run.updates(1)
    run.end()
    disk.is_ready.clear()
    disk.is_asked.clear()
    run.updates(2)
    assert disk.is_asked.wait(20)
    assert find_updates(directory) == [1]
    disk.is_ready.set()
    run.end()
    assert updates(directory) == [2]


@pytest.mark.parametrize("settings", [{"every_num_updates": 4}, {"every_num_epochs": 3}], ids=str)
def test_a_full_disk_ends_the_training(settings: Any, tmp_path: Path, disk: Disk) -> None:
    disk.is_full = True
    disk.is_ready.set()
    with pytest.raises(ConfigurationError, match=r"averages/.* cannot be written: No space left"):
        train_here(config({"decay": 0.9}, **settings), tmp_path)
    assert list((tmp_path / "averages").iterdir()) == []


def test_an_error_comes_out_at_the_next_step(tmp_path: Path, disk: Disk) -> None:
    run = Run(tmp_path, every_num_updates=2)
    run.start()
    run.updates(1, 2)
    disk.is_full = True
    disk.is_ready.set()
    for thread in threading.enumerate():
        if thread.name.startswith("allennlp_ema_background"):
            thread.join(20)
    with pytest.raises(ConfigurationError, match="No space left"):
        run.updates(3)
    assert run.average.num_updates == 3
    run.callback.on_end(run.trainer, metrics=None, epoch=None)


def test_what_ended_the_training_is_what_is_raised(
    tmp_path: Path, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run(tmp_path, every_num_updates=2)
    run.start()
    run.updates(1, 2)
    disk.is_full = True
    disk.is_ready.set()
    run.callback.on_end(run.trainer, metrics=None, epoch=None)
    assert "The last snapshot was not written: " in caplog.text
    assert "No space left" in caplog.text
    assert list((tmp_path / "averages").iterdir()) == []


def test_a_checkpoint_waits_for_the_snapshots_of_earlier_updates(
    tmp_path: Path, disk: Disk
) -> None:
    run = Run(tmp_path, every_num_updates=2)
    run.start()
    run.updates(1, 2)
    assert run.callback.state_dict() == {}
    run.updates(3)
    threading.Timer(0.05, disk.is_ready.set).start()
    run.callback.state_dict()
    assert find_updates(tmp_path / "averages") == [2]


@pytest.mark.parametrize("settings", [{"every_num_updates": 6}, {"every_num_epochs": 1}], ids=str)
def test_what_the_checkpoint_was_faster_than_is_written_after_recovery(
    settings: Any, tmp_path: Path, disk: Disk
) -> None:
    straight, recovered = tmp_path / "straight", tmp_path / "recovered"
    settings = config(**settings)
    disk.is_ready.set()
    train_here(settings, straight)
    disk.is_full = True
    disk.is_ready.clear()

    def release_after_the_checkpoint() -> None:
        while not (recovered / "training_state_e1_b0.th").exists():
            time.sleep(0.005)
        disk.is_ready.set()

    threading.Thread(target=release_after_the_checkpoint, daemon=True).start()
    with pytest.raises(ConfigurationError, match="No space left"):
        train_here(settings, recovered)
    assert (recovered / "training_state_e1_b0.th").exists()
    assert find_updates(recovered / "averages") == []
    disk.is_full = False
    train_here(settings, recovered, recover=True)
    assert contents(recovered / "averages") == contents(straight / "averages")


def test_a_kill_while_one_is_written_leaves_no_part_of_it(tmp_path: Path) -> None:
    settings, run = config({"decay": 0.9}, every_num_updates=6), tmp_path / "run"
    killed_file = "update_0000000012.exponential.safetensors"
    runs = tmp_path / "runs.json"
    runs.write_text(json.dumps([[settings, str(run), killed_file, 1, "within"]]))
    run_python("-m", "tests.support.killed_runs", str(runs))
    assert find_updates(run / "averages") == [6]
    assert (run / "averages" / f"{killed_file}.partial").exists()
    train_here(settings, run, recover=True)
    assert find_updates(run / "averages") == updates(run / "averages") == [6, 12, 18]
