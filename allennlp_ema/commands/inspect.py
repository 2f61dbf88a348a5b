"""
`allennlp average inspect`: lists the averages in a file or a directory.
"""

import argparse
import contextlib
import json
import tarfile
import zlib
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from allennlp.common.checks import ConfigurationError
from allennlp.models.archival import CONFIG_NAME
from torch import Tensor

from allennlp_ema.after_training.archives import PROVENANCE_NAME, WEIGHTS_NAME
from allennlp_ema.after_training.finished_training import (
    FinishedTraining,
    check_config,
    configured_average,
)
from allennlp_ema.after_training.finite_values import not_finite
from allennlp_ema.averages.snapshot_files import read_snapshot, snapshot_values
from allennlp_ema.averages.specifications import (
    Specification,
    build_average,
    check_specification,
    with_value,
)
from allennlp_ema.averages.written_states import average_state, read_counts
from allennlp_ema.common.documents import check_kind, entry, explained, read_json
from allennlp_ema.common.terminal import in_bytes, print_table, progress
from allennlp_ema.common.torch_files import load_dictionary
from allennlp_ema.shadow_weights.sharded import memory_of
from allennlp_ema.weighting.equivalent_schedule import (
    MAX_UPDATES,
    fall_in_words,
    learning_rate_factors,
    updates_of_fall,
)
from allennlp_ema.weighting.profiles import are_expected, expected_counts, profiles
from allennlp_ema.weighting.weighting import AveragingCounts


class AverageInFile(NamedTuple):
    """An average in a file, or a file without one: a row of the table."""

    place: str
    name: str
    average: str
    num_updates: Optional[int] = None
    counts: Optional[AveragingCounts] = None
    effective_window: Optional[float] = None
    num_bytes: Optional[int] = None
    not_finite: str = ""
    specification: Optional[Specification] = None


def add_parser(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    description = """Lists the averages in a checkpoint, a snapshot, an archive, or in a directory
                     of these: their types and keys, their numbers of updates and samples, their
                     effective windows, over how many updates the learning rate would have had to
                     fall for the same weights, their sizes, and the values in a checkpoint or a
                     snapshot that are not finite."""
    parser = commands.add_parser(
        "inspect", description=description, help="Show the averages in a file or directory."
    )
    parser.add_argument(
        "path", type=Path, help="a file (.th, .safetensors, .tar.gz) or a directory"
    )
    return parser


def run(arguments: argparse.Namespace) -> None:
    found = list(_inspect(arguments.path))
    any_not_finite = any(each.not_finite for each in found)
    print_table(
        ["file", "name", "average", "updates", "samples", "effective window"]
        + ["as if the learning\nrate had fallen", "size"]
        + ["not finite"] * any_not_finite,
        [
            [
                each.place,
                each.name,
                each.average,
                "" if each.num_updates is None else f"{each.num_updates:,}",
                "" if each.counts is None else f"{each.counts.num_averaged:,}",
                _window_in_words(each),
                "" if fall is None else fall_in_words(fall),
                "" if each.num_bytes is None else in_bytes(each.num_bytes),
                *[each.not_finite] * any_not_finite,
            ]
            for each, fall in zip(found, _falls(found))
        ],
    )


def _window_in_words(found: AverageInFile) -> str:
    if found.counts is not None and not found.counts.num_averaged:
        return "no sample yet"
    return "" if found.effective_window is None else f"{found.effective_window:,.1f} updates"


def _falls(found: Sequence[AverageInFile]) -> List[Optional[int]]:
    """
    For each average its `updates_of_fall`. `None` if the weights in the average are not known. The
    weights of equal specifications are computed once.
    """
    groups: Dict[str, Tuple[Specification, List[int]]] = {}
    for index, each in enumerate(found):
        if each.specification is not None and 1 <= (each.num_updates or 0) <= MAX_UPDATES:
            groups.setdefault(each.average, (each.specification, []))[1].append(index)
    falls: List[Optional[int]] = [None] * len(found)
    for specification, indices in progress(groups.values(), desc="weights of averages"):
        numbers = sorted({found[index].num_updates or 0 for index in indices})
        # A custom average may not be registered here.
        with contextlib.suppress(ConfigurationError), explained(specification["type"]):
            weighting = build_average(specification).weighting
            all_expected = expected_counts(weighting, numbers)
            for expected, shares in zip(all_expected, profiles(weighting, numbers)):
                fall = updates_of_fall(learning_rate_factors(shares))
                for index in indices:
                    counts = found[index].counts or expected
                    is_of_this = found[index].num_updates == expected.num_updates
                    if is_of_this and are_expected(counts, expected):
                        falls[index] = fall
    return falls


def _inspect(path: Path) -> Iterator[AverageInFile]:
    if path.is_dir():
        files = _files_in(path)
        if not files:
            raise ConfigurationError(
                f"{path} has no checkpoint (training_state_*.th), snapshot (*.safetensors) or "
                "archive (*.tar.gz)"
            )
        for file in progress(files, desc="reading"):
            yield from _inspect(file)
    elif path.suffix == ".safetensors":
        yield _snapshot(path)
    elif path.suffixes[-2:] == [".tar", ".gz"]:
        yield _archive(path)
    else:
        yield from _checkpoint(path)


def _files_in(directory: Path) -> List[Path]:
    snapshots = directory / "averages"
    if (directory / CONFIG_NAME).is_file():
        snapshots = FinishedTraining(directory).snapshots_directory
    return [
        *sorted(directory.glob("training_state_*.th")),
        *sorted(directory.glob("*.safetensors")),
        *sorted(snapshots.glob("*.safetensors")),
        *sorted(directory.glob("*.tar.gz")),
    ]


def _snapshot(path: Path) -> AverageInFile:
    snapshot = read_snapshot(path)
    return AverageInFile(
        path.name,
        snapshot.name,
        json.dumps(snapshot.specification),
        snapshot.num_updates,
        snapshot.counts,
        snapshot.effective_window,
        snapshot.num_bytes,
        not_finite(snapshot_values(snapshot)),
        snapshot.specification,
    )


def _archive(path: Path) -> AverageInFile:
    if not path.is_file():
        raise ConfigurationError(f"{path}: there is no such file")
    documents: Dict[str, Any] = {}
    num_bytes = None
    try:
        with tarfile.open(str(path), "r:gz") as archive:
            for member in progress(archive, desc=f"reading {path.name}"):
                if member.isreg() and member.name in (CONFIG_NAME, PROVENANCE_NAME):
                    file: Any = archive.extractfile(member)
                    documents[member.name] = read_json(f"{path}: {member.name}", file.read())
                elif member.name == WEIGHTS_NAME:
                    num_bytes = member.size
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise ConfigurationError(f"{path} is truncated or not an archive: {error}") from error
    if not isinstance(documents.get(CONFIG_NAME), dict) or num_bytes is None:
        raise ConfigurationError(
            f"{path} is not the archive of a model: it has to have {WEIGHTS_NAME}, and an "
            f"object in {CONFIG_NAME}"
        )
    if PROVENANCE_NAME in documents:
        return _provenance(path, documents[PROVENANCE_NAME], num_bytes)
    place = f"{path}: {CONFIG_NAME}"
    specification = configured_average(place, check_config(place, documents[CONFIG_NAME]))
    average = "none, raw weights" if specification is None else json.dumps(specification)
    return AverageInFile(path.name, "best epoch", average, num_bytes=num_bytes)


def _provenance(path: Path, document: Any, num_bytes: int) -> AverageInFile:
    place = f"{path}: {PROVENANCE_NAME}"
    kind = entry(place, check_kind(place, document, dict), "kind", str)
    if "files" in document:
        files = [
            check_kind(f'{place}: "files"', file, str)
            for file in entry(place, document, "files", list)
        ]
        return AverageInFile(path.name, kind, ", ".join(files), num_bytes=num_bytes)
    specification = check_specification(
        f'{place}: "average"', entry(place, document, "average", dict)
    )
    return AverageInFile(
        path.name,
        kind,
        json.dumps(specification),
        entry(place, document, "num_updates", int),
        effective_window=entry(place, document, "effective_window", float),
        num_bytes=num_bytes,
        specification=specification,
    )


def _checkpoint(path: Path) -> Iterator[AverageInFile]:
    state = load_dictionary(path)
    if "epochs_completed" not in state:
        num_bytes = _num_bytes(state)
        yield AverageInFile(
            path.name,
            "",
            "a model's weights; counts are in training_state_*.th",
            num_bytes=num_bytes,
            not_finite=not_finite(state.items()),
        )
        return
    average = average_state(path, state)
    if average is None:
        yield AverageInFile(path.name, "", "none")
        return
    config = path.with_name(CONFIG_NAME)
    configured = None
    if config.is_file():
        configured = configured_average(config, FinishedTraining(path.parent).config)
    yield from _averages(path, "", average, configured)


def _averages(
    path: Path, name: str, state: Dict[str, Any], configured: Optional[Specification]
) -> Iterator[AverageInFile]:
    """The averages in a checked state."""
    if "version" not in state:
        shadows = state.get("shadows")
        whose = "of unknown type" if shadows is None else "AllenNLP's own, exponential"
        yield AverageInFile(
            path.name,
            name,
            whose,
            num_bytes=_num_bytes(state if shadows is None else shadows),
            not_finite=not_finite((shadows if isinstance(shadows, dict) else state).items()),
        )
    elif "counts" not in state:
        for key, member in state["averages"].items():
            inner = _configured_member(path, configured, key)
            yield from _averages(path, f"{name}.{key}" if name else key, member, inner)
    else:
        place = f"{path}: the state of the average"
        counts = read_counts(place, state["counts"])
        specification = {**(configured or {"type": state["type"]}), **state["settings"]}
        for key, value in (entry(place, state, "durations", dict, type(None)) or {}).items():
            check_kind(f'{place}: "durations"', key, str)
            check_kind(f'{place}: "{key}"', value, float)
            specification = with_value(specification, key, value)
        specification = check_specification(place, specification)
        values = [*state["averages"].items()]
        for sample in state.get("samples") or []:
            values += sample.items()
        yield AverageInFile(
            path.name,
            name,
            json.dumps(specification),
            counts.num_updates,
            counts,
            None if configured is None else _effective_window(specification, counts),
            _num_bytes([value for _, value in values]),
            not_finite(values),
            None if configured is None else specification,
        )


def _configured_member(
    path: Path, configured: Optional[Specification], key: str
) -> Optional[Specification]:
    """The configured specification of one of a bank's averages. `None` if it is not known."""
    members = (configured or {}).get("averages")
    if configured is None or not isinstance(members, dict) or key not in members:
        return None
    shared = {k: v for k, v in configured.items() if k not in ("type", "active", "averages")}
    return {**shared, **check_specification(f'{path}: "{key}"', members[key])}


def _effective_window(specification: Specification, counts: AveragingCounts) -> Optional[float]:
    # A custom average may not be registered here.
    with contextlib.suppress(ConfigurationError), explained(specification["type"]):
        return build_average(specification).weighting.effective_window(counts)
    return None


def _num_bytes(state: Any) -> int:
    """The size of all tensors. Tensors with the same memory are counted once."""
    tensors: Dict[object, Tensor] = {}
    pending = [state]
    while pending:
        value = pending.pop()
        if isinstance(value, Tensor):
            tensors[memory_of(value)] = value
        elif isinstance(value, dict):
            pending += value.values()
        elif isinstance(value, list):
            pending += value
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
