import json
from pathlib import Path
from typing import Any, Dict, List, Tuple

from experiments.report import WEIGHTS, write_report


def result(config: str, seed: int, accuracies: Dict[str, List[float]]) -> Dict[str, Any]:
    evaluations = [
        {"epoch": epoch, "average": weights, "accuracy": accuracy, "loss": 1 - accuracy}
        for weights, values in accuracies.items()
        for epoch, accuracy in enumerate(values, 1)
    ]
    return {
        "condition": "full",
        "config": config,
        "seed": seed,
        "wall_seconds": 120.0,
        "cpu_seconds": 60.0,
        "evaluations": evaluations,
    }


def report(tmp_path: Path, *results: Dict[str, Any]) -> Tuple[List[str], List[str]]:
    """The rows of the tables "full" and "recovered" below their headings."""
    (tmp_path / "results").mkdir()
    for r in results:
        path = tmp_path / "results" / f"full-{r['config']}-{r['seed']}.json"
        path.write_text(json.dumps(r))
    readme = tmp_path / "README.md"
    mark = "<!-- table: {} -->\nold\n<!-- end -->"
    readme.write_text(f"before {mark.format('full')} between {mark.format('recovered')} after")
    write_report(tmp_path / "results", readme)
    full, recovered, after = readme.read_text().split("<!-- end -->")
    assert full.startswith("before ") and recovered.startswith(" between ") and after == " after"
    return full.splitlines()[3:], recovered.splitlines()[3:]


def test_rows_hold_the_best_epoch_and_gains_paired_by_seed(tmp_path: Path) -> None:
    others = {weights: [0.5, 0.5, 0.5, 0.5] for weights in WEIGHTS[1:]}
    full, _ = report(
        tmp_path,
        result("constant", 1, {"raw": [0.5, 0.8, 0.7, 0.6], **others}),
        result(
            "constant",
            2,
            {"raw": [0.5, 0.6, 0.9, 0.9], **others, WEIGHTS[1]: [0.91, 0.3, 0.3, 0.3]},
        ),
        result("allennlp_exponential", 2, {"raw": [0.5, 0.6], "average": [0.3, 0.8]}),
    )
    assert [row.split(" | ")[2] for row in full] == [*WEIGHTS, f"AllenNLP's own {WEIGHTS[1]}"]
    assert full[0] == (
        "| F1 | constant | raw | 85.00 ± 7.07 |  | 0.150 ± 0.071 | 2, 3 "
        "| 75.00 ± 21.21 |  | 0.250 ± 0.212 | 2.0 (1.0) |"
    )
    assert full[1] == (
        "| F2 | constant | exponential 0.9999 | 70.50 ± 28.99 | -14.50 ± 21.92 | 0.295 ± 0.290 "
        "| 1, 1 | 40.00 ± 14.14 | -35.00 ± 35.36 | 0.600 ± 0.141 | 2.0 (1.0) |"
    )
    assert full[-1] == (
        "| F23 | constant | AllenNLP's own exponential 0.9999 | 80.00 | -10.00 | 0.200 | 2 "
        "| 80.00 | -10.00 | 0.200 | 2.0 (1.0) |"
    )
    for picture in ("accuracy_by_epoch.png", "best_by_row.png"):
        assert (tmp_path / "results" / picture).read_bytes()[1:4] == b"PNG"


def test_runs_of_one_seed_stand_beside_each_other(tmp_path: Path) -> None:
    _, recovered = report(
        tmp_path,
        result("recovered", 1, {"raw": [0.5, 0.25], "average": [0.75, 0.8]}),
        result("recovered_allennlp_exponential", 1, {"raw": [0.5, 0.2], "average": [0.75, 0.2]}),
    )
    assert recovered == [
        "| 1 | 75.000 / 0.25000 | 50.000 / 0.50000 | 75.000 / 0.25000 | 50.000 / 0.50000 |",
        "| 2 | 80.000 / 0.20000 | 25.000 / 0.75000 | 20.000 / 0.80000 | 20.000 / 0.80000 |",
    ]
