import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from allennlp.commands import main

from experiments.plan import CONDITIONS, Run
from experiments.run import Experiments
from experiments.soups import Soups
from tests.support.training_runs import DATA


def in_this_process(*arguments: str, **environment: str) -> None:
    """`allennlp`, without the seconds that each start of a process takes."""
    with pytest.MonkeyPatch.context() as patched, mock.patch("logging.root"):
        patched.setattr("sys.argv", ["allennlp", *arguments])
        for name, value in environment.items():
            patched.setenv(name, value)
        main()


@pytest.mark.parametrize("kind", ["soup", "raw_soup"])
def test_soups_of_one_start_and_of_three(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conditions = {"tagger": CONDITIONS["tagger"]._replace(num_epochs=2)}
    experiments = Experiments(DATA, tmp_path, tmp_path / "results", conditions)
    for name, value in experiments.environment(Run("tagger", kind, 1)).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(Soups, "_allennlp", staticmethod(in_this_process))
    Soups(tmp_path / "soup", kind).run()

    config = json.loads((tmp_path / "soup" / "one_start-2" / "config.json").read_text())
    assert bool(config["trainer"]["moving_average"]) == (kind == "soup")
    figures: Any = json.loads((tmp_path / "soup" / "evaluations.json").read_text())
    evaluations = {e["average"]: e for e in figures["evaluations"]}
    assert list(evaluations) == [
        f"{start}, {what}"
        for start in ("one start", "own starts")
        for what in ("seed 1", "seed 2", "seed 3", "uniform soup", "greedy soup")
    ]
    for start in ("one start", "own starts"):
        best = max(evaluations[f"{start}, seed {seed}"]["accuracy"] for seed in (1, 2, 3))
        assert evaluations[f"{start}, greedy soup"]["accuracy"] >= best
