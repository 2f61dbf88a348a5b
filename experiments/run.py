"""
Trains what `experiments/README.md` reports, and writes its tables and pictures: see there.

    UD_EWT=... python -m experiments.run [RUN ...]
"""

import argparse
import json
import math
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Dict, Iterable, List, NamedTuple, Optional, Tuple

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from experiments.report import RESULTS, write_report

HERE = Path(__file__).parent
BATCH_SIZE = 64
FRACTION = 0.1
NOISE = 0.2


class Condition(NamedTuple):
    """For how long, in epochs, and how often every average is evaluated."""

    num_epochs: int
    evaluate_every: int = 1


CONDITIONS = {
    "full": Condition(num_epochs=6),
    "noisy": Condition(num_epochs=6),
    "tenth": Condition(num_epochs=20, evaluate_every=4),
}


class Run(NamedTuple):
    condition: str
    config: str
    seed: int

    def __str__(self) -> str:
        return f"{self.condition}-{self.config}-{self.seed}"


SEEDS = (1, 2, 3)
SCHEDULES = ("constant", "linear_decay")
# What matters most comes first, for whoever stops it early.
RUNS = [
    *(Run("full", schedule, seed) for schedule in SCHEDULES for seed in SEEDS),
    *(Run("noisy", schedule, 1) for schedule in SCHEDULES),
    Run("full", "recovered", 1),
    Run("full", "recovered_allennlp_exponential", 1),
    Run("full", "snapshots", 1),
    *(Run("tenth", schedule, 1) for schedule in SCHEDULES),
    *(Run("noisy", schedule, 2) for schedule in SCHEDULES),
    *(Run("tenth", schedule, 2) for schedule in SCHEDULES),
    *(Run("full", "allennlp_exponential", seed) for seed in SEEDS),
    *(Run(condition, schedule, 3) for condition in ("noisy", "tenth") for schedule in SCHEDULES),
]

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
        The treebank's directory.
    directory : `Path`
        Where the runs and the changed training data go.
    results : `Path`
        Where the figures of each finished run go.
    conditions : `Dict[str, Condition]`, optional (default = `CONDITIONS`)
    """

    def __init__(
        self,
        data: Path,
        directory: Path,
        results: Path = RESULTS,
        conditions: Optional[Dict[str, Condition]] = None,
    ) -> None:
        self.data = data
        self.directory = directory
        self.results = results
        self.conditions = conditions or CONDITIONS
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

    def training_data(self, condition: str) -> Path:
        original = self.data / "train.tsv"
        if condition == "full":
            return original
        changed = self.directory / f"{condition}.tsv"
        if not changed.exists():
            with original.open(encoding="utf-8") as lines:
                sentences = [line.rstrip("\n") for line in lines]
            changed.parent.mkdir(parents=True, exist_ok=True)
            partial = changed.with_suffix(".partial")
            change = {"noisy": with_noisy_tags, "tenth": a_tenth_of}[condition]
            partial.write_text("".join(s + "\n" for s in change(sentences)), encoding="utf-8")
            partial.replace(changed)
        return changed

    def environment(self, run: Run) -> Dict[str, str]:
        """What the configurations and the package take from outside."""
        condition = self.conditions[run.condition]
        train_data = self.training_data(run.condition)
        with train_data.open(encoding="utf-8") as sentences:
            updates_per_epoch = math.ceil(sum(1 for _ in sentences) / BATCH_SIZE)
        return {
            "UD_EWT": str(self.data),
            "TRAIN_DATA": str(train_data),
            "NUM_EPOCHS": str(condition.num_epochs),
            "NUM_UPDATES": str(updates_per_epoch * condition.num_epochs),
            "EVALUATE_EVERY": str(condition.evaluate_every),
            "SEED": str(run.seed),
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
        partial = self.results / f"{run}.partial"
        partial.write_text(json.dumps(result, indent=1) + "\n")
        partial.replace(self.results / f"{run}.json")
        for sweep in serialization_dir.glob("sweep.[cp]*"):
            shutil.copy(str(sweep), str(self.results))
        (serialization_dir / "finished").touch()


class Training:
    """One run: an `allennlp train` in a process of its own, and what comes after it."""

    def __init__(self, experiments: Experiments, run: Run, progress: Progress) -> None:
        self.serialization_dir = experiments.directory / str(run)
        self.log = experiments.directory / f"{run}.log"
        self._steps = self._steps_of(run, experiments.data)
        self._environment = {**os.environ, **ENVIRONMENT, **experiments.environment(run)}
        self._progress = progress
        self._task = progress.add_task(
            str(run), total=experiments.conditions[run.condition].num_epochs
        )
        shutil.rmtree(self.serialization_dir, ignore_errors=True)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.log.write_text("")
        self._start()

    def _steps_of(self, run: Run, data: Path) -> List[Tuple[List[str], int]]:
        """The arguments of each call of `allennlp`, and the code with which it has to end."""
        train = ["train", str(HERE / f"{run.config}.jsonnet"), "--file-friendly-logging"]
        train += ["--serialization-dir", str(self.serialization_dir)]
        if run.config.startswith("recovered"):
            return [(train, -signal.SIGKILL), ([*train, "--recover"], 0)]
        if run.config == "snapshots":
            sweep = ["average", "sweep", str(self.serialization_dir), str(data / "dev.tsv")]
            return [(train, 0), ([*sweep, "--metric", "+accuracy"], 0)]
        return [(train, 0)]

    def _start(self) -> None:
        arguments, self._expected_code = self._steps.pop(0)
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "allennlp", *arguments],
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


def with_noisy_tags(sentences: List[str], fraction: float = NOISE) -> List[str]:
    """`fraction` of all tags, drawn at random, become another tag, drawn evenly from the others."""
    draw = random.Random(0)
    words = [[word.rsplit("###", 1) for word in line.split("\t")] for line in sentences]
    tags = sorted({tag for sentence in words for _, tag in sentence})
    positions = [(s, w) for s, sentence in enumerate(words) for w in range(len(sentence))]
    for s, w in draw.sample(positions, round(fraction * len(positions))):
        words[s][w][1] = draw.choice([tag for tag in tags if tag != words[s][w][1]])
    return ["\t".join("###".join(word) for word in sentence) for sentence in words]


def a_tenth_of(sentences: List[str], fraction: float = FRACTION) -> List[str]:
    """`fraction` of the sentences, drawn at random, in their order."""
    chosen = random.Random(0).sample(range(len(sentences)), round(fraction * len(sentences)))
    return [sentences[number] for number in sorted(chosen)]


def main() -> int:
    parser = argparse.ArgumentParser(description="Trains what experiments/README.md reports.")
    parser.add_argument(
        "runs", nargs="*", metavar="RUN", help="only runs whose name begins so, e.g. full-constant"
    )
    parser.add_argument("--directory", type=Path, default=Path("runs/experiments"))
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, of one thread each")
    arguments = parser.parse_args()
    data = os.environ.get("UD_EWT")
    if not data or not all((Path(data) / name).is_file() for name in ("train.tsv", "dev.tsv")):
        sys.exit(
            f"UD_EWT is {data or 'not set'}, but has to be the folder of the treebank's train.tsv "
            "and dev.tsv"
        )
    runs = [run for run in RUNS if not arguments.runs or str(run).startswith(tuple(arguments.runs))]
    if not runs:
        parser.error(f"no run begins so; there are {', '.join(map(str, RUNS))}")
    # So that the trainings end with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    experiments = Experiments(Path(data).resolve(), arguments.directory.resolve())
    failed = experiments.train(runs, arguments.jobs)
    write_report()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
