"""
Trains what `experiments/README.md` reports, and writes its tables and pictures: see there.

    UD_EWT=... UD_EWT_PARSES=... python -m experiments.run [RUN ...]
"""

import argparse
import csv
import json
import math
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable, Dict, Iterable, List, Optional, Tuple

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from experiments.measurements import RESULTS
from experiments.plan import CONDITIONS, RUNS, SEEDS, Condition, Run
from experiments.report import write_report
from experiments.training_data import a_tenth_of, hidden_markov, with_noisy_tags

HERE = Path(__file__).parent
# allennlp-models and what it imports, as `make experiments` installs it: only the parser sees it.
MODELS = HERE.parent / "build" / "allennlp_models"


# One thread a run: sums come out the same each time, and two runs at once finish sooner than one
# with two threads. Without the two of `malloc`, glibc gives each large buffer back to the system
# and a quarter of the time goes into page faults.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(1 << 32),
    "MALLOC_TRIM_THRESHOLD_": str(1 << 33),
}


class Experiments:
    """
    The runs, each in a directory of its own.

    # Parameters

    data : `Path`
        The directory of the treebank's tags.
    directory : `Path`
        Where the runs and the changed training data go.
    results : `Path`
        Where the figures of each finished run go.
    conditions : `Dict[str, Condition]`, optional (default = `CONDITIONS`)
    parses : `Path`, optional (default = `None`)
        The directory of the treebank's trees.
    """

    def __init__(
        self,
        data: Path,
        directory: Path,
        results: Path = RESULTS,
        conditions: Optional[Dict[str, Condition]] = None,
        parses: Optional[Path] = None,
    ) -> None:
        self.data = data
        self.directory = directory
        self.results = results
        self.conditions = conditions or CONDITIONS
        self.parses = parses
        self.results.mkdir(parents=True, exist_ok=True)

    def is_finished(self, run: Run) -> bool:
        return (self.directory / str(run) / "finished").exists()

    def train(self, runs: Iterable[Run], jobs: int) -> List[Run]:
        """
        Trains what is not yet trained, `jobs` at once, with a bar a run.

        # Returns

        failed : `List[Run]`
        """
        waiting = [run for run in runs if not self.is_finished(run)]
        failed: List[Run] = []
        active: Dict[Run, Training] = {}
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        ) as progress:
            all_runs = progress.add_task("runs", total=len(waiting))
            try:
                while waiting or active:
                    while waiting and len(active) < jobs:
                        run = waiting.pop(0)
                        active[run] = Training(self, run, progress)
                    for run, training in list(active.items()):
                        if training.is_running():
                            continue
                        del active[run]
                        progress.advance(all_runs)
                        if training.is_successful():
                            self._finish(run)
                            progress.print(f"{run}: done")
                        else:
                            failed.append(run)
                            progress.print(f"{run}: failed, see {training.log}")
                    time.sleep(0.5)
            finally:
                for training in active.values():
                    training.process.terminate()
        return failed

    def data_of(self, condition: str) -> Tuple[Path, Path]:
        """
        # Returns

        train, dev : `Tuple[Path, Path]`
        """
        if condition == "parser":
            assert self.parses is not None
            return self.parses / "train.conllu", self.parses / "dev.conllu"
        train, dev = self.data / "train.tsv", self.data / "dev.tsv"
        if condition == "long":
            train = self._written("long.tsv", lambda: hidden_markov(40000, seed=0))
            dev = self._written("long_dev.tsv", lambda: hidden_markov(1000, seed=1))
        elif condition in ("noisy", "tenth"):
            change = {"noisy": with_noisy_tags, "tenth": a_tenth_of}[condition]
            with train.open(encoding="utf-8") as lines:
                sentences = [line.rstrip("\n") for line in lines]
            train = self._written(f"{condition}.tsv", lambda: change(sentences))
        return train, dev

    def dev_and_halves(self, condition: str) -> Dict[str, Path]:
        """The data of three sweeps: a choice made on one half is tried on the other."""
        _, dev = self.data_of(condition)
        with dev.open(encoding="utf-8") as lines:
            sentences = [line.rstrip("\n") for line in lines]
        halves = {"half_0": sentences[0::2], "half_1": sentences[1::2]}
        paths = {name: self._written(f"{name}.tsv", half.copy) for name, half in halves.items()}
        return {"dev": dev, **paths}

    def _written(self, name: str, make: Callable[[], List[str]]) -> Path:
        path = self.directory / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(".partial")
            partial.write_text("".join(line + "\n" for line in make()), encoding="utf-8")
            partial.replace(path)
        return path

    def environment(self, run: Run) -> Dict[str, str]:
        """What the configurations and the package take from outside."""
        condition = self.conditions[run.condition]
        train, dev = self.data_of(run.condition)
        with train.open(encoding="utf-8") as lines:
            # A sentence is a line, or in CoNLL-U lines that end with an empty one.
            in_lines = train.suffix != ".conllu"
            num_sentences = sum(in_lines or line == "\n" for line in lines)
        updates_per_epoch = math.ceil(num_sentences / condition.batch_size)
        return {
            "TASK": condition.task,
            "TRAIN_DATA": str(train),
            "DEV_DATA": str(dev),
            "BATCH_SIZE": str(condition.batch_size),
            "NUM_EPOCHS": str(condition.num_epochs),
            "NUM_UPDATES": str(updates_per_epoch * condition.num_epochs),
            "EVALUATE_EVERY": str(condition.evaluate_every),
            "SEED": str(run.seed),
            "PYTHONPATH": os.pathsep.join(
                [*([str(MODELS)] if run.task == "parser" else []), os.environ.get("PYTHONPATH", "")]
            ),
            # AllenNLP's own average is measured as it is without this package.
            "ALLENNLP_EMA_REPAIRS": "0" if "allennlp" in run.config else "1",
        }

    def _finish(self, run: Run) -> None:
        serialization_dir = self.directory / str(run)
        figures = json.loads((serialization_dir / "evaluations.json").read_text())
        result = {
            "condition": run.condition,
            "config": run.config,
            "seed": run.seed,
            "num_updates": int(self.environment(run)["NUM_UPDATES"]),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "wall_seconds": round(sum(figures["wall_seconds"]), 1),
            "cpu_seconds": round(sum(figures["cpu_seconds"]), 1),
            "evaluations": figures["evaluations"],
        }
        sweeps = sorted((serialization_dir / "sweeps").glob("*/sweep.csv"))
        if sweeps:
            result["sweeps"] = {path.parent.name: _measured(path) for path in sweeps}
            if run.seed == SEEDS[0]:
                shutil.copy(str(serialization_dir / "sweeps/dev/sweep.png"), str(self.results))
        partial = self.results / f"{run}.partial"
        partial.write_text(json.dumps(result, indent=1) + "\n")
        partial.replace(self.results / f"{run}.json")
        (serialization_dir / "finished").touch()


class Training:
    """One run: an `allennlp train` in a process of its own, and what comes after it."""

    def __init__(self, experiments: Experiments, run: Run, progress: Progress) -> None:
        self.serialization_dir = experiments.directory / str(run)
        self.log = experiments.directory / f"{run}.log"
        self._steps = self._steps_of(run, experiments)
        self._environment = {**os.environ, **ENVIRONMENT, **experiments.environment(run)}
        self._progress = progress
        self._task = progress.add_task(
            str(run), total=experiments.conditions[run.condition].num_epochs
        )
        shutil.rmtree(self.serialization_dir, ignore_errors=True)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.log.write_text("")
        self._start()

    def _steps_of(self, run: Run, experiments: Experiments) -> List[Tuple[List[str], int]]:
        """The arguments of each `python -m`, and the code with which it has to end."""
        directory = str(self.serialization_dir)
        if run.config.endswith("soup"):
            return [(["experiments.soups", directory, run.config], 0)]
        config = str(HERE / f"{run.config}.jsonnet")
        train = ["allennlp", "train", config, "--serialization-dir", directory]
        train.append("--file-friendly-logging")
        if run.config.startswith("recovered"):
            return [(train, -signal.SIGKILL), ([*train, "--recover"], 0)]
        if run.config == "snapshots":
            sweep = ["allennlp", "average", "sweep", directory, "--metric", "+accuracy"]
            return [
                (train, 0),
                *(
                    ([*sweep, str(data), "--output-dir", f"{directory}/sweeps/{name}"], 0)
                    for name, data in experiments.dev_and_halves(run.condition).items()
                ),
            ]
        return [(train, 0)]

    def _start(self) -> None:
        arguments, self._expected_code = self._steps.pop(0)
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                cwd=HERE.parent,
                env=self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def is_running(self) -> bool:
        epochs = len(list(self.serialization_dir.glob("metrics_epoch_*.json")))
        self._progress.update(self._task, completed=epochs)
        code = self.process.poll()
        if code == self._expected_code and self._steps:
            self._start()
            return True
        return code is None

    def is_successful(self) -> bool:
        self._progress.remove_task(self._task)
        return self.process.returncode == self._expected_code


def _measured(sweep: Path) -> List[Dict[str, str]]:
    columns = ["kind", "name", "sigma_rel", "effective_window", "residual", "accuracy", "loss"]
    with sweep.open(newline="") as lines:
        return [{column: row[column] for column in columns} for row in csv.DictReader(lines)]


def _treebank(variable: str, ending: str) -> Path:
    folder = os.environ.get(variable)
    names = [f"train.{ending}", f"dev.{ending}"]
    if not folder or not all((Path(folder) / name).is_file() for name in names):
        sys.exit(
            f"{variable} is {folder or 'not set'}, but has to be the folder of the treebank's "
            f"{' and '.join(names)}"
        )
    return Path(folder).resolve()


def main() -> int:
    parser = argparse.ArgumentParser(description="Trains what experiments/README.md reports.")
    parser.add_argument(
        "runs",
        nargs="*",
        metavar="RUN",
        help="only those of a task (tagger), or whose name begins so (tagger-constant)",
    )
    parser.add_argument("--directory", type=Path, default=Path("runs/experiments"))
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, of one thread each")
    arguments = parser.parse_args()
    runs = [
        run
        for run in RUNS
        if not arguments.runs
        or run.task in arguments.runs
        or str(run).startswith(tuple(arguments.runs))
    ]
    if not runs:
        parser.error(f"no run begins so; there are {', '.join(map(str, RUNS))}")
    data = _treebank("UD_EWT", "tsv")
    parses = None
    if any(run.task == "parser" for run in runs):
        parses = _treebank("UD_EWT_PARSES", "conllu")
    # So that the trainings end with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    experiments = Experiments(data, arguments.directory.resolve(), parses=parses)
    failed = experiments.train(runs, arguments.jobs)
    write_report()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
