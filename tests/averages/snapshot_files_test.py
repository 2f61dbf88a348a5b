import json
import os
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from allennlp.common import Params
from allennlp.common.checks import ConfigurationError
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from torch.nn import Parameter

from allennlp_ema import MovingAverage
from allennlp_ema.averages.snapshot_files import (
    find_snapshots,
    read_snapshot,
    snapshot_path,
    snapshot_paths,
    take_snapshot,
    write_snapshot,
)
from allennlp_ema.averages.specifications import specification_of
from tests.support.every_average import EVERY_AVERAGE, built


def averaged(num_updates: int = 3, **specification: Any) -> MovingAverage:
    """An average of three parameters, all of which are the number of the update."""
    parameters = [
        ("scalar", Parameter(torch.tensor(0.0, dtype=torch.float64))),
        ("half", Parameter(torch.zeros(2, 3, dtype=torch.float16).t())),
        ("empty", Parameter(torch.zeros(0, 4))),
    ]
    average = MovingAverage.from_params(
        Params(specification or {"type": "uniform"}), parameters=parameters
    )
    for number in range(1, num_updates + 1):
        with torch.no_grad():
            for _, parameter in parameters:
                parameter.fill_(number)
        average.apply(number)
    return average


def written(directory: Path, average: MovingAverage, name: str = "uniform", **how: Any) -> Path:
    path = snapshot_path(directory, average.num_updates, name)
    write_snapshot(path, take_snapshot(name, average, **how))
    return path


def test_a_snapshot_holds_the_averages_in_float32(tmp_path):
    path = written(tmp_path / "new" / "averages", averaged(3))
    values = load_file(str(path))
    assert {name: (v.dtype.name, v.shape) for name, v in values.items()} == {
        "scalar": ("float32", ()),
        "half": ("float32", (3, 2)),
        "empty": ("float32", (0, 4)),
    }
    assert values["scalar"] == 2.0 and (values["half"] == 2.0).all()
    assert [file.name for file in path.parent.iterdir()] == [
        "update_0000000003.uniform.safetensors"
    ]


@pytest.mark.parametrize("name", sorted(set(EVERY_AVERAGE) - {"bank", "bank_in_a_bank"}))
def test_what_a_snapshot_says_of_itself(name, tmp_path):
    average = built(
        EVERY_AVERAGE[name], [("weight", Parameter(torch.zeros(2)))], start_step=2, update_every=2
    )
    for number in range(1, 7):
        average.apply(number)
    snapshot = read_snapshot(written(tmp_path, average, "it"))
    assert snapshot.name == "it"
    assert snapshot.specification == specification_of(average)
    assert snapshot.counts == average.counts
    assert (snapshot.num_updates, snapshot.effective_window) == (6, average.effective_window())
    assert (snapshot.shapes, snapshot.tied, snapshot.num_bytes) == ({"weight": (2,)}, {}, 8)


def test_the_state_of_an_average_that_is_assigned(tmp_path):
    average = averaged(3)
    with average.average_values():
        path = written(tmp_path, average)
    assert load_file(str(path))["scalar"] == 2.0


def test_what_was_taken_does_not_change_with_the_average(tmp_path):
    average = averaged(3)
    expected = written(tmp_path, average).read_bytes()
    taken = take_snapshot("uniform", average)
    average.apply(4)
    for shadow in dict(average.named_averages()).values():
        shadow.zero_()
    write_snapshot(tmp_path / "later.safetensors", taken)
    assert (tmp_path / "later.safetensors").read_bytes() == expected
    memory = taken.values["scalar"].data_ptr()
    taken = take_snapshot("uniform", average, previous=taken)
    assert taken.values["scalar"].data_ptr() == memory
    write_snapshot(tmp_path / "again.safetensors", taken)
    again = written(tmp_path, average)
    assert (tmp_path / "again.safetensors").read_bytes() == again.read_bytes() != expected


def test_tied_parameters_are_written_once(tmp_path):
    shared = Parameter(torch.ones(2, 2))
    other = Parameter(torch.ones(2, 2))
    average = MovingAverage.from_params(
        Params({"type": "uniform"}),
        parameters=[
            ("first", shared),
            ("other", other),
            ("second", shared),
            # Both without any memory.
            ("empty", Parameter(torch.zeros(0))),
            ("empty too", Parameter(torch.zeros(0))),
        ],
    )
    snapshot = read_snapshot(written(tmp_path, average))
    assert sorted(snapshot.shapes) == ["empty", "empty too", "first", "other"]
    assert snapshot.tied == {"second": "first"}


def test_parameters_get_their_own_names(tmp_path):
    average = averaged(1)
    path = written(tmp_path, average, own_name=lambda name: f"own.{name}")
    assert sorted(read_snapshot(path).shapes) == ["own.empty", "own.half", "own.scalar"]


def test_names_sort_as_snapshots_are_taken_and_may_be_any(tmp_path):
    for num_updates in (9, 10, 100):
        written(tmp_path, averaged(num_updates), "a/b: c")
    snapshots = find_snapshots(tmp_path)
    assert [(s.num_updates, s.name) for s in snapshots] == [
        (9, "a/b: c"),
        (10, "a/b: c"),
        (100, "a/b: c"),
    ]
    assert list(snapshot_paths(tmp_path).values()) == [9, 10, 100]


def test_an_interrupted_write_leaves_the_old_file_and_no_new_one(tmp_path, monkeypatch):
    path = written(tmp_path, averaged(3))
    before = path.read_bytes()

    def fail(descriptor: int) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fail)
        for num_updates in (3, 4):
            with pytest.raises(OSError):
                written(tmp_path, averaged(num_updates))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    # What a kill leaves is among what a recovery cleans up.
    path.with_name(path.name + ".partial").write_bytes(b"half")
    assert [snapshot.path for snapshot in find_snapshots(tmp_path)] == [path]
    assert list(snapshot_paths(tmp_path).values()) == [3, 3]


def test_the_mode_is_that_of_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        path = written(tmp_path, averaged(3))
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640


def test_other_files_are_not_taken_for_snapshots(tmp_path):
    for name in ("update_1.txt", "best.th", "update_one.uniform.safetensors"):
        (tmp_path / name).write_text("")
    assert snapshot_paths(tmp_path) == {}
    assert snapshot_paths(tmp_path / "missing") == {}


def test_missing_truncated_and_foreign_files_are_named(tmp_path):
    with pytest.raises(ConfigurationError, match="missing.safetensors: there is no such file"):
        read_snapshot(tmp_path / "missing.safetensors")
    with pytest.raises(ConfigurationError, match='has no snapshots: .*"moving_average_snapshots"'):
        find_snapshots(tmp_path)
    path = written(tmp_path, averaged(3))
    whole = path.read_bytes()
    for size in (0, 5, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(ConfigurationError, match=f"{path.name} is truncated or not a safet"):
            find_snapshots(tmp_path)
    save_file({"weight": numpy.zeros(3)}, str(path))
    with pytest.raises(ConfigurationError, match=f"{path.name} is not a snapshot"):
        find_snapshots(tmp_path)


def test_a_later_format_is_refused(tmp_path):
    path = written(tmp_path, averaged(3))
    with safe_open(str(path), framework="numpy") as file:
        metadata = file.metadata()
    assert json.loads(metadata["snapshot"])["counts"]["num_updates"] == 3
    save_file(load_file(str(path)), str(path), metadata={**metadata, "format_version": "2"})
    with pytest.raises(ConfigurationError, match="format version 2, but only 1 can be read"):
        read_snapshot(path)


def test_complex_averages_are_refused_by_name(tmp_path):
    average = built({"type": "uniform"}, [("signal", Parameter(torch.ones(2, dtype=torch.cfloat)))])
    with pytest.raises(ConfigurationError, match='"signal" is of dtype torch.complex64.*"exclude"'):
        written(tmp_path, average)
    assert list(tmp_path.iterdir()) == []
