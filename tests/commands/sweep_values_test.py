import csv
from pathlib import Path
from typing import Any, List

import pytest
from allennlp.common.checks import ConfigurationError

from allennlp_ema.commands.sweep_values import RAW, SYNTHESIZED, Measurement, SweepValues

RAW_WEIGHTS = Measurement(
    RAW, "raw weights", {"accuracy": 0.99, "note": "a", "tags": [1, 2]}, evaluation="r"
)


def measured(value: float, accuracy: float, **more: Any) -> Measurement:
    measurement = Measurement(
        SYNTHESIZED,
        "power_function",
        {"accuracy": accuracy, "note": "not a number"},
        1200,
        value,
        effective_window=1000.0 * value,
        residual=0.01,
        noise_amplification=1.5,
        evaluation=f"e{value}",
    )
    return measurement._replace(**more)


def rows(path: Path) -> List[List[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(file))


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "sweep.csv"


def values(path: Path, key: str = "sigma_rel", data: str = "dev.tsv", force: bool = False):
    return SweepValues(path, key, data, force)


HEADER = ["kind", "name", "sigma_rel", "num_updates", "effective_window", "residual"]
HEADER += ["noise_amplification", "data", "evaluation", "accuracy"]


def test_all_is_written_in_full_after_each_measurement(path):
    sweep = values(path)
    sweep.add(RAW_WEIGHTS)
    raw = ["raw", "raw weights", "", "", "", "", "", "dev.tsv", "r", "0.99"]
    assert rows(path) == [HEADER, raw]
    sweep.add(measured(0.1234567891234, 2 / 3))
    assert rows(path) == [
        HEADER,
        raw,
        ["synthesized", "power_function", "0.1234567891234", "1200", "123.4567891234", "0.01"]
        + ["1.5", "dev.tsv", "e0.1234567891234", str(2 / 3)],
    ]
    assert sweep.measurements == [RAW_WEIGHTS, measured(0.1234567891234, 2 / 3)]
    assert [path.name for path in path.parent.iterdir()] == ["sweep.csv"]


def test_what_was_evaluated_is_known_to_the_next(path):
    sweep = values(path)
    sweep.add(measured(0.1, 2 / 3))
    assert sweep.metrics_of("e0.1") == {"accuracy": 2 / 3}
    following = values(path)
    assert following.metrics_of("e0.1") == {"accuracy": 2 / 3}
    assert following.metrics_of("e0.2") == {} and following.measurements == []


def test_other_averages_stand_behind_and_nothing_twice(path):
    first = values(path)
    first.add(measured(0.1, 0.5))
    first.add(measured(0.2, 0.6))
    other = values(path, key="decay")
    other.add(measured(0.9, 0.7, name="exponential", metrics={"loss": 2.0}))
    again = values(path)
    # The same average again, whose snapshots are others now.
    again.add(measured(0.2, 0.8, evaluation="new"))
    with path.open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [(r["sigma_rel"], r["decay"], r["accuracy"], r["loss"]) for r in found] == [
        ("0.2", "", "0.8", ""),
        ("", "0.9", "", "2.0"),
        ("0.1", "", "0.5", ""),
    ]
    final = values(path)
    assert final.metrics_of("e0.9") == {"loss": 2.0}
    assert final.metrics_of("new") == {"accuracy": 0.8}


def test_of_other_data_nothing_is_kept_but_what_has_the_same_content(path):
    values(path, key="decay", data="dev.tsv").add(measured(0.9, 0.5))
    message = "exists already and is of dev.tsv, not of copy.tsv; --force overwrites it"
    with pytest.raises(ConfigurationError, match=message):
        values(path, data="copy.tsv")
    other = values(path, data="copy.tsv", force=True)
    assert other.metrics_of("e0.9") == {"accuracy": 0.5}
    other.add(RAW_WEIGHTS)
    assert [row[:2] for row in rows(path)] == [["kind", "name"], ["raw", "raw weights"]]
    assert rows(path)[0] == HEADER


@pytest.mark.parametrize("content", [b"", b"precious", b"kind,name,sigma_rel\n", b"\xff\x00"])
def test_what_no_sweep_wrote_is_overwritten_by_force_alone(content, path):
    path.write_bytes(content)
    with pytest.raises(ConfigurationError, match="no sweep can go on from it; --force overwr"):
        values(path)
    assert path.read_bytes() == content
    values(path, force=True).add(RAW_WEIGHTS)
    assert len(rows(path)) == 2


def test_lines_that_are_not_whole_are_evaluated_again(path):
    sweep = values(path)
    for value in (0.1, 0.2, 0.3):
        sweep.add(measured(value, 0.5))
    lines = path.read_text().splitlines()
    lines[1] = lines[1][: lines[1].index("dev.tsv")]
    lines[2] += "x"
    lines[3] += ",1"
    path.write_text("\n".join(lines))
    found = values(path)
    assert [found.metrics_of(f"e{value}") for value in (0.1, 0.2, 0.3)] == [{}, {}, {}]
