import os
import signal
import stat
from pathlib import Path
from typing import Callable, Dict

import numpy
import pytest
import torch
from allennlp.common.checks import ConfigurationError
from safetensors.numpy import save_file

from allennlp_ema.common.files import whole_file, written_whole

STATE = {"weight": torch.arange(30000.0), "small": torch.ones(3)}


def save_state(path: Path) -> None:
    with whole_file(path) as file:
        torch.save(STATE, file)


def save_snapshot(path: Path) -> None:
    with written_whole(path) as partial:
        save_file({"weight": numpy.zeros(30000)}, str(partial))


def write_bytes(path: Path) -> None:
    with written_whole(path) as partial:
        partial.write_bytes(bytes(100_000))


WRITERS: Dict[str, Callable[[Path], None]] = {
    "state": save_state,
    "snapshot": save_snapshot,
    "bytes": write_bytes,
}


def test_state_is_the_same_as_without(tmp_path: Path) -> None:
    save_state(tmp_path / "state.th")
    torch.save(STATE, str(tmp_path / "plain.th"))
    loaded = torch.load(str(tmp_path / "state.th"))
    assert loaded.keys() == STATE.keys()
    assert all(torch.equal(loaded[name], value) for name, value in STATE.items())
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert len(modes) == 1 and len(list(tmp_path.iterdir())) == 2


def test_mode_is_that_of_the_umask(tmp_path: Path) -> None:
    umask = os.umask(0o027)
    try:
        save_state(tmp_path / "state.th")
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "state.th").stat().st_mode) == 0o640


@pytest.mark.parametrize("writer", ["state", "bytes"])
def test_content_is_on_the_disk_before_it_has_its_name(
    writer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        events.append("directory" if stat.S_ISDIR(status.st_mode) else status.st_size)
        fsync(descriptor)

    def note_replace(source: Path, target: Path) -> None:
        events.append(target.name)
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    WRITERS[writer](tmp_path / "file")
    assert events == [(tmp_path / "file").stat().st_size, "file", "directory"]


def test_what_was_there_stays_if_something_is_raised(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("before")
    with pytest.raises(KeyboardInterrupt):
        with whole_file(path) as file:
            file.write(b"half")
            raise KeyboardInterrupt
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def assert_nothing_is_left(directory: Path, path: Path) -> None:
    assert path.read_text() == "before"
    assert list(directory.iterdir()) == [path]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no disk that is always full")
@pytest.mark.parametrize("writer", ["state", "bytes"])
def test_full_disk(writer: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    WRITERS[writer](path)
    size = path.stat().st_size
    path.write_text("before")
    (tmp_path / "file.partial").symlink_to("/dev/full")
    with pytest.raises(ConfigurationError) as raised:
        WRITERS[writer](path)
    message = str(raised.value)
    assert message.startswith(f"{path} cannot be written: No space left on device. It takes ")
    assert f"takes {size} bytes" in message or writer == "bytes"
    assert_nothing_is_left(tmp_path, path)


@pytest.mark.parametrize("writer", list(WRITERS))
def test_no_room_for_a_file_so_large(writer: str, tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    path = tmp_path / "file"
    path.write_text("before")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Else the process is killed.
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(ConfigurationError, match=f"{path} cannot be written: File too large"):
            WRITERS[writer](path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert_nothing_is_left(tmp_path, path)


def test_no_room_for_one_file_within_another_names_that_one(tmp_path: Path) -> None:
    (tmp_path / "inner.partial").symlink_to("/dev/full")
    with pytest.raises(ConfigurationError, match="inner cannot be written"):
        with whole_file(tmp_path / "outer"):
            save_state(tmp_path / "inner")
    assert list(tmp_path.iterdir()) == []
