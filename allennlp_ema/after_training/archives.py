"""
Archives of a trained model with other weights than it was archived with.
"""

import json
import os
import tarfile
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Tuple

import torch
from allennlp.common.checks import ConfigurationError
from allennlp.common.meta import META_NAME
from allennlp.models.archival import CONFIG_NAME
from torch import Tensor
from tqdm.utils import CallbackIOWrapper  # type: ignore[import-untyped]

from allennlp_ema.after_training.finished_training import FinishedTraining
from allennlp_ema.common.terminal import progress

WEIGHTS_NAME = "weights.th"
# How the weights came about.
PROVENANCE_NAME = "averaging.json"


def check_can_be_written(path: Path, force: bool) -> None:
    """
    # Raises

    `ConfigurationError` : if there is something at `path` that is not to be overwritten, or nothing
        can be written there.
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
    Archives `weights` with the configuration and the vocabulary of a training, as AllenNLP archives
    a model, whole or not at all.

    # Parameters

    training : `FinishedTraining`
    weights : `Dict[str, Tensor]`
        The model's state.
    path : `Path`
        Of the archive, a `.tar.gz`.
    provenance : `Dict[str, Any]`
        How the weights came about, for `allennlp average inspect`.
    """
    serialization_dir = training.serialization_dir
    vocabulary = serialization_dir / "vocabulary"
    if not vocabulary.is_dir():
        raise ConfigurationError(f"{vocabulary}: there is no such directory")
    path.parent.mkdir(parents=True, exist_ok=True)
    # Beside the archive, where there is room for it.
    with tempfile.TemporaryDirectory(prefix=".averaging-", dir=str(path.parent)) as directory:
        scratch = Path(directory)
        on_cpu = {n: v.cpu() if isinstance(v, Tensor) else v for n, v in weights.items()}
        torch.save(on_cpu, str(scratch / WEIGHTS_NAME))
        (scratch / PROVENANCE_NAME).write_text(json.dumps(provenance, indent=2), encoding="utf-8")
        members = [(scratch, WEIGHTS_NAME), (scratch, PROVENANCE_NAME)]
        included = training.config.get("include_in_archive") or []
        for pattern in [CONFIG_NAME, META_NAME, vocabulary.name, *included]:
            for found in sorted(serialization_dir.glob(pattern)):
                for file in [found, *sorted(found.rglob("*"))]:
                    members.append((serialization_dir, str(file.relative_to(serialization_dir))))
        partial = scratch / path.name
        _write_tar(partial, members)
        os.replace(str(partial), str(path))


def _write_tar(path: Path, members: List[Tuple[Path, str]]) -> None:
    num_bytes = sum((directory / name).stat().st_size for directory, name in members)
    bar = progress(desc="archiving", total=num_bytes, unit="B", unit_scale=True)
    # Weights hardly get smaller at a higher level, but take much longer.
    with tarfile.open(str(path), "w:gz", compresslevel=1) as archive, bar:
        for directory, name in members:
            info = archive.gettarinfo(str(directory / name), arcname=name)
            if info.isreg():
                with open(str(directory / name), "rb") as file:
                    archive.addfile(info, CallbackIOWrapper(bar.update, file, "read"))
            else:
                archive.addfile(info)
