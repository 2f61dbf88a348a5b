"""
Measures everything into `benchmarks/results/torch-VERSION.json` and writes the report.

    python -m benchmarks.run [--only updates exchanges ...] [--seconds 20]
"""

import argparse
import json
import os
import platform
import sys
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence

import torch
from allennlp.common import Tqdm

from benchmarks.cuda import on_device
from benchmarks.footprint import import_seconds, memory
from benchmarks.implementations import NAMES, missing, versions
from benchmarks.models import MODELS, Shapes, model, of_64_tensors
from benchmarks.report import LARGE, RESULTS, write_report
from benchmarks.snapshots import snapshot_seconds
from benchmarks.times import (
    bank_updates,
    constructions,
    exchanges,
    mixed_precision_updates,
    rare_updates,
    updates,
    updates_by_size,
)
from benchmarks.training import overlap_speed, training_speed

SIZES = [4**power for power in range(5, 14)]
TRAINING_CONFIG = Path(__file__).parent.parent / "training_configs" / "ud_ewt.jsonnet"

Section = Callable[[], Any]


def sections(
    models: Mapping[str, Shapes], sizes: Sequence[int], names: Sequence[str], seconds: float
) -> Dict[str, Section]:
    """
    What is measured, by the name that it has in the results.

    # Parameters

    models : `Mapping[str, Shapes]`
        By name; `"BERT-base"` is the one for all that is measured on one model.
    sizes : `Sequence[int]`
        In values, for the picture.
    names : `Sequence[str]`
        Of the implementations.
    seconds : `float`
        For each table of times.
    """
    large = models[LARGE]

    def mixed(parameters: torch.dtype, shadows: torch.dtype) -> Section:
        return lambda: mixed_precision_updates(large, names, seconds, parameters, shadows)

    return {
        **{f"updates: {m}": _updates(shapes, names, seconds) for m, shapes in models.items()},
        "float16": mixed(torch.float16, torch.float32),
        "bfloat16": mixed(torch.bfloat16, torch.float32),
        "float64 shadows": mixed(torch.float32, torch.float64),
        "bank of 3": lambda: bank_updates(large, seconds),
        "update_every 10": lambda: rare_updates(large, seconds),
        "exchanges": lambda: exchanges(large, names, seconds),
        "constructions": lambda: constructions(large, names, seconds),
        "updates by size": lambda: updates_by_size(sizes, names, seconds / 2),
        "memory": lambda: memory(names, LARGE),
        "import seconds": lambda: import_seconds(repeats=5),
        "training": lambda: training_speed(TRAINING_CONFIG, num_epochs=5),
        "overlap: tagger": lambda: overlap_speed(TRAINING_CONFIG, 7, max_instances=1792),
        "overlap: embedding of 20M": lambda: overlap_speed(
            TRAINING_CONFIG, 7, num_values=20_000_000, max_instances=1792
        ),
        "snapshot": lambda: snapshot_seconds(large),
        "cuda": lambda: on_device(large, names),
    }


def _updates(shapes: Shapes, names: Sequence[str], seconds: float) -> Section:
    return lambda: updates(shapes, names, seconds)


def machine() -> Dict[str, Any]:
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main(arguments: Optional[List[str]] = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="for each table of times")
    parser.add_argument("--only", nargs="+", metavar="SECTION", help="of the results")
    options = parser.parse_args(arguments)
    absent = missing(model(of_64_tensors(64)))
    for name, reason in absent.items():
        print(f"{name} is left out: {reason}", file=sys.stderr)
    names = [name for name in NAMES if name not in absent]
    to_measure = list(sections(MODELS, SIZES, names, options.seconds))
    if options.only:
        unknown = set(options.only) - set(to_measure)
        if unknown:
            parser.error(f"--only: {unknown} is none of {to_measure}")
        to_measure = options.only
    on_treebank = [name for name in to_measure if name == "training" or "overlap" in name]
    if "UD_EWT" not in os.environ and on_treebank:
        to_measure = [name for name in to_measure if name not in on_treebank]
        print(
            "The speed of training is left out: UD_EWT is not set to the folder of a treebank's "
            "train.tsv and dev.tsv.",
            file=sys.stderr,
        )

    torch_version = torch.__version__.partition("+")[0]
    path = RESULTS / f"torch-{torch_version}.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    results["date"] = date.today().isoformat()
    results["machine"] = machine()
    results["versions"] = {
        "torch": torch_version,
        "python": platform.python_version(),
        **versions(),
    }
    for section in Tqdm.tqdm(to_measure, desc="measuring"):
        # In a process of its own: the memory that one section leaves behind makes page faults of
        # the next one's cheaper for some and dearer for others.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            results[section] = process.submit(measure, section, names, options.seconds).result()
        # Each section is kept as soon as it is there.
        _write(path, results)
    write_report()


def measure(section: str, names: Sequence[str], seconds: float) -> Any:
    return _plain(sections(MODELS, SIZES, names, seconds)[section]())


def _plain(measured: Any) -> Any:
    """Named tuples as dictionaries, which say in JSON what their numbers are."""
    if hasattr(measured, "_asdict"):
        return _plain(measured._asdict())
    if isinstance(measured, dict):
        return {str(key): _plain(value) for key, value in measured.items()}
    return measured


def _write(path: Path, results: Dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    os.replace(partial, path)


if __name__ == "__main__":
    main()
