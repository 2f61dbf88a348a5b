"""
The tables of `experiments/README.md` and its pictures, from what is in `experiments/results`.

    python -m experiments.report
"""

import csv
import json
import re
from pathlib import Path
from statistics import mean, stdev
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from matplotlib.figure import Figure

HERE = Path(__file__).parent
RESULTS = HERE / "results"

CONDITIONS = {
    "full": "all data",
    "noisy": "20% of the tags wrong",
    "tenth": "10% of the data",
}
SCHEDULES = {"constant": "constant", "linear_decay": "linear to 0"}
DEFAULT = "exponential 0.9999"
WEIGHTS = [
    "raw",
    DEFAULT,
    "exponential 0.999",
    "exponential 0.99",
    "exponential 0.999, no warm-up",
    "uniform from half-way",
    "power function 0.05",
    "power function 0.10",
    "power function 0.20",
    "polynomial 8",
    "window, last quarter",
]
DRAWN = [
    "raw",
    DEFAULT,
    "exponential 0.999, no warm-up",
    "uniform from half-way",
    "power function 0.05",
    "power function 0.20",
    "window, last quarter",
]

Result = Dict[str, Any]


class Best(NamedTuple):
    """The evaluation that `best.th` would hold: the first of the highest accuracy."""

    accuracy: float
    loss: float
    epoch: int


def load_results(results: Path) -> List[Result]:
    return [json.loads(path.read_text()) for path in sorted(results.glob("*-*-*.json"))]


def curve(result: Result, weights: str) -> List[Dict[str, Any]]:
    """The evaluations of one average in one run, by epoch."""
    return [e for e in result["evaluations"] if e["average"] == weights]


def best(result: Result, weights: str) -> Best:
    evaluation = max(curve(result, weights), key=lambda e: e["accuracy"])
    return Best(evaluation["accuracy"], evaluation["loss"], evaluation["epoch"])


class Row(NamedTuple):
    """One kind of weights under one learning rate schedule, over its seeds."""

    number: str
    schedule: str
    title: str
    weights: str
    results: Dict[int, Result]

    @property
    def accuracies(self) -> Dict[int, float]:
        """The best accuracy by seed, in percent."""
        return {seed: 100 * best(r, self.weights).accuracy for seed, r in self.results.items()}

    @property
    def last_accuracies(self) -> Dict[int, float]:
        """The accuracy at the last epoch by seed, in percent."""
        return {
            seed: 100 * curve(r, self.weights)[-1]["accuracy"] for seed, r in self.results.items()
        }


def rows(results: Sequence[Result], condition: str) -> List[Row]:
    """All rows of a condition; one of which nothing was run has no results."""
    found: List[Row] = []
    for schedule in SCHEDULES:
        runs = by_seed(results, condition, schedule)
        for weights in WEIGHTS:
            number = f"{condition[0].upper()}{len(found) + 1}"
            found.append(Row(number, schedule, weights, weights, runs))
    return found


def by_seed(results: Sequence[Result], condition: str, config: str) -> Dict[int, Result]:
    return {r["seed"]: r for r in results if (r["condition"], r["config"]) == (condition, config)}


def against(one: Dict[int, float], other: Dict[int, float]) -> str:
    """The differences in the seeds that both have."""
    differences = [one[seed] - other[seed] for seed in one if seed in other]
    return spread(differences, 2, signed=True) if differences else ""


def spread(values: Sequence[float], digits: int, signed: bool = False) -> str:
    sign = "+" if signed else ""
    deviation = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):{sign}.{digits}f}{deviation}"


def condition_table(results: Sequence[Result], condition: str) -> str:
    all_rows = rows(results, condition)
    raw = all_rows[0]
    allennlp = by_seed(results, condition, "allennlp_exponential")
    number = f"{raw.number[0]}{len(all_rows) + 1}"
    all_rows.append(Row(number, "constant", f"AllenNLP's own {DEFAULT}", "average", allennlp))
    table = []
    for row in all_rows:
        runs = list(row.results.values())
        if not runs:
            continue
        bests = [best(run, row.weights) for run in runs]
        last_losses = [curve(run, row.weights)[-1]["loss"] for run in runs]
        wall = mean(run["wall_seconds"] for run in runs) / 60
        cpu = mean(run["cpu_seconds"] for run in runs) / 60
        table.append(
            [
                row.number,
                SCHEDULES[row.schedule],
                row.title,
                spread(list(row.accuracies.values()), 2),
                "" if row is raw else against(row.accuracies, raw.accuracies),
                spread([b.loss for b in bests], 3),
                ", ".join(str(b.epoch) for b in bests),
                spread(list(row.last_accuracies.values()), 2),
                "" if row is raw else against(row.last_accuracies, raw.last_accuracies),
                spread(last_losses, 3),
                f"{wall:.1f} ({cpu:.1f})",
            ]
        )
    header = [
        "row",
        "learning rate",
        "weights",
        "accuracy, %",
        f"against {raw.number}",
        "loss",
        "best epoch, by seed",
        "accuracy at the last epoch",
        f"against {raw.number}",
        "loss",
        "minutes (of CPU)",
    ]
    return markdown(header, table)


def epoch_table(columns: Dict[str, Optional[List[Dict[str, Any]]]]) -> str:
    """Accuracy and loss by epoch of several curves beside each other."""
    there = {name: c for name, c in columns.items() if c}
    epochs = sorted({e["epoch"] for c in there.values() for e in c})
    table = []
    for epoch in epochs:
        line = [str(epoch)]
        for c in there.values():
            at_epoch = [e for e in c if e["epoch"] == epoch]
            line += [f"{100 * e['accuracy']:.3f} / {e['loss']:.5f}" for e in at_epoch] or [""]
        table.append(line)
    return markdown(["epoch", *there], table)


def single(results: Sequence[Result], config: str, weights: str) -> Optional[List[Dict[str, Any]]]:
    found = [r for r in results if (r["condition"], r["config"], r["seed"]) == ("full", config, 1)]
    return curve(found[0], weights) if found else None


def same_table(results: Sequence[Result]) -> str:
    return epoch_table(
        {
            "AllenNLP's own": single(results, "allennlp_exponential", "average"),
            "ours": single(results, "constant", DEFAULT),
            "raw beside AllenNLP's own": single(results, "allennlp_exponential", "raw"),
            "raw beside ours": single(results, "constant", "raw"),
        }
    )


def recovered_table(results: Sequence[Result]) -> str:
    return epoch_table(
        {
            "not interrupted": single(results, "constant", DEFAULT),
            "ours, recovered": single(results, "recovered", "average"),
            "raw beside it": single(results, "recovered", "raw"),
            "AllenNLP's own, recovered": single(
                results, "recovered_allennlp_exponential", "average"
            ),
            "raw beside AllenNLP's own": single(results, "recovered_allennlp_exponential", "raw"),
        }
    )


def sweep_table(results: Path) -> str:
    path = results / "sweep.csv"
    if not path.exists():
        return ""
    with path.open(newline="") as lines:
        measured = list(csv.DictReader(lines))
    columns = {"sigma_rel": ".3f", "effective_window": ".0f", "residual": ".3f", "loss": ".4f"}
    table = []
    for number, m in enumerate(measured, 1):
        cells = [format(float(m[c]), form) if m[c] else "" for c, form in columns.items()]
        table.append([f"S{number}", m["name"], *cells, f"{100 * float(m['accuracy']):.2f}"])
    header = ["row", "weights", "sigma_rel", "effective window, updates", "residual", "loss"]
    return markdown([*header, "accuracy, %"], table)


def markdown(header: Sequence[str], table: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *table]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def accuracy_by_epoch(results: Sequence[Result]) -> Figure:
    panels = _panels(results)
    figure = Figure(figsize=(5 * len(SCHEDULES), 0.7 + 3.3 * len(panels)))
    axes = figure.subplots(len(panels), len(SCHEDULES), squeeze=False, sharey="row")
    for line, condition in zip(axes, panels):
        lowest = 100.0
        for axis, schedule in zip(line, SCHEDULES):
            for row in rows(results, condition):
                if row.schedule != schedule or row.weights not in DRAWN or not row.results:
                    continue
                curves = [curve(r, row.weights) for r in row.results.values()]
                accuracies = [100 * mean(e["accuracy"] for e in at) for at in zip(*curves)]
                lowest = min([lowest, *accuracies[2:]])
                axis.plot(
                    [e["epoch"] for e in curves[0]],
                    accuracies,
                    color="black" if row.weights == "raw" else f"C{DRAWN.index(row.weights)}",
                    linestyle="--" if row.weights == "raw" else "-",
                    marker=".",
                    label=row.weights,
                )
            axis.set_title(f"{CONDITIONS[condition]}, learning rate {SCHEDULES[schedule]}")
            axis.set_xlabel("epoch")
            axis.grid(alpha=0.3)
        # What comes before is far below, and would press all the rest into one line.
        line[0].set_ylim(bottom=lowest - 0.5)
        line[0].set_ylabel("mean dev accuracy, %")
    _legend_below(figure, axes[0][0])
    return figure


def best_by_row(results: Sequence[Result]) -> Figure:
    panels = _panels(results)
    figure = Figure(figsize=(3.2 + 3.6 * len(panels), 5.2))
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axis, condition in zip(axes, panels):
        for row in rows(results, condition):
            if not row.results:
                continue
            number = list(SCHEDULES).index(row.schedule)
            accuracies = list(row.accuracies.values())
            height = WEIGHTS.index(row.weights) + 0.3 * (number - 0.5)
            label = f"learning rate {SCHEDULES[row.schedule]}" if row.weights == "raw" else None
            axis.plot(accuracies, [height] * len(accuracies), "o", color=f"C{number}", alpha=0.45)
            axis.plot(
                mean(accuracies), height, "|", color=f"C{number}", ms=13, mew=2.5, label=label
            )
        axis.set_title(CONDITIONS[condition])
        axis.set_xlabel("best dev accuracy, %")
        axis.grid(alpha=0.3)
    axes[0].set_yticks(range(len(WEIGHTS)))
    axes[0].set_yticklabels(WEIGHTS)
    axes[0].invert_yaxis()
    _legend_below(figure, axes[0], "points: seeds; strokes: their mean")
    return figure


def _panels(results: Sequence[Result]) -> List[str]:
    there = {r["condition"] for r in results if r["config"] in SCHEDULES}
    return [condition for condition in CONDITIONS if condition in there]


def _legend_below(figure: Figure, axis: Any, title: Optional[str] = None) -> None:
    inches = 0.7
    height = figure.get_size_inches()[1]
    figure.tight_layout(rect=(0, inches / height, 1, 1))
    handles, labels = axis.get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncol=4, title=title, frameon=False)


def write_report(results: Path = RESULTS, readme: Path = HERE / "README.md") -> None:
    """
    Writes the tables between their marks in `readme`, and the pictures beside `results`' files.
    """
    loaded = load_results(results)
    tables: List[Tuple[str, str]] = [(c, condition_table(loaded, c)) for c in CONDITIONS]
    tables += [
        ("same", same_table(loaded)),
        ("recovered", recovered_table(loaded)),
        ("sweep", sweep_table(results)),
    ]
    text = readme.read_text(encoding="utf-8")
    for name, table in tables:
        between = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text = between.sub(lambda match, table=table: f"{match[1]}{table}\n{match[2]}", text)
    readme.write_text(text, encoding="utf-8")
    if _panels(loaded):
        accuracy_by_epoch(loaded).savefig(results / "accuracy_by_epoch.png", dpi=110)
        best_by_row(loaded).savefig(results / "best_by_row.png", dpi=110)


if __name__ == "__main__":
    write_report()
