import json
import re
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from allennlp.models.archival import load_archive
from allennlp.predictors import Predictor

from tests.after_training.snapshot_synthesis_test import true_average
from tests.support.command_line import allennlp, archived_weights, differ, evaluated
from tests.support.recorded_training import NUM_UPDATES, RecordedTraining
from tests.support.training_runs import DATA


def synthesize(capsys, recorded: RecordedTraining, output: Path, specification, *more):
    return allennlp(
        capsys,
        "average",
        "synthesize",
        recorded.directory,
        "--average",
        json.dumps(specification),
        "-o",
        output,
        *more,
    )


@pytest.mark.everywhere
@pytest.mark.parametrize(
    "specification, residual, largest_error",
    [
        ({"type": "power_function", "sigma_rel": 0.05}, 0.0, 1e-6),
        ({"type": "power_function", "sigma_rel": 0.07}, 0.0038, 1e-3),
        ({"type": "power_function", "sigma_rel": 0.15}, 0.0089, 1e-3),
        ({"type": "power_function", "sigma_rel": 0.20}, 0.0231, 2e-3),
        (
            {"type": "exponential", "decay": {"type": "half_life", "half_life": NUM_UPDATES / 30}},
            0.0085,
            1e-3,
        ),
        ({"type": "uniform", "start_step": 241}, 0.0225, 1e-3),
    ],
    ids=str,
)
def test_the_archive_has_the_average_that_the_training_did_not_keep(
    specification, residual, largest_error, recorded, capsys, tmp_path
):
    output = tmp_path / "average.tar.gz"
    finished = synthesize(capsys, recorded, output, specification)
    assert finished.status == 0
    assert f" {residual:.4f} " in finished.output
    true = true_average(recorded.trajectory, specification)
    found = recorded.flat(archived_weights(output))
    assert (found - true).norm() / true.norm() <= largest_error


def test_allennlp_evaluates_the_archive_and_predicts_with_it(recorded, capsys, tmp_path):
    output = tmp_path / "average.tar.gz"
    synthesize(capsys, recorded, output, {"type": "power_function", "sigma_rel": 0.10})
    # The tracked average after the last update, which is what was archived if it was the best.
    assert 0.5 < evaluated(output)["accuracy"] <= 1.0
    archive = load_archive(str(output))
    (instance, *_) = archive.dataset_reader.read(str(DATA / "dev.tsv"))
    predicted = Predictor(archive.model, archive.dataset_reader).predict_instance(instance)
    assert len(predicted["tags"]) == len(instance["tokens"].tokens)


@pytest.mark.parametrize(
    "with_durations, resolved",
    [
        # An epoch has 8 updates, and the training 320.
        (
            {"type": "uniform", "start_step": {"epochs": 30.125}},
            {"type": "uniform", "start_step": 241},
        ),
        (
            {"decay": {"type": "half_life", "half_life": {"fraction": 0.1}}, "zero_debias": True},
            {"decay": {"type": "half_life", "half_life": 32.0}, "zero_debias": True},
        ),
    ],
    ids=str,
)
def test_durations_are_those_of_the_training(with_durations, resolved, recorded, capsys, tmp_path):
    outputs = [tmp_path / "one.tar.gz", tmp_path / "other.tar.gz"]
    for output, specification in zip(outputs, (with_durations, resolved)):
        assert synthesize(capsys, recorded, output, specification).status == 0
        with tarfile.open(str(output)) as archive:
            made: Any = archive.extractfile("averaging.json")
            assert json.load(made)["average"] == {"type": "exponential", **resolved}
    assert not differ(*map(archived_weights, outputs))
    # What is in reach is searched for with the same numbers.
    finished = synthesize(
        capsys, recorded, tmp_path / "no.tar.gz", with_durations, "--max-residual", "0.001"
    )
    assert re.search(r"comes out with a residual of 0\.0\d\d, above ", finished.error)
    assert "epochs" not in finished.error and "fraction" not in finished.error


def test_durations_of_a_training_whose_length_is_not_known_are_refused(capsys, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    trained = RecordedTraining(tmp_path, [], torch.empty(0))
    output, late = tmp_path / "late.tar.gz", {"type": "uniform", "start_step": {"epochs": 2}}
    finished = synthesize(capsys, trained, output, late)
    assert f"--average: {tmp_path} has no checkpoint of a whole model" in finished.error
    torch.save({}, str(tmp_path / "model_state_e1_b3.th"))
    finished = synthesize(capsys, trained, output, late)
    assert f"--average: {tmp_path} does not tell how many updates an epoch has" in finished.error


def test_an_earlier_average_is_made_from_the_snapshots_until_then(recorded, capsys, tmp_path):
    output = tmp_path / "average.tar.gz"
    specification = {"type": "power_function", "sigma_rel": 0.08}
    finished = synthesize(capsys, recorded, output, specification, "--num-updates", "160")
    assert " 16 of 16 " in finished.output
    true = true_average(recorded.trajectory[:161], specification)
    found = recorded.flat(archived_weights(output))
    assert (found - true).norm() / true.norm() < 1e-3
    finished = synthesize(
        capsys, recorded, output, specification, "--num-updates", "321", "--force"
    )
    assert "the latest snapshot is of update 320, so nothing is known" in finished.error


def test_what_cannot_be_reached_is_refused_with_what_can(recorded, capsys, tmp_path):
    output = tmp_path / "average.tar.gz"
    decay = {"type": "half_life", "half_life": NUM_UPDATES / 100}
    specification = {"type": "exponential", "decay": decay}
    finished = synthesize(capsys, recorded, output, specification)
    assert finished.status == 1 and not output.exists()
    match = re.search(
        r"comes out with a residual of (0\.\d+), above --max-residual 0\.05; what can be reached "
        r"is (\{.*\}), of an effective window of (\d+) updates in the place of 9, with a residual "
        r"of (0\.0\d+) \(--max-residual inf takes any\)$",
        finished.error,
    )
    assert match, finished.error
    assert float(match[1]) == pytest.approx(0.23, abs=0.01)
    assert 0.03 < float(match[4]) <= 0.05
    # What is said to be reached is.
    assert synthesize(capsys, recorded, output, json.loads(match[2])).status == 0
    assert f"{float(match[4]):.3f}" in match[0]

    reached = output.read_bytes()
    finished = synthesize(capsys, recorded, output, specification, "--force")
    assert finished.status == 1 and output.read_bytes() == reached
    for number, max_residual in enumerate(("0.3", "inf")):
        finished = synthesize(
            capsys,
            recorded,
            tmp_path / f"other_{number}.tar.gz",
            specification,
            "--max-residual",
            max_residual,
        )
        assert finished.status == 0


@pytest.mark.parametrize(
    "num_updates, file", [("320", "model_state_e40_b0.th"), ("160", "best.th")]
)
def test_what_is_not_averaged_is_of_the_same_update_or_else_of_the_best_epoch(
    num_updates, file, recorded, capsys, caplog, tmp_path
):
    directory = tmp_path / "run"
    shutil.copytree(str(recorded.directory), str(directory))
    state = torch.load(str(directory / file))
    state["buffer"] = torch.tensor([7.0])
    torch.save(state, str(directory / file))
    output = tmp_path / "average.tar.gz"
    specification = {"type": "power_function", "sigma_rel": 0.07}
    copied = recorded._replace(directory=directory)
    finished = synthesize(capsys, copied, output, specification, "--num-updates", num_updates)
    assert finished.status == 0
    assert ("1 of the model's 12 parameters and buffers are not averaged" in caplog.text) == (
        file == "best.th"
    )
    with tarfile.open(str(output)) as archive:
        names = archive.getnames()
        archive.extract("weights.th", str(tmp_path))
    weights = torch.load(str(tmp_path / "weights.th"))
    assert list(weights) == list(state) and weights["buffer"] == 7.0
    assert {"config.json", "meta.json", "vocabulary/tokens.txt"} <= set(names)


@pytest.mark.parametrize(
    "specification, message",
    [
        ({"type": "power_function"}, 'exactly one of "sigma_rel" and "gamma" has to be given'),
        ({"decay": 1.5}, '"decay" is 1.5, but has to be a finite number >= 0 and <= 1'),
        ({"type": "bank", "averages": {"a": {}}, "active": "a"}, "a bank is several averages (a)"),
        ({"type": "nothing"}, "\"type\" is 'nothing', but has to be one of"),
    ],
    ids=str,
)
def test_an_average_that_cannot_be_is_refused(specification, message, recorded, capsys, tmp_path):
    finished = synthesize(capsys, recorded, tmp_path / "average.tar.gz", specification)
    assert message in finished.error and not list(tmp_path.iterdir())


def test_missing_truncated_and_foreign_files_are_named(recorded, capsys, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(str(recorded.directory), str(directory))
    copied = recorded._replace(directory=directory)
    output, specification = tmp_path / "average.tar.gz", {"type": "power_function", "gamma": 8.0}

    def error() -> str:
        # Of this update there is no checkpoint.
        more = ["--num-updates", "300"]
        message = synthesize(capsys, copied, output, specification, *more).error
        assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
        return message

    (directory / "best.th").rename(directory / "worst.th")
    assert error().endswith("best.th: there is no such file")
    (directory / "worst.th").rename(directory / "best.th")
    (directory / "best.th").write_bytes(b"not weights")
    assert "best.th is truncated or not a file of PyTorch" in error()
    snapshot = directory / "averages" / "update_0000000160.long.safetensors"
    snapshot.write_bytes(snapshot.read_bytes()[:-1])
    assert f"{snapshot} is truncated or not a safetensors file" in error()
    shutil.rmtree(str(directory / "averages"))
    assert f"{directory / 'averages'} has no snapshots" in error()
    (directory / "config.json").write_text("{")
    assert "config.json is truncated or not JSON" in error()


def test_snapshots_are_found_where_the_callback_wrote_them(recorded, capsys, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(str(recorded.directory), str(directory))
    (directory / "averages").rename(directory / "elsewhere")
    config = json.loads((directory / "config.json").read_text())
    config["trainer"]["callbacks"][0]["directory"] = "elsewhere"
    (directory / "config.json").write_text(json.dumps(config))
    finished = synthesize(
        capsys,
        recorded._replace(directory=directory),
        tmp_path / "average.tar.gz",
        {"type": "polynomial"},
    )
    assert finished.status == 0
