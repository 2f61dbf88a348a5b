import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.command_line import allennlp, archived_weights, evaluated
from tests.support.recorded_training import RecordedTraining
from tests.support.training_runs import tagger_config, train_here


def checkpoint(recorded: RecordedTraining, epoch: int) -> Path:
    return recorded.directory / f"model_state_e{epoch}_b0.th"


@pytest.mark.everywhere
@pytest.mark.parametrize(
    "which, epochs",
    [
        ([], [38, 39, 40]),
        (["--last", "2"], [39, 40]),
        (["--epochs", "40", "38"], [38, 40]),
    ],
)
def test_the_mean_of_the_chosen_checkpoints_is_archived(which, epochs, recorded, capsys, tmp_path):
    output = tmp_path / "new" / "mean.tar.gz"
    finished = allennlp(capsys, "average", "checkpoints", recorded.directory, "-o", output, *which)
    assert finished.status == 0
    assert f"mean of {len(epochs)} checkpoints (model_state_e{epochs[0]}_b0.th" in finished.output
    # These hold the raw weights, so the trajectory tells what they are.
    expected = recorded.trajectory[[8 * epoch for epoch in epochs]].mean(0)
    found = recorded.flat(archived_weights(output))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    assert list(tmp_path.iterdir()) == [output.parent]
    assert list(output.parent.iterdir()) == [output]


@pytest.mark.parametrize("moving_average", [None, {"decay": 0.5}], ids=str)
@pytest.mark.parametrize("last", [[], ["--last", "2"]], ids=str)
def test_each_update_counts_once(moving_average, last, capsys, tmp_path):
    checkpointer = {"save_every_num_batches": 3, "keep_most_recent_by_count": None}
    directory, output = tmp_path / "run", tmp_path / "mean.tar.gz"
    train_here(
        tagger_config(num_epochs=2, checkpointer=checkpointer, moving_average=moving_average),
        directory,
    )
    # Of 6 batches an epoch, so that this is that of the epoch's end.
    assert (directory / "model_state_e1_b6.th").exists()
    finished = allennlp(capsys, "average", "checkpoints", directory, "-o", output, *last)
    names = [f"model_state_{point}.th" for point in ("e0_b3", "e1_b0", "e1_b3", "e2_b0")]
    names = names[2:] if last else names
    assert finished.output.endswith(f"of {len(names)} checkpoints ({', '.join(names)})\n")
    states = [torch.load(str(directory / name)) for name in names]
    for name, value in archived_weights(output).items():
        expected = torch.stack([state[name].double() for state in states]).mean(0)
        torch.testing.assert_close(value.double(), expected, rtol=1e-6, atol=1e-7)
    more = ["--last", "5", "--force"]
    finished = allennlp(capsys, "average", "checkpoints", directory, "-o", output, *more)
    assert f"--last is 5, but {directory} has 4 checkpoints of different updates" in finished.error
    # Files that are named are all taken.
    files = [directory / name for name in ("model_state_e1_b6.th", "model_state_e2_b0.th")]
    more = ["--files", *files, "--force"]
    finished = allennlp(capsys, "average", "checkpoints", directory, "-o", output, *more)
    assert "the mean of 2 checkpoints" in finished.output


def test_files_of_any_name_are_averaged(recorded, capsys, tmp_path):
    files = [tmp_path / "one.th", tmp_path / "other.th"]
    for file, epoch in zip(files, (38, 40)):
        shutil.copy(str(checkpoint(recorded, epoch)), str(file))
    output = tmp_path / "mean.tar.gz"
    arguments = [recorded.directory, "-o", output, "--files", *files]
    assert allennlp(capsys, "average", "checkpoints", *arguments).status == 0
    expected = recorded.trajectory[[304, 320]].mean(0)
    torch.testing.assert_close(
        recorded.flat(archived_weights(output)), expected, rtol=1e-6, atol=1e-7
    )


def best(capsys: Any, directory: Path, number: int, *options: str) -> Any:
    output = directory.parent / "mean.tar.gz"
    arguments = [directory, "-o", output, "--best", str(number), *options]
    return allennlp(capsys, "average", "checkpoints", *arguments)


@pytest.fixture
def validated(recorded: RecordedTraining, tmp_path: Path) -> Path:
    """A training whose checkpoints 38 to 40 have known metrics, and earlier epochs better ones."""
    directory = tmp_path / "run"
    shutil.copytree(str(recorded.directory), str(directory))
    for epoch in range(40):
        accuracy, loss = {37: (0.7, 0.1), 38: (0.5, 0.2), 39: (0.7, 0.3)}.get(epoch, (0.4, 9.0))
        values = {"validation_accuracy": accuracy, "validation_loss": loss + epoch / 1000}
        (directory / f"metrics_epoch_{epoch}.json").write_text(json.dumps(values))
    return directory


@pytest.mark.parametrize(
    "number, options, epochs",
    [
        (1, [], [38]),
        (2, [], [38, 40]),
        (2, ["--metric=-loss"], [38, 39]),
        (2, ["--metric", "+accuracy", "--metric=-loss"], [38, 40]),
        (3, [], [38, 39, 40]),
    ],
)
def test_the_best_by_their_validation_are_averaged(
    number, options, epochs, recorded, validated, capsys
):
    finished = best(capsys, validated, number, *options)
    assert finished.status == 0, finished.errors
    expected = recorded.trajectory[[8 * epoch for epoch in epochs]].mean(0)
    found = recorded.flat(archived_weights(validated.parent / "mean.tar.gz"))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    assert finished.output.splitlines()[0].startswith("model_state_e38_b0.th: ")


def test_the_metric_of_the_training_is_the_default(validated, capsys):
    config = json.loads((validated / "config.json").read_text())
    config["trainer"]["validation_metric"] = ["-loss", "+accuracy"]
    (validated / "config.json").write_text(json.dumps(config))
    output = best(capsys, validated, 1).output
    assert output.startswith("model_state_e38_b0.th: -loss +accuracy 0.563\n")


def test_best_checkpoints_that_are_not_there_are_named(validated, capsys):
    better = validated / "metrics_epoch_6.json"
    better.write_text(json.dumps({"validation_accuracy": 0.9, "validation_loss": 0.0}))
    error = best(capsys, validated, 2).error
    assert (
        f"of the 2 best checkpoints {validated} no longer has model_state_e7_b0.th: the "
        'checkpointer keeps the latest, as many as its "keep_most_recent_by_count" says'
    ) in error
    for number in (0, -1, 41):
        error = best(capsys, validated, number).error
        assert f"--best is {number}, but has to be within 1 and 40: of so many valid" in error
    error = best(capsys, validated, 1, "--metric", "+f1").error
    assert (
        f"--metric is '+f1', but {validated / 'metrics_epoch_0.json'} has accuracy, loss" in error
    )
    better.write_text("{")
    assert f"{better} is truncated or not JSON" in best(capsys, validated, 1).error
    error = allennlp(
        capsys, "average", "checkpoints", validated, "-o", "mean.tar.gz", "--metric", "+accuracy"
    ).error
    assert "--metric is what --best N compares, which is not given" in error
    assert not (validated.parent / "mean.tar.gz").exists()


def test_files_of_something_else_are_refused(recorded, capsys, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(str(recorded.directory), str(directory))

    def error(*files: Path) -> str:
        arguments = [directory, "-o", tmp_path / "mean.tar.gz", "--files", *files]
        message = allennlp(capsys, "average", "checkpoints", *arguments).error
        assert not (tmp_path / "mean.tar.gz").exists()
        return message

    training_state = directory / "training_state_e40_b0.th"
    name = "tag_projection_layer._module.bias"
    state = torch.load(str(checkpoint(recorded, 40)))
    other = tmp_path / "other.th"
    torch.save({**state, name: torch.zeros(2)}, str(other))
    more = tmp_path / "more.th"
    torch.save({**state, "more": torch.zeros(2)}, str(more))
    for reference in ("best.th", "model_state_e40_b0.th"):
        assert f'--files: {training_state} has nothing for "' in error(training_state)
        assert (
            f'--files: {other} has a tensor [2] for "{name}", but {directory / reference} has a '
            "tensor [9]: it is not a checkpoint of this model"
        ) in error(other, other)
        assert f'{more} has a tensor [2] for "more", but ' in error(more)
        if reference == "best.th":
            (directory / reference).unlink()


def test_the_archive_is_evaluated_by_allennlp(recorded, capsys, tmp_path):
    output = tmp_path / "mean.tar.gz"
    allennlp(capsys, "average", "checkpoints", recorded.directory, "-o", output, "--last", "1")
    # Of one checkpoint it is that checkpoint.
    raw = torch.load(str(checkpoint(recorded, 40)))
    assert all(torch.equal(value, raw[n]) for n, value in archived_weights(output).items())
    assert 0.5 < evaluated(output)["accuracy"] <= 1.0


def test_nothing_is_overwritten_without_force(recorded, capsys, tmp_path):
    output = tmp_path / "mean.tar.gz"
    output.write_text("precious")
    arguments = ["average", "checkpoints", recorded.directory, "-o", output]
    finished = allennlp(capsys, *arguments)
    assert finished.error.endswith(f"{output} exists already; --force overwrites it")
    assert output.read_text() == "precious"
    assert allennlp(capsys, *arguments, "--force").status == 0
    assert archived_weights(output)
    finished = allennlp(capsys, *arguments[:-1], tmp_path, "--force")
    assert finished.error.endswith(f"{tmp_path} is a directory, but has to be a file")


@pytest.mark.parametrize(
    "which, message",
    [
        (["--last", "4"], "--last is 4, but .* has 3 checkpoints"),
        (["--last", "0"], "--last is 0, but .* has 3 checkpoints"),
        (["--epochs", "40", "7"], "has no model_state_e7_b0.th; it has model_state_e38_b0.th, mo"),
        (["--files", "missing.th"], "missing.th: there is no such file"),
        (["--files", __file__], "checkpoints_test.py is truncated or not a file of PyTorch"),
    ],
    ids=str,
)
def test_what_is_not_there_is_named_and_nothing_is_written(
    which, message, recorded, capsys, tmp_path
):
    output = tmp_path / "mean.tar.gz"
    finished = allennlp(capsys, "average", "checkpoints", recorded.directory, "-o", output, *which)
    assert finished.status == 1
    assert re.search(message, finished.error), finished.error
    assert not list(tmp_path.iterdir())


def test_a_truncated_checkpoint_is_named(recorded, capsys, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(str(recorded.directory), str(directory))
    path = directory / "model_state_e39_b0.th"
    path.write_bytes(path.read_bytes()[:500])
    finished = allennlp(capsys, "average", "checkpoints", directory, "-o", tmp_path / "mean.tar.gz")
    assert "model_state_e39_b0.th is truncated or not a file of PyTorch" in finished.error
    assert list(tmp_path.iterdir()) == [directory]
