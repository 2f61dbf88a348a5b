"""
The tables of `experiments/README.md` and its pictures, from what is in `experiments/results`.

    python -m experiments.report
"""

import csv
import re
from pathlib import Path
from statistics import mean
from typing import Dict, List, Optional, Sequence

from experiments.measurements import (
    DEFAULT,
    RAW,
    RESULTS,
    BySeed,
    Evaluation,
    Result,
    Row,
    against,
    best,
    by_seed,
    curve,
    last,
    load_results,
    on_halves,
    rows,
    spread,
)
from experiments.pictures import accuracy_by_epoch, best_by_row, panels_of
from experiments.plan import CONDITIONS, SCHEDULES, SEEDS

README = Path(__file__).parent / "README.md"
# What `moving_average_selection` would choose from: the raw weights and a bank of three.
BANK_OF_THREE = (RAW, DEFAULT, "power function 0.05", "power function 0.20")


def condition_table(results: Sequence[Result], condition: str) -> str:
    all_rows = list(rows(results, condition))
    allennlp = by_seed(results, condition, "allennlp_exponential")
    if allennlp:
        number = f"{CONDITIONS[condition].letter}{len(all_rows) + 1}"
        all_rows.append(Row(number, "constant", "average", allennlp))
    if not all_rows:
        return ""
    raw = all_rows[0]
    table = []
    for row in all_rows:
        runs = row.runs.values()
        own = row.weights == "average"
        table.append(
            [
                row.number,
                SCHEDULES[row.config],
                f"AllenNLP's own {DEFAULT}" if own else row.weights,
                spread(list(row.bests.values()), 2),
                "" if row is raw else against(row.bests, raw.bests),
                spread([best(run, row.weights).loss for run in runs], 3),
                ", ".join(str(best(run, row.weights).epoch) for run in runs),
                spread(list(row.lasts.values()), 2),
                "" if row is raw else against(row.lasts, raw.lasts),
                spread([last(run, row.weights).loss for run in runs], 3),
                _minutes(runs),
            ]
        )
    metric = CONDITIONS[condition].metric
    header = ["row", "learning rate", "weights", f"{metric}, %", f"against {raw.number}", "loss"]
    header += ["best epoch, by seed", f"{metric} at the last epoch", f"against {raw.number}"]
    return markdown([*header, "loss", "minutes (of CPU)"], table)


def _minutes(runs: Sequence[Result]) -> str:
    wall, cpu = (mean(run[key] for run in runs) / 60 for key in ("wall_seconds", "cpu_seconds"))
    return f"{wall:.1f} ({cpu:.1f})"


def instead_table(results: Sequence[Result], condition: str) -> str:
    """Averaging in the place of decay: at the last epoch, over as much of the training."""
    constant = by_seed(results, condition, "constant")
    table = []
    for percent in (50, 20, 10):
        decayed = by_seed(results, condition, f"last_{percent}")
        if not decayed or not constant:
            continue
        raw, falling, averaged = (
            {seed: last(run, weights).value for seed, run in runs.items()}
            for runs, weights in (
                (constant, RAW),
                (decayed, RAW),
                (constant, f"uniform, last {percent}%"),
            )
        )
        table.append(
            [
                f"{percent}%",
                spread(list(falling.values()), 2),
                spread(list(averaged.values()), 2),
                against(averaged, falling),
                against(falling, raw),
                against(averaged, raw),
            ]
        )
    header = ["last part", "raw, the learning rate falls to 0", "mean, constant learning rate"]
    header += ["mean against falling", "falling against raw at a constant rate", "mean against it"]
    return markdown(header, table) if table else ""


def choice_table(results: Sequence[Result]) -> str:
    """What a choice on one half of the dev set is worth on the other, after the last epoch."""
    table = []
    for condition, described in CONDITIONS.items():
        for config, schedule in SCHEDULES.items():
            runs = by_seed(results, condition, config)
            halves = {seed: on_halves(run) for seed, run in runs.items()}
            if not halves or not all(half for each in halves.values() for half in each):
                continue
            raw = {seed: mean(half[RAW] for half in each) for seed, each in halves.items()}
            default = {seed: mean(half[DEFAULT] for half in each) for seed, each in halves.items()}
            names = list(next(iter(halves.values()))[0])
            three = [name for name in BANK_OF_THREE if name in names]
            hindsight = max(
                names,
                key=lambda name: mean(half[name] for each in halves.values() for half in each),
            )
            fixed = {seed: mean(half[hindsight] for half in each) for seed, each in halves.items()}
            table.append(
                [
                    described.title,
                    schedule,
                    spread(list(raw.values()), 2),
                    against(default, raw),
                    against(_chosen(halves, three), raw),
                    against(_chosen(halves, names), raw),
                    f"{against(fixed, raw)} ({hindsight})",
                ]
            )
    header = ["condition", "learning rate", "raw", DEFAULT, "chosen of raw and three averages"]
    header += ["chosen of raw and all", "the best of all in hindsight"]
    return markdown(header, table) if table else ""


def _chosen(halves: Dict[int, List[BySeed]], names: Sequence[str]) -> BySeed:
    return {
        seed: mean(
            there[max(names, key=lambda name: here[name])]
            for here, there in ((one, other), (other, one))
        )
        for seed, (one, other) in halves.items()
    }


def feedback_table(results: Sequence[Result]) -> str:
    table = []
    for condition, described in CONDITIONS.items():
        constant = by_seed(results, condition, "constant")
        for config, method in {"switch": "Switch EMA", "lookahead": "Lookahead"}.items():
            runs = by_seed(results, condition, config)
            if not runs or not constant:
                continue
            rest = Row("", config, RAW, runs), Row("", config, "average", runs)
            raw, average = Row("", "", RAW, constant), Row("", "", DEFAULT, constant)
            table.append(
                [
                    described.title,
                    method,
                    *(spread(list(row.bests.values()), 2) for row in rest),
                    against(rest[0].bests, raw.bests),
                    against(rest[1].bests, average.bests),
                    against(rest[0].lasts, raw.lasts),
                    against(rest[1].lasts, average.lasts),
                ]
            )
    header = ["condition", "fed back by", "raw, %", "average, %", "raw against raw without"]
    header += [f"average against {DEFAULT} without", "at the last epoch: raw", "average"]
    return markdown(header, table) if table else ""


def soup_table(results: Sequence[Result]) -> str:
    table = []
    for run in by_seed(results, "tagger", "soup").values():
        measured = {e["average"]: 100 * e["accuracy"] for e in run["evaluations"]}
        for start in ("one start", "own starts"):
            models = [measured[f"{start}, seed {seed}"] for seed in SEEDS]
            soups = [measured[f"{start}, {kind} soup"] for kind in ("uniform", "greedy")]
            table.append(
                [
                    start,
                    ", ".join(f"{value:.2f}" for value in models),
                    f"{max(models):.2f}",
                    *(f"{soup:.2f} ({soup - max(models):+.2f})" for soup in soups),
                ]
            )
    header = ["three models from", "accuracy, %", "the best of them", "uniform soup", "greedy soup"]
    return markdown(header, table) if table else ""


def epoch_table(columns: Dict[str, Optional[List[Evaluation]]]) -> str:
    """Accuracy and loss by epoch of several curves beside each other."""
    there = {name: c for name, c in columns.items() if c}
    epochs = sorted({e.epoch for c in there.values() for e in c})
    table = []
    for epoch in epochs:
        line = [str(epoch)]
        for c in there.values():
            line += [f"{e.value:.3f} / {e.loss:.5f}" for e in c if e.epoch == epoch] or [""]
        table.append(line)
    return markdown(["epoch", *there], table)


def single(results: Sequence[Result], config: str, weights: str) -> Optional[List[Evaluation]]:
    found = by_seed(results, "overfitting", config).get(1)
    return curve(found, weights) if found else None


def same_table(results: Sequence[Result]) -> str:
    return epoch_table(
        {
            "AllenNLP's own": single(results, "allennlp_exponential", "average"),
            "ours": single(results, "constant", DEFAULT),
            "raw beside AllenNLP's own": single(results, "allennlp_exponential", RAW),
            "raw beside ours": single(results, "constant", RAW),
        }
    )


def recovered_table(results: Sequence[Result]) -> str:
    own = "recovered_allennlp_exponential"
    return epoch_table(
        {
            "not interrupted": single(results, "constant", DEFAULT),
            "ours, recovered": single(results, "recovered", "average"),
            "raw beside it": single(results, "recovered", RAW),
            "AllenNLP's own, recovered": single(results, own, "average"),
            "raw beside AllenNLP's own": single(results, own, RAW),
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


def write_report(results: Path = RESULTS, readme: Path = README) -> None:
    """
    Writes the tables between their marks in `readme`, and the pictures beside `results`' files.
    """
    loaded = load_results(results)
    tables = {condition: condition_table(loaded, condition) for condition in CONDITIONS}
    tables.update(
        instead=instead_table(loaded, "tagger"),
        choice=choice_table(loaded),
        feedback=feedback_table(loaded),
        soup=soup_table(loaded),
        same=same_table(loaded),
        recovered=recovered_table(loaded),
        sweep=sweep_table(results),
    )
    text = readme.read_text(encoding="utf-8")
    for name, table in tables.items():
        between = re.compile(rf"(<!-- table: {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        text = between.sub(lambda match, table=table: f"{match[1]}{table}\n{match[2]}", text)
    readme.write_text(text, encoding="utf-8")
    if panels_of(loaded):
        accuracy_by_epoch(loaded).savefig(results / "accuracy_by_epoch.png", dpi=110)
        best_by_row(loaded).savefig(results / "best_by_row.png", dpi=110)


if __name__ == "__main__":
    write_report()
