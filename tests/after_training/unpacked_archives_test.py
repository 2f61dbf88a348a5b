import io
import tarfile
from pathlib import Path

import pytest
from allennlp.common.checks import ConfigurationError

from allennlp_ema.after_training.unpacked_archives import opened


def archive(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(str(path), "w:gz") as tar:
        for member in [tarfile.TarInfo("config.json"), *members]:
            content = b'{"model": {}}' if member.isreg() else b""
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def test_an_archive_is_a_directory_for_as_long(tmp_path):
    path = archive(tmp_path / "a.tar.gz", tarfile.TarInfo("vocabulary/labels.txt"))
    with opened(path) as training:
        directory = training.serialization_dir
        assert training.config == {"model": {}}
        assert training.best_weights_file == directory / "weights.th"
        assert (directory / "vocabulary" / "labels.txt").is_file()
    assert not directory.exists()


@pytest.mark.parametrize("name", ["../evil.txt", "vocabulary/../../evil.txt", "{root}/evil.txt"])
def test_nothing_is_written_elsewhere(name, tmp_path):
    member = tarfile.TarInfo(name.format(root=tmp_path))
    path = archive(tmp_path / "a.tar.gz", member)
    with pytest.raises(ConfigurationError, match="a.tar.gz has '.*evil.txt', which is not within"):
        with opened(path):
            pass
    assert list(tmp_path.rglob("*evil*")) == []


def test_links_are_refused(tmp_path):
    link = tarfile.TarInfo("link")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    with pytest.raises(ConfigurationError, match="a.tar.gz has 'link', which is not a file"):
        with opened(archive(tmp_path / "a.tar.gz", link)):
            pass
