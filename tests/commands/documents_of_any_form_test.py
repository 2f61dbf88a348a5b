"""
Well-formed files with a wrong content: whatever a command does not take, it says in one line.
"""

import io
import json
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any, Dict, List

import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from tests.support.command_line import allennlp
from tests.support.mutations import mutations
from tests.support.training_runs import tagger_config, train_here

HALF_LIFE = {"type": "exponential", "decay": {"type": "half_life", "half_life": 3}}
BANK = {
    "type": "bank",
    "active": "long",
    "averages": {"short": {"type": "window", "window_size": 3}, "long": HALF_LIFE},
}
POPEN = {"type": "subprocess.Popen", "args": ["touch", "executed"]}
HOSTILE = [
    POPEN,
    "subprocess.Popen",
    {"type": "exponential", "decay": POPEN},
    {"type": "bank", "active": "a", "averages": {"a": {"type": "exponential", "decay": POPEN}}},
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("trained") / "run"
    config = tagger_config(
        num_epochs=1, moving_average=BANK, callbacks=[{"type": "moving_average_snapshots"}]
    )
    train_here(config, directory)
    return directory


@pytest.fixture
def run(trained, tmp_path) -> Path:
    shutil.copytree(str(trained), str(tmp_path / "run"))
    return tmp_path / "run"


@pytest.fixture
def nothing_called(monkeypatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **kwargs: pytest.fail("called"))


def outcome(capsys: pytest.CaptureFixture, *arguments: Any) -> int:
    """The exit status, if there is no more to see than one line where it is not 0."""
    finished = allennlp(capsys, "average", *arguments)
    assert finished.status in (0, 1)
    if finished.status:
        assert finished.errors.startswith(f"allennlp average {arguments[0]}: error: ")
        assert finished.errors.count("\n") == 1
    return finished.status


def synthesis(run: Path) -> List[Any]:
    specification = '{"type": "uniform"}'
    output = run.parent / "made.tar.gz"
    return [run, "--average", specification, "-o", output, "--force", "--max-residual", "inf"]


class SnapshotOf:
    """A snapshot whose description is replaced."""

    def __init__(self, run: Path, name: str) -> None:
        self.path = run / "averages" / f"update_0000000006.{name}.safetensors"
        self._values = load_file(str(self.path))
        with safe_open(str(self.path), framework="numpy") as file:
            self._metadata = file.metadata()
        self.description = json.loads(self._metadata["snapshot"])
        self.description["tied"] = {"other": next(iter(self._values))}

    def write(self, description: Any) -> None:
        metadata = {**self._metadata, "snapshot": json.dumps(description)}
        save_file(self._values, str(self.path), metadata=metadata)


@pytest.mark.parametrize("name", ["short", "long"])
def test_snapshots(name, run, capsys):
    snapshot = SnapshotOf(run, name)
    statuses = {}
    for what, description in mutations(snapshot.description):
        snapshot.write(description)
        statuses[what] = outcome(capsys, "inspect", snapshot.path)
        made = outcome(capsys, "synthesize", *synthesis(run))
        # What is not even shown is not used.
        assert made or not statuses[what], what
    for key in ("name", "specification", "counts", "tied"):
        assert statuses[f"['{key}'] is not there"] == statuses[f"['{key}'] is 5"] == 1
    assert statuses["all of it is []"] == statuses["all of it is None"] == 1


def test_states(run, capsys):
    path = run / "training_state_e1_b0.th"
    whole = torch.load(str(path))
    state: Dict[str, Any] = {"epochs_completed": 1, "batches_in_epoch_completed": 0}
    for member in whole["moving_average"]["averages"].values():
        # One parameter is as good as all.
        member["averages"] = dict([*member["averages"].items()][:1])
        member["samples"] = [dict([*each.items()][:1]) for each in member.get("samples", [])[:1]]
    statuses = {}
    average = whole["moving_average"]
    for place, right in (
        ("moving_average", average["averages"]["short"]),
        ("moving_average", {**average, "averages": {"long": {}}}),
        ("optimizer", {"moving_average": {}}),
    ):
        for what, wrong in mutations(right):
            torch.save({**state, "optimizer": {}, place: wrong}, str(path))
            statuses[place, what] = outcome(capsys, "inspect", path)
            if "," not in what:
                outcome(capsys, "synthesize", *synthesis(run))
    assert statuses["optimizer", "all of it is 5"] == statuses["moving_average", "all of it is 5"]
    assert statuses["moving_average", "all of it is 5"] == 1
    assert statuses["moving_average", "['averages'] is []"] == 1


@pytest.mark.parametrize(
    "provenance",
    [
        {"kind": "synthesized", "average": HALF_LIFE, "num_updates": 6, "effective_window": 3.5},
        {"kind": "mean of checkpoints", "files": ["model_state_e1_b0.th"]},
    ],
    ids=["synthesized", "checkpoints"],
)
def test_how_an_archive_came_about(provenance, capsys, tmp_path):
    path = tmp_path / "made.tar.gz"
    statuses = {}
    for what, wrong in mutations(provenance):
        _write_archive(path, {}, wrong)
        statuses[what] = outcome(capsys, "inspect", path)
    for key in provenance:
        assert statuses[f"['{key}'] is not there"] == statuses[f"['{key}'] is []"] == 1 or (
            key == "files"
        )
    assert statuses["all of it is 5"] == 1


def _write_archive(path: Path, config: Any, provenance: Any = None) -> None:
    documents = {"config.json": json.dumps(config), "weights.th": ""}
    if provenance is not None:
        documents["averaging.json"] = json.dumps(provenance)
    with tarfile.open(str(path), "w:gz", compresslevel=0) as archive:
        for name, text in documents.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))


def test_configurations(run, capsys):
    path = run / "config.json"
    config = json.loads(path.read_text())
    # Nothing else is read here, or whatever AllenNLP makes of it.
    read = {
        "include_in_archive": ["metrics.json"],
        "evaluation": {"type": "simple"},
        "model": {"type": config["model"]["type"]},
        "trainer": {
            "moving_average": BANK,
            "callbacks": [{"type": "moving_average_buffers", "num_batches": 2}],
            "validation_metric": ["+accuracy", "-loss"],
        },
    }
    del config["model"]
    last = ["-o", run.parent / "made.tar.gz", "--force", "--last", "1"]
    statuses = {}
    for what, wrong in mutations(read):
        path.write_text(json.dumps({**config, **wrong} if isinstance(wrong, dict) else wrong))
        statuses[what] = [outcome(capsys, "inspect", run / "training_state_e1_b0.th")]
        if what.count(",") < 2:
            statuses[what].append(outcome(capsys, "checkpoints", run, *last))
    for what in (
        "all of it is []",
        "['trainer'] is 5",
        "['trainer', 'moving_average'] is []",
        "['trainer', 'callbacks'] is 5",
        "['include_in_archive'] is 5",
        "['model'] is 5",
        "['evaluation'] is None",
    ):
        assert set(statuses[what]) == {1} or what == "['model'] is 5", what
    assert statuses["['model'] is not there"] == [0, 1]


@pytest.mark.parametrize("specification", HOSTILE, ids=str)
def test_nothing_that_a_file_names_is_called(specification, run, capsys, nothing_called):
    if isinstance(specification, dict):
        snapshot = SnapshotOf(run, "long")
        snapshot.write({**snapshot.description, "specification": specification})
        assert outcome(capsys, "inspect", snapshot.path) == 1
        assert outcome(capsys, "synthesize", *synthesis(run)) == 1
        assert outcome(capsys, "sweep", run, "data.tsv", "--output-dir", run) == 1
        _write_archive(run.parent / "made.tar.gz", {}, {"kind": "made", "average": specification})
        assert outcome(capsys, "inspect", run.parent / "made.tar.gz") == 1
    trainer = {"moving_average": specification}
    for config in (
        {"trainer": trainer},
        {"trainer": {"optimizer": {"type": "moving_average", **trainer}}},
    ):
        (run / "config.json").write_text(json.dumps(config))
        assert outcome(capsys, "inspect", run / "training_state_e1_b0.th") == 1
        _write_archive(run.parent / "trained.tar.gz", config)
        assert outcome(capsys, "inspect", run.parent / "trained.tar.gz") == 1


def test_what_a_state_names_is_not_called(run, capsys, nothing_called):
    path = run / "training_state_e1_b0.th"
    state = torch.load(str(path))
    state["moving_average"]["averages"]["long"]["settings"] = POPEN
    torch.save(state, str(path))
    assert outcome(capsys, "inspect", path) == 1
