import json
import re
from pathlib import Path
from typing import Any, Dict

import pytest
import torch
from allennlp.data import DataLoader
from allennlp.models.archival import load_archive
from torch import Tensor

from allennlp_ema.training.callbacks.recalibrated_statistics import norms_with_statistics
from tests.commands.sweep_test import values
from tests.support.command_line import allennlp, archived_weights, evaluated
from tests.support.training_runs import DATA, tagger_config, train_here

SHORT = {"type": "power_function", "sigma_rel": 0.05}


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    """Of a training of 60 updates with batch norms."""
    directory = tmp_path_factory.mktemp("batch_norm") / "run"
    config = tagger_config(
        num_epochs=10,
        moving_average=SHORT,
        callbacks=[{"type": "moving_average_snapshots", "every_num_updates": 5}],
    )
    config["model"]["encoder"] = {
        "type": "fixtures.batch_norm_encoder.BatchNormCnnEncoder",
        "input_dim": 6,
        "hidden_dim": 8,
    }
    train_here(config, directory)
    return directory


def statistics(weights: Dict[str, Tensor]) -> Dict[str, Tensor]:
    return {name: value for name, value in weights.items() if ".running_" in name}


def recalibrated(archive: Path) -> Dict[str, Tensor]:
    """What torch's own cumulative statistics come to over the training data."""
    model = load_archive(str(archive)).model
    loader: Any = DataLoader.from_params(
        load_archive(str(archive)).config.pop("data_loader"),
        reader=load_archive(str(archive)).dataset_reader,
        data_path=str(DATA / "train.tsv"),
    )
    loader.index_with(model.vocab)
    for norm in norms_with_statistics(model).values():
        norm.reset_running_stats()
        norm.momentum = None
    model.train()
    with torch.no_grad():
        for batch in loader:
            model(**batch)
    return statistics(model.state_dict())


def assert_close(found: Dict[str, Tensor], expected: Dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys() and len(found) == 4
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


@pytest.mark.parametrize(
    "command",
    [
        ["synthesize", "--average", json.dumps({**SHORT, "sigma_rel": 0.06})]
        + ["--max-residual", "0.1"],
        ["checkpoints"],
        ["soup"],
    ],
    ids=lambda command: command[0],
)
def test_statistics_are_those_of_the_archived_weights_if_asked_for(
    command, directory, capsys, tmp_path, caplog
):
    name, *options = command
    if name == "soup":
        options = [directory]
    arguments = ["average", name, directory, *options, "-o"]
    assert allennlp(capsys, *arguments, tmp_path / "as_found.tar.gz").status == 0
    assert "--recalibrate DATA computes them anew" in caplog.text
    caplog.clear()
    output = tmp_path / "recalibrated.tar.gz"
    finished = allennlp(capsys, *arguments, output, "--recalibrate", DATA / "train.tsv")
    assert finished.status == 0
    assert "--recalibrate" not in caplog.text

    as_found = archived_weights(tmp_path / "as_found.tar.gz")
    weights = archived_weights(output)
    own = recalibrated(output)
    assert_close(statistics(weights), own)
    for name, value in weights.items():
        if ".running_" in name:
            assert not torch.allclose(as_found[name], value)
        elif not name.endswith("num_batches_tracked"):
            assert torch.equal(as_found[name], value)
    if command[0] == "synthesize":
        best = torch.load(str(directory / "best.th"))
        assert_close(statistics(as_found), statistics(best))


def test_a_greedy_soup_is_measured_with_statistics_of_its_own(directory, capsys, tmp_path):
    output = tmp_path / "soup.tar.gz"
    arguments = [directory, directory, "-o", output, "--greedy", DATA / "dev.tsv", "--metric=-loss"]
    recalibrate = ["--recalibrate", DATA / "train.tsv"]
    finished = allennlp(capsys, "average", "soup", *arguments, *recalibrate)
    assert finished.status == 0, finished.errors
    shown = re.findall(r"loss ([\d.]+)", finished.output)
    assert shown == [f"{evaluated(output)['loss']:.6g}"] * 4


def test_a_sweep_measures_each_average_with_statistics_of_its_own(directory, capsys, tmp_path):
    finished = allennlp(
        capsys,
        "average",
        "sweep",
        directory,
        DATA / "dev.tsv",
        "--output-dir",
        tmp_path,
        "--recalibrate",
        DATA / "train.tsv",
        "--from",
        "0.05",
        "--to",
        "0.06",
        "--points",
        "2",
        "--metric=-loss",
    )
    assert finished.status == 0, finished.errors
    raw, tracked, *synthesized = values(tmp_path)
    assert tracked["loss"] == synthesized[0]["loss"] != synthesized[1]["loss"]
    archive = tmp_path / "sweep_best.tar.gz"
    assert_close(statistics(archived_weights(archive)), recalibrated(archive))
    assert evaluated(archive)["loss"] == min(float(row["loss"]) for row in synthesized)
    # The raw weights have theirs from the training.
    checkpoint = ["average", "checkpoints", directory, "--last", "1", "-o", tmp_path / "raw.tar.gz"]
    allennlp(capsys, *checkpoint)
    assert evaluated(tmp_path / "raw.tar.gz")["loss"] == float(raw["loss"])
