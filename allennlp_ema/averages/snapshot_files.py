"""
Snapshot files: each holds the values of one average after some update, its specification and its
counts, so that it can be combined with other snapshots.
"""

import json
import math
import re
import struct
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple
from urllib.parse import quote

import torch
from allennlp.common.checks import ConfigurationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from allennlp_ema.averages.moving_average import MovingAverage
from allennlp_ema.averages.specifications import (
    Specification,
    check_specification,
    specification_of,
)
from allennlp_ema.averages.written_states import read_counts
from allennlp_ema.common.documents import check_kind, check_range, entry, read_json
from allennlp_ema.common.files import written_whole
from allennlp_ema.shadow_weights.sharded import memory_of, whole
from allennlp_ema.weighting.weighting import AveragingCounts

FORMAT = "allennlp_ema.snapshot"
FORMAT_VERSION = 1

_FILE_NAME = re.compile(r"update_(\d+)\..+\.safetensors(\.partial)?$")


class Snapshot(NamedTuple):
    """
    The description of a snapshot. Its values stay in the file.

    # Parameters

    path : `Path`
    name : `str`
        The name of the average in its bank, or else its type.
    specification : `Specification`
        The specification of the average.
    counts : `AveragingCounts`
        The counts of the average at that time.
    effective_window : `Optional[float]`
        In updates. `None` if the average had no sample yet.
    shapes : `Dict[str, Tuple[int, ...]]`
        The shapes of the averages, by the names of their parameters.
    tied : `Dict[str, str]`
        The names of tied parameters, each with the name under which their average is stored.
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
        """The number of the update after which the snapshot was taken."""
        return self.counts.num_updates

    @property
    def num_bytes(self) -> int:
        """The size of its values in bytes."""
        return sum(4 * math.prod(shape) for shape in self.shapes.values())


def snapshot_path(directory: Path, num_updates: int, name: str) -> Path:
    """The file of a snapshot. Sorting by file name sorts by update."""
    return directory / f"update_{num_updates:010d}.{quote(name, safe='')}.safetensors"


def snapshot_paths(directory: Path) -> Dict[Path, int]:
    """
    The snapshot files in `directory`, half-written ones included, each with the number of its
    update.
    """
    matches = {path: _FILE_NAME.match(path.name) for path in sorted(directory.glob("update_*"))}
    return {path: int(match.group(1)) for path, match in matches.items() if match}


def check_writable(average: MovingAverage) -> None:
    """
    # Raises

    `ConfigurationError` : naming a parameter whose average cannot be written to a snapshot.
    """
    for name, value in average.named_averages():
        if value.is_complex():
            raise ConfigurationError(
                f'the average of the parameter "{name}" is of dtype {value.dtype}, but a snapshot '
                'holds real values: name it in "exclude", or leave out the snapshots'
            )


class TakenSnapshot(NamedTuple):
    """
    A copy of an average, for `write_snapshot`. Later updates do not change it.

    # Parameters

    values : `Dict[str, Tensor]`
        The averages in float32 on the CPU, by the names of their parameters.
    metadata : `Dict[str, str]`
    """

    values: Dict[str, Tensor]
    metadata: Dict[str, str]


def take_snapshot(
    name: str,
    average: MovingAverage,
    own_name: Callable[[str], str] = str,
    previous: Optional[TakenSnapshot] = None,
    is_kept: bool = True,
) -> TakenSnapshot:
    """
    Copies the present values of `average`. Those in shards are gathered one parameter at a time,
    so that all processes have to call it together.

    # Parameters

    name : `str`
        The name of the average in its bank.
    average : `MovingAverage`
        It has to pass `check_writable`.
    own_name : `Callable[[str], str]`, optional
        Maps a parameter's name in the average to its name in the model.
    previous : `Optional[TakenSnapshot]`, optional (default = `None`)
        An earlier snapshot of the same average that is not needed any more. Its memory is reused,
        because allocating new memory takes several times as long as copying.
    is_kept : `bool`, optional (default = `True`)
        `False` for a process that only takes part in the gathering. It gets no values.
    """
    check_writable(average)
    memories = {} if previous is None else previous.values
    values: Dict[str, Tensor] = {}
    tied: Dict[str, str] = {}
    seen: Dict[object, str] = {}
    for parameter, value in average.named_averages():
        parameter = own_name(parameter)
        memory = memory_of(value)
        if memory in seen:
            tied[parameter] = seen[memory]
            continue
        seen[memory] = parameter
        value = whole(value)
        if is_kept:
            if parameter not in memories:
                memories[parameter] = torch.empty(value.shape, dtype=torch.float32)
            values[parameter] = memories[parameter].copy_(value.detach())
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
    return TakenSnapshot(values, metadata)


def write_snapshot(path: Path, snapshot: TakenSnapshot) -> None:
    """
    Writes a snapshot completely or not at all.

    # Parameters

    path : `Path`
        See `snapshot_path`. Missing directories are created.
    snapshot : `TakenSnapshot`
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(path) as partial:
        _write_safetensors(partial, snapshot.values, snapshot.metadata)


def _write_safetensors(path: Path, values: Dict[str, Tensor], metadata: Dict[str, str]) -> None:
    """
    Writes the values without another copy. The functions of safetensors copy all values, or, if
    they are killed, leave temporary files behind that only their owner can read.
    """
    header: Dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, value in values.items():
        start, end = end, end + 4 * value.numel()
        header[name] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    # The header is padded, so that the values after it are aligned.
    text += b" " * (-len(text) % 8)
    with open(str(path), "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for value in values.values():
            file.write(value.numpy().astype("<f4", copy=False).data)


def read_snapshot(path: Path) -> Snapshot:
    """
    Reads the description of a snapshot.

    # Raises

    `ConfigurationError` : naming the file, if it is missing, truncated or not a snapshot.
    """
    if not path.is_file():
        raise ConfigurationError(f"{path}: there is no such file")
    try:
        with safe_open(str(path), framework="numpy") as file:
            metadata = file.metadata() or {}
            slices = {key: file.get_slice(key) for key in file.keys()}
            shapes = {key: tuple(each.get_shape()) for key, each in slices.items()}
            dtypes = {key: each.get_dtype() for key, each in slices.items()}
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
    for key, dtype in dtypes.items():
        if dtype != "F32":
            raise ConfigurationError(f'{path} has "{key}" in {dtype}, but has to have it in F32')
    return _parse_description(path, metadata, shapes)


def _parse_description(path: Path, metadata: Dict[str, str], shapes: Dict[str, Any]) -> Snapshot:
    place = f"{path}: the metadata"
    description = read_json(place, entry(place, metadata, "snapshot", str))
    check_kind(place, description, dict)
    counts = read_counts(f'{place}: "counts"', entry(place, description, "counts", dict))
    tied = entry(place, description, "tied", dict)
    for key, other in tied.items():
        if not (isinstance(other, str) and other in shapes):
            raise ConfigurationError(
                f'{place}: "tied" has {other!r:.60} for {key!r}, of which there is no average'
            )
    specification = entry(place, description, "specification", dict)
    entry(f'{place}: "specification"', specification, "type", str)
    effective_window = entry(place, description, "effective_window", float, type(None))
    if effective_window is not None:
        check_range(f'{place}: "effective_window"', effective_window, 0, math.inf)
    return Snapshot(
        path=path,
        name=entry(place, description, "name", str),
        specification=check_specification(f'{place}: "specification"', specification),
        counts=counts,
        effective_window=effective_window,
        shapes=shapes,
        tied=tied,
    )


def snapshot_values(snapshot: Snapshot) -> Iterator[Tuple[str, Tensor]]:
    """The names and values in a snapshot. They are read one at a time to save memory."""
    with safe_open(str(snapshot.path), framework="numpy") as file:
        for name in snapshot.shapes:
            yield name, torch.as_tensor(file.get_tensor(name))


def find_snapshots(directory: Path) -> List[Snapshot]:
    """
    # Returns

    snapshots : `List[Snapshot]`
        All snapshots in `directory`, in the order of their updates.

    # Raises

    `ConfigurationError` : if there is no snapshot, or if a file cannot be read.
    """
    paths = sorted(directory.glob("*.safetensors"))
    if not paths:
        raise ConfigurationError(
            f'{directory} has no snapshots: they are written in training by the callback {{"type": '
            '"moving_average_snapshots"}'
        )
    return [read_snapshot(path) for path in paths]
