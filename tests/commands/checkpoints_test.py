import re
import shutil
from pathlib import Path

import pytest
import torch

from tests.support.command_line import allennlp, archived_weights, evaluated
from tests.support.recorded_training import RecordedTraining


def checkpoint(recorded: RecordedTraining, epoch: int) -> Path:
    return recorded.directory / f"model_state_e{epoch}_b0.th"


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
