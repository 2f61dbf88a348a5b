"""
The tables of `experiments/README.md` and its pictures, from what is in `experiments/results`.

    python -m experiments.report
"""

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
                *_of_second_metric(row, condition),
            ]
        )
    metric, second_metric = CONDITIONS[condition].metric, CONDITIONS[condition].second_metric
    header = ["row", "learning rate", "weights", f"{metric}, %", f"against {raw.number}", "loss"]
    header += ["best epoch, by seed", f"{metric} at the last epoch", f"against {raw.number}"]
    header += ["loss", "minutes (of CPU)"]
    if second_metric:
        header += [f"{second_metric}, %", f"{second_metric} at the last epoch"]
    return markdown(header, table)


def _of_second_metric(row: Row, condition: str) -> List[str]:
    metric = CONDITIONS[condition].second_metric
    if metric is None:
        return []
    curves = {seed: curve(run, row.weights, metric) for seed, run in row.runs.items()}
    at_best = [
        next(e.value for e in curves[seed] if e.epoch == best(run, row.weights).epoch)
        for seed, run in row.runs.items()
    ]
    return [spread(at_best, 2), spread([c[-1].value for c in curves.values()], 2)]


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
    for config, weights in {"soup": DEFAULT, "raw_soup": RAW}.items():
        for run in by_seed(results, "tagger", config).values():
            measured = {e["average"]: 100 * e["accuracy"] for e in run["evaluations"]}
            for start in ("one start", "own starts"):
                models = [measured[f"{start}, seed {seed}"] for seed in SEEDS]
                soups = [measured[f"{start}, {kind} soup"] for kind in ("uniform", "greedy")]
                each = ", ".join(f"{value:.2f}" for value in models)
                compared = [f"{soup:.2f} ({soup - max(models):+.2f})" for soup in soups]
                table.append([weights, start, each, f"{max(models):.2f}", *compared])
    header = ["weights", "three models from", "accuracy, %", "the best of them", "uniform soup"]
    return markdown([*header, "greedy soup"], table) if table else ""


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


def sweep_table(results: Sequence[Result]) -> str:
    """The lengths of a sweep over the dev set, after the last update."""
    runs = by_seed(results, "tagger", "snapshots")
    columns = {"sigma_rel": ".3f", "effective_window": ".0f", "residual": ".3f"}
    table = []
    for number, of_seeds in enumerate(zip(*(run["sweeps"]["dev"] for run in runs.values())), 1):
        first = of_seeds[0]
        cells = [format(float(first[c]), form) if first[c] else "" for c, form in columns.items()]
        losses, accuracies = ([float(m[c]) for m in of_seeds] for c in ("loss", "accuracy"))
        accuracy = spread([100 * value for value in accuracies], 2)
        table.append([f"S{number}", first["name"], *cells, spread(losses, 3), accuracy])
    header = ["row", "weights", "sigma_rel", "effective window, updates", "residual", "loss"]
    return markdown([*header, "accuracy, %"], table) if table else ""


def swept_table(results: Sequence[Result]) -> str:
    """What the length that a sweep chooses is worth, on the data that chose it and on other."""
    gains = {
        seed: {data: _gains_by_length(measured) for data, measured in run["sweeps"].items()}
        for seed, run in by_seed(results, "tagger", "snapshots").items()
    }
    if not gains:
        return ""
    fixed = max(
        next(iter(gains.values()))["dev"],
        key=lambda length: mean(of_seed["dev"][length] for of_seed in gains.values()),
    )
    table, columns = [], []
    for seed, of_seed in gains.items():
        chosen = {data: max(by_length, key=by_length.get) for data, by_length in of_seed.items()}
        half_0, half_1 = of_seed["half_0"], of_seed["half_1"]
        columns.append(
            [
                of_seed["dev"][chosen["dev"]],
                of_seed["dev"][fixed],
                mean([half_0[chosen["half_1"]], half_1[chosen["half_0"]]]),
                mean([half_0[fixed], half_1[fixed]]),
            ]
        )
        on_dev, on_halves = chosen.pop("dev"), ", ".join(chosen.values())
        gained = [f"{gain:+.2f}" for gain in columns[-1]]
        table.append([str(seed), on_dev, *gained[:2], on_halves, *gained[2:]])
    gained = [spread(column, 2, signed=True) for column in zip(*columns)]
    table.append(["all", "", *gained[:2], "", *gained[2:]])
    header = ["seed", "chosen on dev", "on dev", f"{fixed} there", "chosen on either half"]
    return markdown([*header, "on the other half", f"{fixed} there"], table)


def _gains_by_length(measured: Sequence[Dict[str, str]]) -> Dict[str, float]:
    """By sigma_rel, how much a power function is above the raw weights, in percent."""
    raw = next(float(m["accuracy"]) for m in measured if m["kind"] == "raw")
    return {
        f"{float(m['sigma_rel']):.3f}": 100 * (float(m["accuracy"]) - raw)
        for m in measured
        # What `sweep` takes for the best: it can be made well enough from the snapshots.
        if m["residual"] and float(m["residual"]) <= 0.05
    }


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
        sweep=sweep_table(loaded),
        swept=swept_table(loaded),
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
