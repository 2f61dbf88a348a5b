import json
import shutil
import tarfile
from typing import Any, List

import pytest
import torch
from allennlp.training.moving_average import ExponentialMovingAverage as AllenNLPAverage
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from torch.nn import Parameter

from tests.commands.synthesize_test import synthesize
from tests.support.command_line import allennlp
from tests.support.training_runs import tagger_config, train_here


def rows(capsys, path: Any) -> List[List[str]]:
    """The cells of the table."""
    finished = allennlp(capsys, "average", "inspect", path)
    assert finished.status == 0, finished.errors
    return cells(finished.output)


def cells(output: str) -> List[List[str]]:
    lines = [line for line in output.splitlines() if line.startswith("│")]
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]


SHORT = json.dumps({"type": "power_function", "sigma_rel": 0.05})
LONG = json.dumps({"type": "power_function", "sigma_rel": 0.1})


def test_a_snapshot(recorded, capsys):
    path = recorded.directory / "averages" / "update_0000000160.long.safetensors"
    assert rows(capsys, path) == [
        [path.name, "long", LONG, "160", "160", "37.8 updates"]
        + ["over the last 70 updates", "3.7 KiB"]
    ]


def test_a_checkpoint_with_a_bank(recorded, capsys):
    name = "training_state_e40_b0.th"
    assert rows(capsys, recorded.directory / name) == [
        [name, "short", SHORT, "320", "320", "34.6 updates"]
        + ["over the last 72 updates", "3.7 KiB"],
        [name, "long", LONG, "320", "320", "75.6 updates"]
        + ["over the last 140 updates", "3.7 KiB"],
    ]


def test_the_weights_of_a_model(recorded, capsys):
    name = "model_state_e40_b0.th"
    (row,) = rows(capsys, recorded.directory / name)
    assert row[0] == name and row[2].startswith("a model's weights") and row[-1] == "3.7 KiB"


def test_archives_of_a_training_of_a_synthesis_and_of_checkpoints(recorded, capsys, tmp_path):
    ((name, epoch, average, *counts),) = rows(capsys, recorded.directory / "model.tar.gz")[:1]
    assert (name, epoch) == ("model.tar.gz", "best epoch")
    assert average.startswith('{"type": "bank", "active": "long"')

    specification = {"type": "power_function", "sigma_rel": 0.07}
    synthesize(capsys, recorded, tmp_path / "made.tar.gz", specification)
    ((name, kind, average, updates, _, window, fall, size),) = rows(
        capsys, tmp_path / "made.tar.gz"
    )
    assert (name, kind, average, updates) == (
        "made.tar.gz",
        "synthesized",
        json.dumps(specification),
        "320",
    )
    # The rate at update s is 1 - ((s - 1) / 320)^(gamma + 1), and gamma + 1 is 12.245.
    assert (window, fall) == ("50.1 updates", "over the last 100 updates")

    output = tmp_path / "mean.tar.gz"
    allennlp(capsys, "average", "checkpoints", recorded.directory, "-o", output, "--last", "2")
    ((name, kind, files, *_),) = rows(capsys, output)
    assert (name, kind) == ("mean.tar.gz", "mean of checkpoints")
    assert files == "model_state_e39_b0.th, model_state_e40_b0.th"


def test_links_in_an_archive_lead_nowhere(recorded, capsys, tmp_path):
    with tarfile.open(str(tmp_path / "linked.tar.gz"), "w:gz") as archive:
        for name in ("config.json", "weights.th"):
            archive.add(str(recorded.directory / name.replace("weights", "best")), arcname=name)
        link = tarfile.TarInfo("vocabulary")
        link.type, link.linkname = tarfile.SYMTYPE, str(recorded.directory / "vocabulary")
        archive.addfile(link)
    ((_, epoch, average, *_), *_) = rows(capsys, tmp_path / "linked.tar.gz")
    assert epoch == "best epoch" and average.startswith('{"type": "bank", "active": "long"')
    with tarfile.open(str(tmp_path / "linked.tar.gz"), "w:gz") as archive:
        link.name = "config.json"
        archive.addfile(link)
    finished = allennlp(capsys, "average", "inspect", tmp_path / "linked.tar.gz")
    assert "linked.tar.gz is not the archive of a model: it has to have" in finished.error


@pytest.mark.everywhere
def test_a_directory_has_all_of_them(recorded, capsys):
    names = [row[0] for row in rows(capsys, recorded.directory) if row[0]]
    assert names[:6] == [f"training_state_e{e}_b0.th" for e in (38, 38, 39, 39, 40, 40)]
    assert names[6] == "update_0000000020.long.safetensors"
    assert names[37] == "update_0000000320.short.safetensors"
    assert names[38:] == ["model.tar.gz"]
    assert [r[0] for r in rows(capsys, recorded.directory / "averages")] == names[6:38]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """By type of average, a directory of two epochs of 6 updates."""

    def train(name: str, **trainer: Any) -> Any:
        directory = tmp_path_factory.mktemp(name) / "run"
        train_here(tagger_config(num_epochs=2, **trainer), directory)
        return directory

    return train


def test_the_window_of_a_window_is_known_from_its_configuration(trained, capsys):
    window = {"type": "window", "window_size": 3, "update_every": 2}
    directory = trained("window", moving_average=window)
    ((_, name, average, *rest), *_) = rows(capsys, directory / "training_state_e2_b0.th")
    assert json.loads(average) == window
    # One for the mean and three for the samples.
    # Of the samples at updates 8, 10 and 12, which have the rates 1, 2/3 and 1/3 up to them.
    assert rest == ["12", "6", "6.0 updates", "over the last 4 updates", "14.6 KiB"]
    (directory / "config.json").unlink()
    ((_, name, average, *rest), *_) = rows(capsys, directory / "training_state_e2_b0.th")
    assert json.loads(average) == {"type": "window"}
    assert rest == ["12", "6", "", "", "14.6 KiB"]


def test_the_average_of_an_optimizer_and_a_type_left_out(trained, capsys):
    directory = trained(
        "optimizer",
        optimizer={
            "type": "moving_average",
            "optimizer": "adam",
            "moving_average": {"decay": 0.5, "numerator": 1, "denominator": 1},
        },
    )
    ((_, _, average, *rest), *_) = rows(capsys, directory / "training_state_e2_b0.th")
    assert json.loads(average) == {
        "type": "exponential",
        "decay": 0.5,
        "numerator": 1,
        "denominator": 1,
    }
    # (1 + d) / (1 - d) at the end of a long training.
    # The rate is 1 - 0.5^k with k - 1 updates to come, which is below 0.99 up to a k of 6.
    assert rest == ["12", "12", "3.0 updates", "over the last 6 updates", "3.7 KiB"]


def test_the_average_of_an_optimizer_by_its_decay_alone(trained, capsys):
    optimizer = {"type": "moving_average", "optimizer": "adam", "average_decay": 0.5}
    found = rows(capsys, trained("average_decay", optimizer=optimizer))
    average = {"type": "exponential", "decay": {"type": "constant", "decay": 0.5}}
    assert [json.loads(row[2]) for row in found] == [average] * 3
    assert [row[5] for row in found] == ["3.0 updates", "3.0 updates", ""]


def test_an_average_without_a_sample(trained, capsys):
    directory = trained("late", moving_average={"type": "uniform", "start_step": 8})
    first, last = rows(capsys, directory)[:2]
    assert first[3:6] == ["6", "0", "no sample yet"] and last[3:6] == ["12", "5", "5.0 updates"]


def test_what_is_not_finite_is_shown(recorded, capsys, tmp_path):
    name = "update_0000000160.long.safetensors"
    with safe_open(str(recorded.directory / "averages" / name), framework="numpy") as file:
        metadata = file.metadata()
    values = load_file(str(recorded.directory / "averages" / name))
    name_of_nan = "tag_projection_layer._module.bias"
    values[name_of_nan][0] = float("nan")
    save_file(values, str(tmp_path / name), metadata=metadata)
    shutil.copy(str(recorded.directory / "training_state_e40_b0.th"), str(tmp_path))
    found = rows(capsys, tmp_path)
    assert [row[-1] for row in found] == ["", "", f"NaN in {name_of_nan}"]
    path = tmp_path / "training_state_e40_b0.th"
    state = torch.load(str(path))
    next(iter(state["moving_average"]["averages"]["short"]["averages"].values())).fill_(
        float("inf")
    )
    torch.save(state, str(path))
    assert [row[-1].split(" ")[0] for row in rows(capsys, path)] == ["infinity", ""]


def test_an_average_that_was_changed_in_training_is_not_said_to_fall(recorded, capsys, tmp_path):
    # Its counts are those of another.
    path = tmp_path / "update_0000000160.long.safetensors"
    with safe_open(str(recorded.directory / "averages" / path.name), framework="numpy") as file:
        metadata = file.metadata()
    description = json.loads(metadata["snapshot"])
    description["specification"]["sigma_rel"] = 0.09
    metadata["snapshot"] = json.dumps(description)
    values = load_file(str(recorded.directory / "averages" / path.name))
    save_file(values, str(path), metadata=metadata)
    ((*_, window, fall, _),) = rows(capsys, path)
    assert (window, fall) == ("37.8 updates", "")


def test_what_durations_came_to_is_in_what_is_shown(trained, capsys):
    half_life = {"type": "half_life", "half_life": {"epochs": 0.5}}
    average = {"decay": half_life, "start_step": {"epochs": 1}, "zero_debias": True}
    directory = trained("durations", moving_average=average)
    ((_, _, found, *counts), *_) = rows(capsys, directory / "training_state_e2_b0.th")
    assert json.loads(found) == {
        "type": "exponential",
        "decay": {"type": "half_life", "half_life": 3.0},
        "start_step": 6,
        "zero_debias": True,
    }
    # Updates 6 to 12, whose shares are 0.5^(age / 3) of their sum.
    assert counts[:2] == ["12", "7"] and counts[3] == "over the last 6 updates"


def test_a_training_without_an_average(trained, capsys):
    directory = trained("none")
    assert [(row[0], row[2]) for row in rows(capsys, directory)] == [
        ("training_state_e1_b0.th", "none"),
        ("training_state_e2_b0.th", "none"),
        ("model.tar.gz", "none, raw weights"),
    ]


def test_a_bank_that_the_configuration_does_not_know(recorded, capsys, tmp_path):
    shutil.copy(str(recorded.directory / "training_state_e40_b0.th"), str(tmp_path))
    config = {"trainer": {"moving_average": {"type": "bank", "averages": {"short": {}}}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    short, long = rows(capsys, tmp_path)
    assert json.loads(short[2]) == {"type": "exponential"}
    assert json.loads(long[2]) == {"type": "power_function"} and long[3:6] == ["320", "320", ""]


def test_the_state_of_an_average_of_somebody_elses(capsys, tmp_path):
    state = {"epochs_completed": 1, "optimizer": {}, "moving_average": {"mean": torch.zeros(256)}}
    torch.save(state, str(tmp_path / "training_state_e1_b0.th"))
    assert [(row[2], row[-1]) for row in rows(capsys, tmp_path)] == [("of unknown type", "1.0 KiB")]


def test_the_state_of_allennlps_own_average(capsys, tmp_path):
    average = AllenNLPAverage([("weight", Parameter(torch.zeros(1024)))])
    state = {"epochs_completed": 1, "optimizer": {}, "moving_average": average.state_dict()}
    torch.save(state, str(tmp_path / "training_state_e1_b0.th"))
    ((_, _, found, *rest),) = rows(capsys, tmp_path / "training_state_e1_b0.th")
    assert found == "AllenNLP's own, exponential"
    assert rest == ["", "", "", "", "4.0 KiB"]


def test_missing_truncated_and_foreign_files_are_named(recorded, capsys, tmp_path):
    def error(path: Any) -> str:
        return allennlp(capsys, "average", "inspect", path).error

    for name in ("missing.th", "missing.safetensors", "missing.tar.gz", "missing"):
        assert error(tmp_path / name).endswith(f"{name}: there is no such file")
    assert f"{tmp_path} has no checkpoint" in error(tmp_path)
    whole = (recorded.directory / "model.tar.gz").read_bytes()
    for content in (b"", whole[: len(whole) // 2], b"no archive"):
        (tmp_path / "model.tar.gz").write_bytes(content)
        assert "model.tar.gz is truncated or not an archive" in error(tmp_path / "model.tar.gz")
    shutil.make_archive(str(tmp_path / "other"), "gztar", str(recorded.directory / "vocabulary"))
    assert "other.tar.gz is not the archive of a model" in error(tmp_path / "other.tar.gz")
    (tmp_path / "listed").mkdir()
    (tmp_path / "listed" / "config.json").write_text("[]")
    (tmp_path / "listed" / "weights.th").write_bytes(b"")
    with tarfile.open(str(tmp_path / "listed.tar.gz"), "w:gz") as archive:
        for name in ("config.json", "weights.th"):
            archive.add(str(tmp_path / "listed" / name), arcname=name)
    assert "listed.tar.gz is not the archive of a model" in error(tmp_path / "listed.tar.gz")
    (tmp_path / "training_state_e1_b0.th").write_bytes(b"no state")
    assert "training_state_e1_b0.th is truncated" in error(tmp_path / "training_state_e1_b0.th")
