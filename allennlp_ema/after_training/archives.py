"""
Writes archives of a trained model with new weights.
"""

import io
import json
import os
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any, Dict

import torch
from allennlp.common.checks import ConfigurationError
from allennlp.common.meta import META_NAME
from allennlp.models.archival import CONFIG_NAME
from torch import Tensor
from tqdm.utils import CallbackIOWrapper  # type: ignore[import-untyped]

from allennlp_ema.after_training.finished_training import FinishedTraining
from allennlp_ema.common.files import patient, written_whole
from allennlp_ema.common.terminal import progress

WEIGHTS_NAME = "weights.th"
# The archive member that records how the weights were made, for `allennlp average inspect`.
PROVENANCE_NAME = "averaging.json"


def check_can_be_written(path: Path, force: bool) -> None:
    """
    # Raises

    `ConfigurationError` : if `path` exists and `force` is not given, or if it cannot be written.
    """
    above = next(directory for directory in path.absolute().parents if directory.exists())
    if not above.is_dir():
        raise ConfigurationError(f"{path}: {above} is a file, but has to be a directory")
    if not os.access(str(above), os.W_OK | os.X_OK):
        raise ConfigurationError(f"{path}: the directory {above} is not one to write to")
    if path.is_dir():
        raise ConfigurationError(f"{path} is a directory, but has to be a file")
    if path.exists() and not force:
        raise ConfigurationError(f"{path} exists already; --force overwrites it")


def write_archive(
    training: FinishedTraining, weights: Dict[str, Tensor], path: Path, provenance: Dict[str, Any]
) -> None:
    """
    Archives `weights` with the configuration and the vocabulary of a training, in the form of
    AllenNLP's archives. The archive is written completely or not at all.

    # Parameters

    training : `FinishedTraining`
    weights : `Dict[str, Tensor]`
        The model's state.
    path : `Path`
        The archive to write, a `.tar.gz`.
    provenance : `Dict[str, Any]`
        How the weights were made, for `allennlp average inspect`.

    # Raises

    `ConfigurationError` : naming a file that is missing, or that is outside the serialization
        directory but would be archived.
    """
    members = _members(training)
    path.parent.mkdir(parents=True, exist_ok=True)
    # This directory needs the room anyway, and a killed process leaves no unnamed file behind.
    scratch = tempfile.TemporaryFile(dir=str(path.parent), buffering=0)
    with scratch as weights_file, written_whole(path) as partial:
        on_cpu = {n: v.cpu() if isinstance(v, Tensor) else v for n, v in weights.items()}
        with patient(weights_file, path) as file:
            torch.save(on_cpu, file)
        made = {
            WEIGHTS_NAME: weights_file,
            PROVENANCE_NAME: io.BytesIO(json.dumps(provenance, indent=2).encode()),
        }
        # A file of the same name in the directory must not replace the new weights.
        members = {name: file for name, file in members.items() if name not in made}
        _write_tar(partial, made, members)


def _members(training: FinishedTraining) -> Dict[str, Path]:
    """The files of the serialization directory to archive, by their names in the archive."""
    directory = training.serialization_dir
    vocabulary = directory / "vocabulary"
    if not vocabulary.is_dir():
        raise ConfigurationError(f"{vocabulary}: there is no such directory")
    members: Dict[str, Path] = {}
    for pattern in [
        CONFIG_NAME,
        META_NAME,
        vocabulary.name,
        *(training.config.get("include_in_archive") or []),
    ]:
        parts = Path(pattern).parts
        if not parts or ".." in parts or Path(pattern).is_absolute():
            raise ConfigurationError(
                f'"include_in_archive" has {pattern!r}, but has to have paths within the '
                "serialization directory"
            )
        for found in sorted(directory.glob(pattern)):
            for file in [found, *sorted(found.rglob("*"))]:
                members[str(file.relative_to(directory))] = file
    root = os.path.realpath(str(directory))
    for file in members.values():
        real = os.path.realpath(str(file))
        if os.path.commonpath([root, real]) != root:
            raise ConfigurationError(f"{file} leads out of {directory}, to {real}: not archived")
        if not (file.is_file() or file.is_dir()):
            raise ConfigurationError(f"{file} is neither a file nor a directory: not archived")
    return members


def _write_tar(path: Path, made: Dict[str, Any], members: Dict[str, Path]) -> None:
    sizes = {name: file.seek(0, os.SEEK_END) for name, file in made.items()}
    num_bytes = sum(sizes.values()) + sum(file.stat().st_size for file in members.values())
    bar = progress(desc="archiving", total=num_bytes, unit="B", unit_scale=True)
    # A higher compression level hardly makes weights smaller, but takes much longer. Links are
    # replaced by their targets, because they would be broken elsewhere.
    with tarfile.open(str(path), "w:gz", compresslevel=1, dereference=True) as archive, bar:
        for name, content in made.items():
            content.seek(0)
            info = tarfile.TarInfo(name)
            info.size, info.mtime = sizes[name], time.time()
            archive.addfile(info, CallbackIOWrapper(bar.update, content, "read"))
        for name, path_of_member in members.items():
            info = archive.gettarinfo(str(path_of_member), arcname=name)
            if info.isreg():
                with open(str(path_of_member), "rb") as file:
                    archive.addfile(info, CallbackIOWrapper(bar.update, file, "read"))
            else:
                archive.addfile(info)
