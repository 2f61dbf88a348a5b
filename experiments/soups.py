"""
Trains three models from one start and three from different ones, and measures their soups.

    python -m experiments.soups FOLDER KIND
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, List

from experiments.evaluate_every_average import METRICS
from experiments.plan import SEEDS

HERE = Path(__file__).parent
# By kind, what `allennlp train` changes in the models' configurations.
OVERRIDES = {"soup": "{}", "raw_soup": '{"trainer.moving_average": null}'}


class Soups:
    """
    # Parameters

    folder : `Path`
        Where the models and `evaluations.json` go. The environment says what is trained.
    kind : `str`
        `"soup"`, of models that are averages, or `"raw_soup"`, of raw weights.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder = folder
        self.overrides = OVERRIDES[kind]
        self.dev = os.environ["DEV_DATA"]
        self.num_epochs = int(os.environ["NUM_EPOCHS"])
        self.evaluations: List[Any] = []

    def run(self) -> None:
        wall, cpu = time.perf_counter(), os.times().children_user
        start = self._train("start", "start", 1, 1)
        one_start = [
            self._train(f"one_start-{seed}", "from_start", seed, self.num_epochs - 1, start)
            for seed in SEEDS
        ]
        own_starts = [
            self._train(f"own_starts-{seed}", "start", seed, self.num_epochs) for seed in SEEDS
        ]
        for title, models in {"one start": one_start, "own starts": own_starts}.items():
            for seed, model in zip(SEEDS, models):
                self._evaluate(f"{title}, seed {seed}", model)
            for kind, options in {"uniform": [], "greedy": ["--greedy", self.dev]}.items():
                soup = self.folder / f"{kind} {title}.tar.gz"
                archives = [str(model) for model in models]
                self._allennlp("average", "soup", *archives, "-o", str(soup), *options)
                self._evaluate(f"{title}, {kind} soup", soup)
        figures = {
            "wall_seconds": [time.perf_counter() - wall],
            "cpu_seconds": [os.times().children_user - cpu],
            "evaluations": self.evaluations,
        }
        (self.folder / "evaluations.json").write_text(json.dumps(figures))

    def _train(
        self, name: str, config: str, seed: int, num_epochs: int, start: Path = Path()
    ) -> Path:
        directory = self.folder / name
        environment = {"SEED": str(seed), "NUM_EPOCHS": str(num_epochs), "START": str(start)}
        options = ["--serialization-dir", str(directory), "--overrides", self.overrides]
        self._allennlp("train", str(HERE / f"{config}.jsonnet"), *options, **environment)
        return directory / "model.tar.gz"

    def _evaluate(self, title: str, model: Path) -> None:
        output = self.folder / "metrics.json"
        self._allennlp("evaluate", str(model), self.dev, "--output-file", str(output))
        metrics = json.loads(output.read_text())
        measured = {name: metrics[name] for name in METRICS if name in metrics}
        self.evaluations.append({"epoch": self.num_epochs, "average": title, **measured})

    def _allennlp(self, *arguments: str, **environment: str) -> None:
        subprocess.run(
            [sys.executable, "-m", "allennlp", *arguments],
            env={**os.environ, **environment},
            check=True,
        )


if __name__ == "__main__":
    Soups(Path(sys.argv[1]), sys.argv[2]).run()
