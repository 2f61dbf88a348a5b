"""
Snapshots: files that each hold one average as it was after some update, with all that has to be
known of its weights to combine it with others.
"""

import json
import math
import os
import re
from pathlib import Path
from typing import Callable, Dict, List, NamedTuple, Optional, Tuple
from urllib.parse import quote

import numpy
import torch
from allennlp.common.checks import ConfigurationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from allennlp_ema.averages.moving_average import MovingAverage
from allennlp_ema.averages.specifications import Specification, specification_of
from allennlp_ema.shadow_weights.sharded import is_plain, memory_of
from allennlp_ema.weighting.weighting import AveragingCounts

FORMAT = "allennlp_ema.snapshot"
FORMAT_VERSION = 1

_FILE_NAME = re.compile(r"update_(\d+)\..+\.safetensors(\.partial)?$")


class Snapshot(NamedTuple):
    """
    What a snapshot says of itself; its values stay in the file.

    # Parameters

    path : `Path`
    name : `str`
        That of the average in its bank, or its type.
    specification : `Specification`
        Of the average.
    counts : `AveragingCounts`
        Of the average at that time.
    effective_window : `Optional[float]`
        In updates, `None` if it had no sample yet.
    shapes : `Dict[str, Tuple[int, ...]]`
        Of the averages, by the names of their parameters.
    tied : `Dict[str, str]`
        Parameters that share their memory with another, whose average is theirs.
    """

    path: Path
    name: str
    specification: Specification
    counts: AveragingCounts
    effective_window: Optional[float]
    shapes: Dict[str, Tuple[int, ...]]
    tied: Dict[str, str]

    @property
    def num_updates(self) -> int:
        """The number of the update after which it was taken."""
        return self.counts.num_updates

    @property
    def num_bytes(self) -> int:
        """The size of its values in bytes."""
        return sum(4 * math.prod(shape) for shape in self.shapes.values())


def snapshot_path(directory: Path, num_updates: int, name: str) -> Path:
    """Where the snapshot of an average is written. Such names sort as snapshots are taken."""
    return directory / f"update_{num_updates:010d}.{quote(name, safe='')}.safetensors"


def snapshot_paths(directory: Path) -> Dict[Path, int]:
    """
    The files in `directory` that are named as `snapshot_path` does, half-written ones too, each
    with the number of its update.
    """
    matches = {path: _FILE_NAME.match(path.name) for path in sorted(directory.glob("update_*"))}
    return {path: int(match.group(1)) for path, match in matches.items() if match}


def check_writable(average: MovingAverage) -> None:
    """
    # Raises

    `ConfigurationError` : naming a parameter whose average a snapshot cannot hold.
    """
    for name, value in average.named_averages():
        if not is_plain(value):
            what = f"of dtype {value.dtype}" if value.is_complex() else "in shards"
            raise ConfigurationError(
                f'the average of the parameter "{name}" is {what}, but a snapshot holds real and '
                'whole values: name it in "exclude", or leave out the snapshots'
            )


def write_snapshot(
    path: Path,
    name: str,
    average: MovingAverage,
    own_name: Callable[[str], str] = str,
) -> None:
    """
    Writes the present values of `average`, in float32, whole or not at all.

    # Parameters

    path : `Path`
        See `snapshot_path`. The directory is made if it is not there.
    name : `str`
        Of the average in its bank.
    average : `MovingAverage`
        Which is `check_writable`.
    own_name : `Callable[[str], str]`, optional
        What a parameter is called in the model, by its name in the average.
    """
    check_writable(average)
    values: Dict[str, numpy.ndarray] = {}
    tied: Dict[str, str] = {}
    seen: Dict[object, str] = {}
    for parameter, value in average.named_averages():
        parameter = own_name(parameter)
        memory = memory_of(value)
        if memory in seen:
            tied[parameter] = seen[memory]
            continue
        seen[memory] = parameter
        value = value.detach().to("cpu", torch.float32).contiguous()
        values[parameter] = value.numpy()
    description = {
        "name": name,
        "specification": specification_of(average),
        "counts": average.counts.as_dict(),
        "effective_window": average.effective_window(),
        "tied": tied,
    }
    metadata = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "snapshot": json.dumps(description),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    save_file(values, str(partial), metadata=metadata)
    os.replace(str(partial), str(path))


def read_snapshot(path: Path) -> Snapshot:
    """
    Reads what a snapshot says of itself.

    # Raises

    `ConfigurationError` : that names the file, if it is missing, truncated or no snapshot.
    """
    if not path.is_file():
        raise ConfigurationError(f"{path}: there is no such file")
    try:
        with safe_open(str(path), framework="numpy") as file:
            metadata = file.metadata() or {}
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}
    except (SafetensorError, OSError) as error:
        raise ConfigurationError(
            f"{path} is truncated or not a safetensors file: {error}"
        ) from error
    if metadata.get("format") != FORMAT:
        raise ConfigurationError(
            f'{path} is not a snapshot that "moving_average_snapshots" wrote: its metadata has no '
            f'"format": "{FORMAT}"'
        )
    if metadata.get("format_version") != str(FORMAT_VERSION):
        raise ConfigurationError(
            f"{path} is a snapshot of format version {metadata.get('format_version')}, but only "
            f"{FORMAT_VERSION} can be read here"
        )
    description = json.loads(metadata["snapshot"])
    return Snapshot(
        path=path,
        name=description["name"],
        specification=description["specification"],
        counts=AveragingCounts(**description["counts"]),
        effective_window=description["effective_window"],
        shapes=shapes,
        tied=description["tied"],
    )


def find_snapshots(directory: Path) -> List[Snapshot]:
    """
    # Returns

    snapshots : `List[Snapshot]`
        All in `directory`, as they were taken.

    # Raises

    `ConfigurationError` : if there is none, or a file that cannot be read.
    """
    paths = sorted(directory.glob("*.safetensors"))
    if not paths:
        raise ConfigurationError(
            f'{directory} has no snapshots: they are written in training by the callback {{"type": '
            '"moving_average_snapshots"}'
        )
    return [read_snapshot(path) for path in paths]
