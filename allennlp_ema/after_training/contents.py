"""
Digests of contents, so that a sweep recognizes models and data that it has evaluated already.
"""

import hashlib
import io
import json
import pickle
from pathlib import Path
from typing import Any, Dict, List

import torch
from torch import Tensor

from allennlp_ema.after_training.trained_model import data_paths

_CHUNK = 1 << 20


def digest_of(document: Any) -> str:
    """The digest of plain JSON values."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def digest_of_file(path: Path) -> str:
    """The digest of the bytes in a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for chunk in iter(lambda: file.read(_CHUNK), b""):
            digest.update(chunk)
    return digest.hexdigest()


def digest_of_state(state: Dict[str, Any]) -> str:
    """The digest of the names, shapes, dtypes and values in a model's state."""
    digest = hashlib.sha256()
    for name, value in sorted(state.items()):
        digest.update(f"{name} ".encode())
        digest.update(_bytes_of(value) if isinstance(value, Tensor) else _pickled(value))
    return digest.hexdigest()


def _bytes_of(value: Tensor) -> bytes:
    form = f"{tuple(value.shape)} {value.dtype} ".encode()
    value = value.detach().cpu()
    value = torch.view_as_real(value) if value.is_complex() else value
    return form + value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _pickled(value: Any) -> bytes:
    """What a module's `get_extra_state` gave. It may be anything that can be pickled."""
    file = io.BytesIO()
    _Pickler(file, protocol=4).dump(value)
    return file.getvalue()


class _Pickler(pickle.Pickler):
    def persistent_id(self, value: Any) -> Any:
        # A pickled tensor has addresses in it, which are others in each process.
        return hashlib.sha256(_bytes_of(value)).hexdigest() if isinstance(value, Tensor) else None


def digest_of_data(data: str) -> str:
    """
    The digest of evaluation data.

    # Parameters

    data : `str`
        See `TrainedModel.validation_data`. For a path, the digest covers the content and the file's
        name, which may be part of the names of metrics. For anything else it covers the text.
    """
    return digest_of([_content(path) for path in data_paths(data)])


def _content(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _content(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_content(value) for value in data]
    if not isinstance(data, str) or not Path(data).exists():
        return data
    return [Path(data).stem, [[str(p), digest_of_file(q)] for p, q in _files(Path(data))]]


def _files(path: Path) -> List[Any]:
    """All files of a directory, each with its relative name; or the file itself."""
    if path.is_file():
        return [("", path)]
    return [(p.relative_to(path), p) for p in sorted(path.rglob("*")) if p.is_file()]
