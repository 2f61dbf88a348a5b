"""
The benchmark suite at tiny sizes: it runs, compares like with like and reports what it measured.
"""

import json
import math
from pathlib import Path
from typing import Any, Dict

import pytest
import torch

from benchmarks import footprint, timing
from benchmarks.cuda import on_device
from benchmarks.implementations import ALLENNLP, NAMES, OURS, build, missing
from benchmarks.models import MODELS, model, num_values, of_64_tensors
from benchmarks.report import targets, write_report
from benchmarks.run import sections
from benchmarks.timing import FLOOR, Timing
from benchmarks.training import overlap_speed, training_speed
from tests.support.training_runs import tagger_config

TINY = {name: [(3, 2), (5,)] for name in MODELS}
INSTALLED = [name for name in NAMES if name not in missing(model(of_64_tensors(64)))]


def test_the_models_are_what_the_readme_says() -> None:
    assert {name: (num_values(shapes), len(shapes)) for name, shapes in MODELS.items()} == {
        "one tensor of 64M": (67_108_864, 1),
        "BERT-base": (108_891_648, 197),
        "small tagger": (361_585, 69),
        "UD EWT tagger": (1_705_692, 14),
        "400 tensors of 256": (102_400, 400),
    }


def test_all_implementations_compute_the_same_averages() -> None:
    assert {OURS, ALLENNLP} <= set(INSTALLED)
    averaged = model(TINY["BERT-base"])
    implementations = [build(name, averaged) for name in INSTALLED]
    # The first updates of some only copy.
    for _ in range(3):
        for implementation in implementations:
            implementation.update()
    expected = [parameter.detach().clone() for parameter in averaged.parameters()]
    for _ in range(2):
        with torch.no_grad():
            for parameter, average in zip(averaged.parameters(), expected):
                parameter.add_(1.0)
                average.mul_(0.999).add_(parameter, alpha=0.001)
        for implementation in implementations:
            implementation.update()
    for name, implementation in zip(INSTALLED, implementations):
        for average, value in zip(implementation.averages(), expected):
            torch.testing.assert_close(average.detach(), value, msg=name)


@pytest.mark.parametrize("name", INSTALLED)
def test_assign_and_restore_are_each_others_inverse(name: str) -> None:
    averaged = model(TINY["BERT-base"])
    implementation = build(name, averaged)
    if not (implementation.assign and implementation.restore):
        pytest.skip(f"{name} has no exchange")
    implementation.update()
    with torch.no_grad():
        for parameter in averaged.parameters():
            parameter.add_(1.0)
    raw = [parameter.detach().clone() for parameter in averaged.parameters()]
    averages = [average.detach().clone() for average in implementation.averages()]
    implementation.assign()
    assert all(map(torch.equal, averaged.parameters(), averages))
    implementation.restore()
    assert all(map(torch.equal, averaged.parameters(), raw))


def test_every_time_is_of_everyone_who_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "_SECONDS_A_TURN", 0.0)
    monkeypatch.setattr(timing, "_PLACEMENTS", 1)
    measured = sections(TINY, [64], INSTALLED, seconds=0.0)
    only_some = {"float16", "bfloat16", "float64 shadows", "constructions"}
    for name in (*(f"updates: {model_name}" for model_name in TINY), *only_some):
        timings = measured[name]()
        assert {FLOOR, OURS} <= set(timings)
        if name not in only_some:
            assert set(timings) == {FLOOR, *INSTALLED}
        check(timings)
    assert set(measured["bank of 3"]()) == {FLOOR, OURS, "three averages by themselves"}
    assert set(measured["update_every 10"]()) == {FLOOR, OURS}
    exchanges = measured["exchanges"]()
    assert {FLOOR, f"{OURS}: assign", f"{OURS}: restore", f"{ALLENNLP}: assign"} <= set(exchanges)
    by_size = measured["updates by size"]()
    assert set(by_size) == {64} and set(by_size[64]) == {FLOOR, *INSTALLED}

    assert all(seconds > 0 for seconds in measured["snapshot"]())


def check(timings: Dict[str, Timing]) -> None:
    assert all(t.milliseconds > 0 and math.isfinite(t.times_the_floor) for t in timings.values())


def test_the_state_in_a_checkpoint() -> None:
    measured = {name: footprint._measured(name, "small tagger") for name in (OURS, ALLENNLP)}
    assert 1.0 < measured[OURS]["in a checkpoint"] < 1.05
    assert 3.0 < measured[ALLENNLP]["in a checkpoint"] < 3.15


def test_training_has_steps_with_and_without(tmp_path: Path) -> None:
    config = tmp_path / "config.jsonnet"
    config.write_text(json.dumps(tagger_config(moving_average={"type": "exponential"})))
    speed = training_speed(config, num_epochs=3, stretch=1)
    assert speed.updates_per_second_on > 0 and speed.updates_per_second_off > 0
    assert 0 < speed.share < 1
    assert speed.on_against_off == pytest.approx(
        speed.updates_per_second_off / speed.updates_per_second_on
    )


@pytest.mark.parametrize("num_values", [None, 50_000])
def test_training_has_steps_with_updates_beside_them_and_without(
    num_values: Any, tmp_path: Path
) -> None:
    config = tmp_path / "config.jsonnet"
    config.write_text(json.dumps(tagger_config(moving_average={"type": "exponential"})))
    speed = overlap_speed(config, 3, num_values, max_instances=20, stretch=1)
    assert speed.beside_against_sequential > 0
    assert 0 < speed.share_beside < 1 and 0 < speed.share_sequential < 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_there_is_nothing_of_one() -> None:
    assert on_device(TINY["BERT-base"], INSTALLED) is None


def timings(**times_the_floor: float) -> Dict[str, Any]:
    names = {"ours": OURS, "allennlp": ALLENNLP, "peer": "timm ModelEmaV3"}
    return {
        names[key]: {"milliseconds": value, "times_the_floor": value}
        for key, value in times_the_floor.items()
    }


def results(torch_version: str, **others: Any) -> Dict[str, Any]:
    floor = {FLOOR: {"milliseconds": 1.0, "times_the_floor": 1.0}}
    large = {**floor, **timings(ours=1.25, allennlp=5.0, peer=1.0)}
    return {
        "date": "2026-01-31",
        "machine": {"processor": "A processor", "cores": 2, "system": "Linux", "device": None},
        "versions": {"torch": torch_version, "timm": "1.0"},
        "updates: BERT-base": large,
        "updates by size": {"64": large, "4096": large},
        **others,
    }


def test_targets_are_of_the_version_of_torch() -> None:
    (target,) = targets(results("1.12.1"))
    assert (target.at_most, target.reached) == (1 / 3, 0.25)
    found = {(t.what, t.of): t.reached for t in targets(results("2.13.0"))}
    assert found["update, BERT-base", "the floor"] == 1.25
    assert found["update, BERT-base", "the fastest peer"] == 1.25
    assert found["update, small tagger", "AllenNLP's own time"] is None


def test_updates_beside_the_steps_and_snapshots_are_reported(tmp_path: Path) -> None:
    overlap = {
        "beside_against_sequential": 0.95,
        "share_beside": 0.0005,
        "share_sequential": 0.06,
    }
    found = results(
        "2.13.0", **{"overlap: tagger": overlap, "snapshot": {"copy": 0.25, "write": 1.5}}
    )
    assert [t.reached for t in targets(found) if t.of == "% of a step"] == [0.05]
    (tmp_path / "torch-2.13.0.json").write_text(json.dumps(found))
    readme = tmp_path / "README.md"
    readme.write_text("<!-- results --><!-- end -->", encoding="utf-8")
    write_report(tmp_path, readme)
    text = readme.read_text(encoding="utf-8")
    assert "| tagger | 0.950 | 0.05% | 6.00% |" in text
    assert "a step waits 0.25 s for the copy; the file takes 1.50 s beside" in text


def test_the_report_is_put_between_the_marks(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text("Before.\n<!-- results -->\nold\n<!-- end -->\nAfter.\n", encoding="utf-8")
    for version in ("1.12.1", "2.13.0"):
        (tmp_path / f"torch-{version}.json").write_text(json.dumps(results(version)))
    write_report(tmp_path, readme)
    text = readme.read_text(encoding="utf-8")
    assert text.startswith("Before.\n<!-- results -->\n\n## torch 2.13.0")
    assert text.endswith("<!-- end -->\nAfter.\n")
    assert "old" not in text
    assert text.index("## torch 2.13.0") < text.index("## torch 1.12.1")
    assert "| allennlp_ema | 1.25 (1.25) |" in text
    assert f"]({tmp_path.name}/time_by_size_torch-2.13.0.png)" in text
    assert (tmp_path / "time_by_size_torch-2.13.0.png").read_bytes().startswith(b"\x89PNG")
    write_report(tmp_path, readme)
    assert readme.read_text(encoding="utf-8") == text
