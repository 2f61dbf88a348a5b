"""
What the runs gave: one JSON file each in `experiments/results`, and what is asked of them.
"""

import json
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence

from experiments.plan import CONDITIONS, SCHEDULES

RESULTS = Path(__file__).parent / "results"


RAW = "raw"
DEFAULT = "exponential 0.9999"
WEIGHTS = [
    RAW,
    DEFAULT,
    "exponential 0.999",
    "exponential 0.99",
    "exponential 0.999, no warm-up",
    "exponential, 1%",
    "exponential, 2%",
    "exponential, 5%",
    "uniform from half-way",
    "uniform, last 50%",
    "uniform, last 20%",
    "uniform, last 10%",
    "power function 0.05",
    "power function 0.10",
    "power function 0.20",
    "power function, 1%",
    "power function, 2%",
    "power function, 5%",
    "polynomial 8",
    "window, last quarter",
]

Result = Dict[str, Any]
BySeed = Dict[int, float]


class Evaluation(NamedTuple):
    """
    # Parameters

    value : `float`
        The metric, in percent.
    loss : `float`
    epoch : `int`
        Counted from 1.
    """

    value: float
    loss: float
    epoch: int


def load_results(results: Path) -> List[Result]:
    return [json.loads(path.read_text()) for path in sorted(results.glob("*-*-*.json"))]


def by_seed(results: Sequence[Result], condition: str, config: str) -> Dict[int, Result]:
    return {r["seed"]: r for r in results if (r["condition"], r["config"]) == (condition, config)}


def curve(result: Result, weights: str, metric: Optional[str] = None) -> List[Evaluation]:
    """The evaluations of these weights in a run, by epoch."""
    metric = metric or CONDITIONS[result["condition"]].metric
    return [
        Evaluation(100 * e[metric], e["loss"], e["epoch"])
        for e in result["evaluations"]
        if e["average"] == weights
    ]


def best(result: Result, weights: str) -> Evaluation:
    """The evaluation that `best.th` would hold: the first of the highest value."""
    return max(curve(result, weights), key=lambda e: e.value)


def last(result: Result, weights: str) -> Evaluation:
    return curve(result, weights)[-1]


def on_halves(result: Result) -> List[BySeed]:
    """For either half of the dev set, the metric in percent by weights, after the last epoch."""
    metric = CONDITIONS[result["condition"]].metric
    return [
        {
            e["average"]: 100 * e["halves"][number][metric]
            for e in result["evaluations"]
            if "halves" in e
        }
        for number in (0, 1)
    ]


class Row(NamedTuple):
    """One kind of weights of one kind of runs, over their seeds."""

    number: str
    config: str
    weights: str
    runs: Dict[int, Result]

    @property
    def bests(self) -> BySeed:
        return {seed: best(run, self.weights).value for seed, run in self.runs.items()}

    @property
    def lasts(self) -> BySeed:
        return {seed: last(run, self.weights).value for seed, run in self.runs.items()}


def rows(
    results: Sequence[Result], condition: str, configs: Sequence[str] = tuple(SCHEDULES)
) -> Iterator[Row]:
    number = 0
    for config in configs:
        runs = by_seed(results, condition, config)
        there = {e["average"] for run in runs.values() for e in run["evaluations"]}
        for weights in WEIGHTS:
            if weights in there:
                number += 1
                yield Row(f"{CONDITIONS[condition].letter}{number}", config, weights, runs)


def against(one: BySeed, other: BySeed) -> str:
    """The differences in the seeds that both have."""
    differences = [one[seed] - other[seed] for seed in one if seed in other]
    return spread(differences, 2, signed=True) if differences else ""


def spread(values: Sequence[float], digits: int, signed: bool = False) -> str:
    sign = "+" if signed else ""
    deviation = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):{sign}.{digits}f}{deviation}"
