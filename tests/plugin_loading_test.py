"""
The ways in which `allennlp` finds this package, and how one tells which implementation runs.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Dict, NamedTuple

import pytest
import torch
from allennlp.models.archival import load_archive

from tests.support.training_runs import (
    FinishedProcess,
    latest_checkpoint,
    run_python,
    tagger_config,
    train,
    train_here,
)

IMPORT_WITHOUT_ALLENNLP = """
import sys

class WithoutAllenNLP:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "allennlp":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, WithoutAllenNLP())
import allennlp_ema
"""


def test_import_without_allennlp_says_how_to_install_it() -> None:
    process = run_python("-c", IMPORT_WITHOUT_ALLENNLP, expected_returncode=1)
    last_line = process.output.splitlines()[-1]
    assert last_line.startswith("ModuleNotFoundError: allennlp_ema needs AllenNLP 2.10.1")
    assert "pip install 'allennlp==2.10.1' 'numpy<2'" in last_line
    assert "pip install --no-deps allennlp==2.10.1" in last_line


class Run(NamedTuple):
    process: FinishedProcess
    directory: Path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Dict[str, Run]:
    directory = tmp_path_factory.mktemp("runs")
    (directory / "with_plugin_file").mkdir()
    (directory / "with_plugin_file" / ".allennlp_plugins").write_text("allennlp_ema\n")
    exponential = {"type": "exponential", "decay": 0.9}
    qualified = {"type": "allennlp_ema.ExponentialMovingAverage", "decay": 0.9}

    def run(name: str, moving_average: Any, cwd: Path = directory, **arguments: Any) -> Run:
        process = train(
            tagger_config(moving_average=moving_average, num_epochs=1),
            directory / name,
            cwd=cwd,
            # There is no plug-in file in the user's home either.
            environment={"HOME": str(directory)},
            **arguments,
        )
        return Run(process, directory / name)

    with ThreadPoolExecutor(2) as executor:
        started = {
            "nothing": executor.submit(run, "nothing", exponential),
            "qualified": executor.submit(run, "qualified", qualified),
            "include_package": executor.submit(
                run, "include_package", exponential, include_packages=["allennlp_ema"]
            ),
            "plugin_file": executor.submit(
                run, "plugin_file", exponential, cwd=directory / "with_plugin_file"
            ),
        }
        return {name: future.result() for name, future in started.items()}


@pytest.mark.parametrize("way", ["qualified", "include_package", "plugin_file"])
def test_this_package_is_loaded_and_says_so(way: str, runs: Dict[str, Run]) -> None:
    process, directory = runs[way]
    state = torch.load(str(directory / "training_state_e1_b0.th"))["moving_average"]
    assert state["type"] == "exponential" and "averages" in state

    parameters = list(load_archive(str(directory / "model.tar.gz")).model.parameters())
    num_values = sum(parameter.numel() for parameter in parameters)
    line = (
        "INFO - allennlp_ema.averages.moving_average - "
        "allennlp_ema.averages.exponential.ExponentialMovingAverage (allennlp_ema) averages "
        f"{len(parameters)} parameters with {num_values:,} values, {num_values * 4 / 1024:.1f} KiB "
        "of float32: decay 0.9 in force from update 80 on, below it the warm-up (1 + n) / (10 + n) "
        "at update n\n"
    )
    for output in (process.output, (directory / "out.log").read_text()):
        assert output.count("(allennlp_ema)") == 1
        assert line in output


def test_without_it_allennlps_own_runs(runs: Dict[str, Run]) -> None:
    process, directory = runs["nothing"]
    assert "allennlp_ema" not in process.output
    state = torch.load(str(directory / "training_state_e1_b0.th"))["moving_average"]
    assert set(state) == {"parameters", "shadows", "backups"}


@pytest.mark.parametrize(
    "moving_average, decay",
    [({}, 0.9999), ("exponential", 0.9999), ({"decay": 0.9}, 0.9), (None, None)],
    ids=str,
)
def test_short_forms(moving_average: Any, decay: Any, tmp_path: Path) -> None:
    train_here(tagger_config(moving_average=moving_average, num_epochs=1), tmp_path / "run")
    _, training_state = latest_checkpoint(tmp_path / "run")
    if moving_average is None:
        assert "moving_average" not in training_state
    else:
        assert training_state["moving_average"]["type"] == "exponential"
        assert training_state["moving_average"]["settings"] == {"decay": decay}
