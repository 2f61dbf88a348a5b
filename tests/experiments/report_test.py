import json
from pathlib import Path
from typing import Any, Dict, List

from experiments.measurements import DEFAULT
from experiments.report import write_report

STARTS = ("one start", "own starts")


def result(
    config: str, seed: int, accuracies: Dict[str, List[float]], condition: str = "overfitting"
) -> Dict[str, Any]:
    evaluations = [
        {"epoch": epoch, "average": weights, "accuracy": accuracy, "loss": 1 - accuracy}
        for weights, values in accuracies.items()
        for epoch, accuracy in enumerate(values, 1)
    ]
    return {
        "condition": condition,
        "config": config,
        "seed": seed,
        "wall_seconds": 120.0,
        "cpu_seconds": 60.0,
        "evaluations": evaluations,
    }


def report(tmp_path: Path, table: str, *results: Dict[str, Any]) -> List[str]:
    """The rows of a table below its heading."""
    (tmp_path / "results").mkdir()
    for r in results:
        path = tmp_path / "results" / f"{r['condition']}-{r['config']}-{r['seed']}.json"
        path.write_text(json.dumps(r))
    readme = tmp_path / "README.md"
    readme.write_text(f"before <!-- table: {table} -->\nold\n<!-- end --> after")
    write_report(tmp_path / "results", readme)
    written, after = readme.read_text().split("<!-- end -->")
    assert written.startswith("before ") and after == " after"
    return written.splitlines()[3:]


def test_rows_hold_the_best_epoch_and_gains_paired_by_seed(tmp_path: Path) -> None:
    default = {DEFAULT: [0.5, 0.5, 0.5, 0.5]}
    full = report(
        tmp_path,
        "overfitting",
        result("constant", 1, {"raw": [0.5, 0.8, 0.7, 0.6], **default}),
        result("constant", 2, {"raw": [0.5, 0.6, 0.9, 0.9], DEFAULT: [0.91, 0.3, 0.3, 0.3]}),
        result("allennlp_exponential", 2, {"raw": [0.5, 0.6], "average": [0.3, 0.8]}),
    )
    assert full == [
        "| O1 | constant | raw | 85.00 ± 7.07 |  | 0.150 ± 0.071 | 2, 3 "
        "| 75.00 ± 21.21 |  | 0.250 ± 0.212 | 2.0 (1.0) |",
        "| O2 | constant | exponential 0.9999 | 70.50 ± 28.99 | -14.50 ± 21.92 | 0.295 ± 0.290 "
        "| 1, 1 | 40.00 ± 14.14 | -35.00 ± 35.36 | 0.600 ± 0.141 | 2.0 (1.0) |",
        "| O3 | constant | AllenNLP's own exponential 0.9999 | 80.00 | -10.00 | 0.200 | 2 "
        "| 80.00 | -10.00 | 0.200 | 2.0 (1.0) |",
    ]
    for picture in ("accuracy_by_epoch.png", "best_by_row.png"):
        assert (tmp_path / "results" / picture).read_bytes()[1:4] == b"PNG"


def test_a_parser_is_measured_by_its_las_and_uas(tmp_path: Path) -> None:
    parser = result("constant", 1, {}, "parser")
    parser["evaluations"] = [
        {"epoch": epoch, "average": "raw", "LAS": las, "UAS": las + 0.1, "loss": 2.0}
        for epoch, las in enumerate([0.7, 0.8, 0.75], 1)
    ]
    (row,) = report(tmp_path, "parser", parser)
    assert row.startswith("| P1 | constant | raw | 80.00 |  | 2.000 | 2 | 75.00 |")
    assert row.endswith("| 90.00 | 85.00 |")


def test_runs_of_one_seed_stand_beside_each_other(tmp_path: Path) -> None:
    assert report(
        tmp_path,
        "recovered",
        result("recovered", 1, {"raw": [0.5, 0.25], "average": [0.75, 0.8]}),
        result("recovered_allennlp_exponential", 1, {"raw": [0.5, 0.2], "average": [0.75, 0.2]}),
    ) == [
        "| 1 | 75.000 / 0.25000 | 50.000 / 0.50000 | 75.000 / 0.25000 | 50.000 / 0.50000 |",
        "| 2 | 80.000 / 0.20000 | 25.000 / 0.75000 | 20.000 / 0.80000 | 20.000 / 0.80000 |",
    ]


def test_a_mean_stands_beside_a_learning_rate_that_falls_over_as_much(tmp_path: Path) -> None:
    assert report(
        tmp_path,
        "instead",
        result("constant", 1, {"raw": [0.9, 0.8], "uniform, last 20%": [0.9, 0.85]}, "tagger"),
        result("last_20", 1, {"raw": [0.9, 0.84]}, "tagger"),
    ) == ["| 20% | 84.00 | 85.00 | +1.00 | +4.00 | +5.00 |"]


def test_what_one_half_chooses_is_measured_on_the_other(tmp_path: Path) -> None:
    run = result("constant", 1, {"raw": [0.5], DEFAULT: [0.6], "polynomial 8": [0.7]}, "tagger")
    halves = {"raw": (0.4, 0.6), DEFAULT: (0.5, 0.7), "polynomial 8": (0.9, 0.5)}
    for evaluation in run["evaluations"]:
        first, second = halves[evaluation["average"]]
        evaluation["halves"] = [{"accuracy": first}, {"accuracy": second}]
    # The first half chooses "polynomial 8", with 0.5 on the second; the second the default, with
    # 0.5 on the first.
    (row,) = report(tmp_path, "choice", run)
    assert row.split(" | ")[2:] == ["50.00", "+10.00", "+10.00", "+0.00", "+20.00 (polynomial 8) |"]


def test_what_is_fed_back_is_paired_with_the_run_without(tmp_path: Path) -> None:
    assert report(
        tmp_path,
        "feedback",
        result("constant", 1, {"raw": [0.5, 0.4], DEFAULT: [0.6, 0.5]}, "tagger"),
        result("switch", 1, {"raw": [0.7, 0.6], "average": [0.55, 0.45]}, "tagger"),
    ) == ["| tagger | Switch EMA | 70.00 | 55.00 | +20.00 | -5.00 | +20.00 | -5.00 |"]


def test_soups_stand_beside_their_best_model(tmp_path: Path) -> None:
    values = {f"{start}, seed {seed}": [0.5 + seed / 100] for start in STARTS for seed in (1, 2, 3)}
    values["one start, uniform soup"] = values["one start, greedy soup"] = [0.54]
    values["own starts, uniform soup"] = [0.1]
    values["own starts, greedy soup"] = [0.53]
    soups = [result(config, 1, values, "tagger") for config in ("raw_soup", "soup")]
    assert report(tmp_path, "soup", *soups) == [
        f"| {weights} | {row}"
        for weights in (DEFAULT, "raw")
        for row in (
            "one start | 51.00, 52.00, 53.00 | 53.00 | 54.00 (+1.00) | 54.00 (+1.00) |",
            "own starts | 51.00, 52.00, 53.00 | 53.00 | 10.00 (-43.00) | 53.00 (+0.00) |",
        )
    ]


def swept(*accuracies: float) -> List[Dict[str, str]]:
    lengths = {"": 0.5, "0.05": accuracies[0], "0.1": accuracies[1], "0.2": accuracies[2]}
    return [
        {
            "kind": "power_function" if length else "raw",
            "name": "power_function" if length else "raw weights",
            "sigma_rel": length,
            "effective_window": "12.3" if length else "",
            "residual": {"": "", "0.2": "0.06"}.get(length, "0.01"),
            "accuracy": str(accuracy),
            "loss": "1",
        }
        for length, accuracy in lengths.items()
    ]


def test_what_a_sweep_of_one_half_chooses_is_measured_on_the_other(tmp_path: Path) -> None:
    run = result("snapshots", 1, {}, "tagger")
    # The longest cannot be made well from the snapshots, so it is never chosen.
    run["sweeps"] = {
        "dev": swept(0.52, 0.53, 0.9),
        "half_0": swept(0.56, 0.52, 0.9),
        "half_1": swept(0.51, 0.54, 0.9),
    }
    assert report(tmp_path, "swept", run) == [
        "| 1 | 0.100 | +3.00 | +3.00 | 0.050, 0.100 | +1.50 | +3.00 |",
        "| all |  | +3.00 | +3.00 |  | +1.50 | +3.00 |",
    ]


def test_lengths_of_a_sweep_are_means_over_the_seeds(tmp_path: Path) -> None:
    runs = [result("snapshots", seed, {}, "tagger") for seed in (1, 2)]
    for run, accuracy in zip(runs, (0.52, 0.54)):
        run["sweeps"] = {data: swept(accuracy, 0.53, 0.9) for data in ("dev", "half_0", "half_1")}
    assert report(tmp_path, "sweep", *runs)[:2] == [
        "| S1 | raw weights |  |  |  | 1.000 ± 0.000 | 50.00 ± 0.00 |",
        "| S2 | power_function | 0.050 | 12 | 0.010 | 1.000 ± 0.000 | 53.00 ± 1.41 |",
    ]
