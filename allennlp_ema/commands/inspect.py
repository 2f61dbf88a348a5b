"""
`allennlp average inspect`: what averages are in a file or a directory.
"""

import argparse
import contextlib
import json
import tarfile
import zlib
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional

from allennlp.common.checks import ConfigurationError
from allennlp.models.archival import CONFIG_NAME
from torch import Tensor

from allennlp_ema.after_training.archives import PROVENANCE_NAME, WEIGHTS_NAME
from allennlp_ema.after_training.finished_training import FinishedTraining
from allennlp_ema.averages.moving_average import MovingAverage
from allennlp_ema.averages.snapshot_files import read_snapshot
from allennlp_ema.averages.specifications import Specification, build_average
from allennlp_ema.common.terminal import in_bytes, print_table, progress
from allennlp_ema.common.torch_files import load_dictionary
from allennlp_ema.shadow_weights.sharded import memory_of
from allennlp_ema.weighting.weighting import AveragingCounts


class Found(NamedTuple):
    """One average, or what stands in its place, in words."""

    place: str
    name: str
    average: str
    num_updates: Optional[int] = None
    num_averaged: Optional[int] = None
    effective_window: Optional[float] = None
    num_bytes: Optional[int] = None


def add_parser(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    description = """What averages there are in a checkpoint, a snapshot, an archive, or in a
                     directory of these: their types and keys, how many updates they have seen and
                     samples taken, their effective windows and sizes."""
    parser = commands.add_parser(
        "inspect", description=description, help="Show what averages are in a file or directory."
    )
    parser.add_argument(
        "path", type=Path, help="a file (.th, .safetensors, .tar.gz) or a directory"
    )
    return parser


def run(arguments: argparse.Namespace) -> None:
    found = list(_inspect(arguments.path))
    print_table(
        ["file", "name", "average", "updates", "samples", "effective window", "size"],
        [
            [
                each.place,
                each.name,
                each.average,
                "" if each.num_updates is None else f"{each.num_updates:,}",
                "" if each.num_averaged is None else f"{each.num_averaged:,}",
                _window_in_words(each),
                "" if each.num_bytes is None else in_bytes(each.num_bytes),
            ]
            for each in found
        ],
    )


def _window_in_words(found: Found) -> str:
    if found.num_averaged == 0:
        return "no sample yet"
    return "" if found.effective_window is None else f"{found.effective_window:,.1f} updates"


def _inspect(path: Path) -> Iterator[Found]:
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


def _snapshot(path: Path) -> Found:
    snapshot = read_snapshot(path)
    return Found(
        path.name,
        snapshot.name,
        json.dumps(snapshot.specification),
        snapshot.num_updates,
        snapshot.counts.num_averaged,
        snapshot.effective_window,
        snapshot.num_bytes,
    )


def _archive(path: Path) -> Found:
    if not path.is_file():
        raise ConfigurationError(f"{path}: there is no such file")
    documents: Dict[str, Any] = {}
    num_bytes = None
    try:
        with tarfile.open(str(path), "r:gz") as archive:
            for member in progress(archive, desc=f"reading {path.name}"):
                file = archive.extractfile(member)
                if file is not None and member.name in (CONFIG_NAME, PROVENANCE_NAME):
                    documents[member.name] = json.loads(file.read())
                elif member.name == WEIGHTS_NAME:
                    num_bytes = member.size
    except (tarfile.TarError, EOFError, OSError, zlib.error, ValueError) as error:
        raise ConfigurationError(f"{path} is truncated or not an archive: {error}") from error
    if not isinstance(documents.get(CONFIG_NAME), dict) or num_bytes is None:
        raise ConfigurationError(
            f"{path} is not the archive of a model: it has to have {WEIGHTS_NAME}, and an "
            f"object in {CONFIG_NAME}"
        )
    provenance = documents.get(PROVENANCE_NAME)
    if provenance is None:
        specification = _configured(documents[CONFIG_NAME])
        average = "none, raw weights" if specification is None else json.dumps(specification)
        return Found(path.name, "best epoch", average, num_bytes=num_bytes)
    if "files" in provenance:
        files = ", ".join(provenance["files"])
        return Found(path.name, provenance["kind"], files, num_bytes=num_bytes)
    return Found(
        path.name,
        provenance["kind"],
        json.dumps(provenance["average"]),
        provenance["num_updates"],
        effective_window=provenance["effective_window"],
        num_bytes=num_bytes,
    )


def _checkpoint(path: Path) -> Iterator[Found]:
    state = load_dictionary(path)
    if "epochs_completed" not in state:
        num_bytes = _num_bytes(state)
        yield Found(
            path.name,
            "",
            "a model's weights; counts are in training_state_*.th",
            num_bytes=num_bytes,
        )
        return
    average = state.get("moving_average") or state["optimizer"].get("moving_average")
    if average is None:
        yield Found(path.name, "", "none")
        return
    config = path.with_name(CONFIG_NAME)
    configured = _configured(FinishedTraining(path.parent).config) if config.is_file() else None
    yield from _averages(path.name, "", average, configured)


def _averages(
    place: str, name: str, state: Dict[str, Any], configured: Optional[Specification]
) -> Iterator[Found]:
    """Those in the state of a moving average."""
    if "version" not in state:
        whose = "AllenNLP's own, exponential" if "shadows" in state else "of unknown type"
        yield Found(place, name, whose, num_bytes=_num_bytes(state.get("shadows", state)))
    elif "counts" not in state:
        for key, member in state["averages"].items():
            inner = None
            if configured is not None and key in configured.get("averages", {}):
                shared = {
                    k: v for k, v in configured.items() if k not in ("type", "active", "averages")
                }
                inner = {**shared, **_specification(configured["averages"][key])}
            yield from _averages(place, f"{name}.{key}" if name else key, member, inner)
    else:
        counts = AveragingCounts(**state["counts"])
        specification = {**(configured or {"type": state["type"]}), **state["settings"]}
        yield Found(
            place,
            name,
            json.dumps(specification),
            counts.num_updates,
            counts.num_averaged,
            None if configured is None else _effective_window(specification, counts),
            _num_bytes([state["averages"], *state.get("samples", [])]),
        )


def _effective_window(specification: Specification, counts: AveragingCounts) -> Optional[float]:
    # One that was written elsewhere may not be there to be asked.
    with contextlib.suppress(ConfigurationError):
        return build_average(specification).weighting.effective_window(counts)
    return None


def _configured(config: Dict[str, Any]) -> Optional[Specification]:
    """The average that a training was configured with, as the trainer's or as the optimizer's."""
    trainer = config.get("trainer", {})
    average = trainer.get("moving_average")
    if average is None and isinstance(trainer.get("optimizer"), dict):
        average = trainer["optimizer"].get("moving_average")
    return None if average is None else _specification(average)


def _specification(average: Any) -> Specification:
    """As an object, where a configuration may have the name alone, or leave it out."""
    given = {"type": average} if isinstance(average, str) else average
    return {"type": MovingAverage.default_implementation, **given}


def _num_bytes(state: Any) -> int:
    """Of all tensors, those that share their memory counted once."""
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
