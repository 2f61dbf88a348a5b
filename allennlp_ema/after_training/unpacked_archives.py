"""
Reads archives of trained models as if they were serialization directories.
"""

import contextlib
import shutil
import tarfile
import tempfile
import zlib
from pathlib import Path
from typing import Dict, Iterator

from allennlp.common.checks import ConfigurationError
from torch import Tensor

from allennlp_ema.after_training.archives import WEIGHTS_NAME
from allennlp_ema.after_training.finished_training import FinishedTraining


class UnpackedArchive(FinishedTraining):
    """A `FinishedTraining` with only the files of its archive."""

    @property
    def best_weights_file(self) -> Path:
        return self.serialization_dir / WEIGHTS_NAME


@contextlib.contextmanager
def opened(path: Path) -> Iterator[FinishedTraining]:
    """
    A context in which the model at `path` can be read as a directory. A serialization directory
    with a `best.th` is read as it is. Otherwise its `model.tar.gz`, or the archive at `path`, is
    unpacked into a temporary directory.

    # Raises

    `ConfigurationError` : naming a file that is missing, truncated or of another kind.
    """
    if path.is_dir():
        training = FinishedTraining(path)
        archive = path / "model.tar.gz"
        if training.best_weights_file.is_file() or not archive.is_file():
            yield training
            return
        path = archive
    if not path.is_file():
        raise ConfigurationError(f"{path}: there is no such file or directory")
    with tempfile.TemporaryDirectory() as directory:
        _unpack(path, Path(directory))
        try:
            yield UnpackedArchive(Path(directory))
        except ConfigurationError as error:
            # The message should name the archive, because the user does not know the directory.
            raise ConfigurationError(str(error).replace(directory, str(path))) from error


def best_weights(path: Path) -> Dict[str, Tensor]:
    """The archived state of the model at `path`."""
    with opened(path) as training:
        return training.best_weights()


def _unpack(path: Path, directory: Path) -> None:
    try:
        with tarfile.open(str(path), "r:gz") as archive:
            for member in archive:
                target = directory / member.name
                if ".." in target.parts or directory not in [target, *target.parents]:
                    raise ConfigurationError(f"{path} has {member.name!r}, which is not within it")
                if member.isdir():
                    continue
                content = archive.extractfile(member) if member.isreg() else None
                if content is None:
                    raise ConfigurationError(f"{path} has {member.name!r}, which is not a file")
                target.parent.mkdir(parents=True, exist_ok=True)
                with content, target.open("wb") as file:
                    shutil.copyfileobj(content, file)
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ConfigurationError(f"{path} is truncated or not an archive: {error}") from error
