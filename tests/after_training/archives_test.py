import json
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from allennlp.common.checks import ConfigurationError

from allennlp_ema.after_training.archives import check_can_be_written, write_archive
from allennlp_ema.after_training.finished_training import FinishedTraining

WEIGHTS = {"weight": torch.arange(3.0)}


@pytest.fixture
def training(tmp_path: Path) -> FinishedTraining:
    directory = tmp_path / "run"
    (directory / "vocabulary").mkdir(parents=True)
    (directory / "vocabulary" / "tokens.txt").write_text("a\n")
    (directory / "meta.json").write_text('{"version": "2.10.1"}')
    config = {"include_in_archive": ["metrics_*.json", "notes"]}
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "notes").mkdir()
    for name in ("metrics_1.json", "metrics_2.json", "other.json", "notes/today.txt"):
        (directory / name).write_text(name)
    return FinishedTraining(directory)


def members(path: Path) -> Any:
    with tarfile.open(str(path)) as archive:
        return {m.name: archive.extractfile(m).read() for m in archive if m.isfile()}


def test_an_archive_has_what_allennlps_own_has_and_how_it_came_about(training, tmp_path):
    path = tmp_path / "new" / "model.tar.gz"
    write_archive(training, WEIGHTS, path, {"kind": "test"})
    found = members(path)
    assert set(found) == {
        "averaging.json",
        "config.json",
        "meta.json",
        "metrics_1.json",
        "metrics_2.json",
        "notes/today.txt",
        "vocabulary/tokens.txt",
        "weights.th",
    }
    assert json.loads(found["averaging.json"]) == {"kind": "test"}
    assert found["config.json"] == (training.serialization_dir / "config.json").read_bytes()
    (tmp_path / "weights.th").write_bytes(found["weights.th"])
    assert torch.equal(torch.load(str(tmp_path / "weights.th"))["weight"], WEIGHTS["weight"])


def test_tied_weights_are_archived_once(training, tmp_path):
    shared = torch.randn(100_000)
    sizes = []
    for other in (shared, shared.clone()):
        weights = {"first": shared, "second": other}
        write_archive(training, weights, tmp_path / "model.tar.gz", {})
        sizes.append(len(members(tmp_path / "model.tar.gz")["weights.th"]))
    assert sizes[1] - sizes[0] > 390_000


def test_an_interrupted_write_leaves_what_was_there(training, tmp_path, monkeypatch):
    directory = tmp_path / "out"
    for before in ([], ["model.tar.gz"]):
        directory.mkdir(exist_ok=True)
        for name in before:
            (directory / name).write_text("precious")

        def fail(archive: Any, info: Any, file: Any = None) -> None:
            raise OSError("no space left")

        with monkeypatch.context() as patched:
            patched.setattr(tarfile.TarFile, "addfile", fail)
            with pytest.raises(OSError):
                write_archive(training, WEIGHTS, directory / "model.tar.gz", {})
        assert [path.name for path in directory.iterdir()] == before
        assert all((directory / name).read_text() == "precious" for name in before)


def test_a_missing_vocabulary_is_named(training, tmp_path):
    (training.serialization_dir / "vocabulary").rename(tmp_path / "elsewhere")
    with pytest.raises(ConfigurationError, match="vocabulary: there is no such directory"):
        write_archive(training, WEIGHTS, tmp_path / "out" / "model.tar.gz", {})
    assert not (tmp_path / "out").exists()


def test_what_is_there_is_overwritten_by_force_alone(tmp_path):
    path = tmp_path / "model.tar.gz"
    check_can_be_written(path, force=False)
    path.write_text("precious")
    check_can_be_written(path, force=True)
    with pytest.raises(ConfigurationError, match="model.tar.gz exists already; --force overwrites"):
        check_can_be_written(path, force=False)
    with pytest.raises(ConfigurationError, match="is a directory, but has to be a file"):
        check_can_be_written(tmp_path, force=True)


def test_what_cannot_be_written_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("precious")
    path = tmp_path / "file" / "new" / "model.tar.gz"
    message = f"{path}: {tmp_path / 'file'} is a file, but has to be a directory"
    with pytest.raises(ConfigurationError, match=message):
        check_can_be_written(path, force=True)
    # Whoever runs the tests may be allowed everything.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    path = tmp_path / "new" / "model.tar.gz"
    message = f"{path}: the directory {tmp_path} is not one to write to"
    with pytest.raises(ConfigurationError, match=message):
        check_can_be_written(path, force=True)


def include(training: FinishedTraining, pattern: str) -> None:
    training.config["include_in_archive"] = [pattern]


@pytest.mark.parametrize("pattern", ["../*", "notes/../../secret", "/etc/passwd", "", "."])
def test_what_is_not_within_the_directory_is_refused(pattern, training, tmp_path):
    (tmp_path / "secret").write_text("secret")
    include(training, pattern)
    with pytest.raises(ConfigurationError, match='"include_in_archive" has '):
        write_archive(training, WEIGHTS, tmp_path / "out" / "model.tar.gz", {})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["notes/link", "vocabulary/link", "link"])
@pytest.mark.parametrize("kind", ["file", "directory"])
def test_links_that_lead_out_of_the_directory_are_refused_by_name(place, kind, training, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    link = training.serialization_dir / place
    link.symlink_to(outside if kind == "directory" else outside / "secret")
    include(training, "notes" if place != "link" else "link")
    with pytest.raises(ConfigurationError, match=f"{place} leads out of .*, to .*outside"):
        write_archive(training, WEIGHTS, tmp_path / "model.tar.gz", {})


def test_of_links_within_the_directory_the_content_is_archived(training, tmp_path):
    (training.serialization_dir / "notes" / "link").symlink_to("today.txt")
    os.link(
        str(training.serialization_dir / "notes" / "today.txt"),
        str(training.serialization_dir / "notes" / "hard"),
    )
    write_archive(training, WEIGHTS, tmp_path / "model.tar.gz", {})
    found = members(tmp_path / "model.tar.gz")
    assert found["notes/link"] == found["notes/hard"] == b"notes/today.txt"


def test_what_is_made_is_not_replaced_by_a_file_of_that_name(training, tmp_path):
    for name in ("weights.th", "averaging.json"):
        (training.serialization_dir / name).write_text("other")
    include(training, "*.*")
    write_archive(training, WEIGHTS, tmp_path / "model.tar.gz", {"kind": "test"})
    with tarfile.open(str(tmp_path / "model.tar.gz")) as archive:
        names = archive.getnames()
    assert len(names) == len(set(names))
    assert json.loads(members(tmp_path / "model.tar.gz")["averaging.json"]) == {"kind": "test"}


def test_what_a_kill_left_is_gone(training, tmp_path):
    (tmp_path / "model.tar.gz.partial").write_text("half")
    write_archive(training, WEIGHTS, tmp_path / "model.tar.gz", {})
    assert sorted(each.name for each in tmp_path.iterdir()) == ["model.tar.gz", "run"]


def test_the_mode_is_that_of_the_umask(training, tmp_path):
    path = tmp_path / "model.tar.gz"
    before = os.umask(0o027)
    try:
        write_archive(training, WEIGHTS, path, {})
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640
