import json
import re
import shutil
import tarfile
from pathlib import Path
from typing import Any, Dict, List, Tuple

import pytest
import torch
from torch import Tensor

from tests.commands.inspect_test import rows
from tests.support.command_line import allennlp, archived_weights, evaluated
from tests.support.recorded_training import RecordedTraining
from tests.support.training_runs import DATA

# How much noise is added to one model. There is less of it in a mean.
MODELS = {"worst": 9.0, "one": 0.3, "other": 0.3, "third": 0.3}


def written(recorded: RecordedTraining, path: Path, state: Dict[str, Tensor]) -> Path:
    """What a training with these weights would have left."""
    shutil.copytree(str(recorded.directory / "vocabulary"), str(path / "vocabulary"))
    shutil.copy(str(recorded.directory / "config.json"), str(path))
    torch.save(state, str(path / "best.th"))
    return path


@pytest.fixture(scope="module")
def states(recorded: RecordedTraining) -> Dict[str, Dict[str, Tensor]]:
    state = torch.load(str(recorded.directory / "best.th"))
    sizes = [state[name].numel() for name in recorded.names]
    generator = torch.Generator().manual_seed(0)
    states = {}
    for key, scale in MODELS.items():
        values = recorded.trajectory[-1]
        values = values + scale * torch.randn(values.shape, generator=generator)
        states[key] = {
            name: value.reshape(state[name].shape).float()
            for name, value in zip(recorded.names, values.split(sizes))
        }
    return states


@pytest.fixture(scope="module")
def runs(recorded, states, tmp_path_factory) -> Dict[str, Path]:
    directory = tmp_path_factory.mktemp("runs")
    return {key: written(recorded, directory / key, state) for key, state in states.items()}


def mean(states: List[Dict[str, Tensor]]) -> Dict[str, Tensor]:
    return {
        name: torch.stack([state[name].double() for state in states]).mean(0).float()
        for name in states[0]
    }


def assert_equal(found: Dict[str, Tensor], expected: Dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def packed(run: Path, archive: Path) -> Path:
    with tarfile.open(str(archive), "w:gz") as tar:
        tar.add(str(run / "best.th"), arcname="weights.th")
        for name in ("config.json", "vocabulary"):
            tar.add(str(run / name), arcname=name)
    return archive


def shown(capsys: Any, archive: Path) -> Tuple[str, str]:
    """How an archive was made and of what, by `inspect`."""
    lines = rows(capsys, archive)
    return lines[0][1], " ".join(line[2] for line in lines)


@pytest.mark.everywhere
def test_a_uniform_soup_is_the_mean_of_directories_and_archives(
    runs, states, recorded, capsys, tmp_path
):
    archive = packed(runs["other"], tmp_path / "other.tar.gz")
    only_archive = written(recorded, tmp_path / "run", states["third"])
    packed(only_archive, only_archive / "model.tar.gz")
    (only_archive / "best.th").unlink()
    expected = mean([states[key] for key in ("one", "other", "third")])
    for models in ([runs["one"], archive, only_archive], [archive, runs["one"], only_archive]):
        output = tmp_path / "soup.tar.gz"
        finished = allennlp(capsys, "average", "soup", *models, "-o", output, "--force")
        assert finished.status == 0, finished.errors
        assert_equal(archived_weights(output), expected)
        names = ", ".join(map(str, models))
        assert finished.output.splitlines()[-1] == f"{output}: the uniform soup of {names}"
        assert shown(capsys, output) == ("uniform soup", names)


@pytest.mark.parametrize("metric, sign", [("+accuracy", 1), ("-loss", -1), (None, 1)])
def test_a_greedy_soup_is_the_hand_made_one(metric, sign, runs, states, recorded, capsys, tmp_path):
    scratch = written(recorded, tmp_path / "scratch", states["one"])

    def value(kept: List[str]) -> float:
        torch.save(mean([states[key] for key in kept]), str(scratch / "best.th"))
        return sign * evaluated(scratch)[(metric or "+accuracy")[1:]]

    order = sorted(MODELS, key=lambda key: -value([key]))
    kept = order[:1]
    for key in order[1:]:
        if value([*kept, key]) >= value(kept):
            kept.append(key)
    # Else it would be no choice.
    assert 1 < len(kept) < len(order)

    output = tmp_path / "soup.tar.gz"
    options = ["--greedy", DATA / "dev.tsv"] + ([] if metric is None else [f"--metric={metric}"])
    finished = allennlp(capsys, "average", "soup", *runs.values(), "-o", output, *options)
    assert finished.status == 0, finished.errors
    assert_equal(archived_weights(output), mean([states[key] for key in kept]))
    steps = re.findall(r"step \d, the soup with .*/(\w+): (\w+) (\S+), (.*)", finished.output)
    assert [(path, verdict == "kept") for path, _, _, verdict in steps] == [
        (key, key in kept) for key in order
    ]
    number = float([value for _, _, value, verdict in steps if verdict == "kept"][-1])
    assert sign * number == pytest.approx(value(kept), rel=1e-5)
    alone = re.findall(r"^.*/(\w+): \w+ (\S+)$", finished.output, re.MULTILINE)
    assert [(key, sign * float(number)) for key, number in alone] == [
        (key, pytest.approx(value([key]), rel=1e-5)) for key in MODELS
    ]
    assert shown(capsys, output) == ("greedy soup", ", ".join(str(runs[key]) for key in kept))


def test_several_metrics_are_one_by_their_signed_sum(runs, capsys, tmp_path):
    arguments = [runs["one"], runs["other"], "-o", tmp_path / "soup.tar.gz"]
    options = ["--greedy", DATA / "dev.tsv", "--metric", "+accuracy", "--metric=-loss"]
    finished = allennlp(capsys, "average", "soup", *arguments, *options)
    metrics = evaluated(runs["one"])
    first = finished.output.splitlines()[0]
    assert first.startswith(f"{runs['one']}: +accuracy -loss ")
    value = metrics["accuracy"] - metrics["loss"]
    assert float(first.split()[-1]) == pytest.approx(value, rel=1e-5)


def refused(capsys: Any, tmp_path: Path, *arguments: Any) -> str:
    output = tmp_path / "soup.tar.gz"
    finished = allennlp(capsys, "average", "soup", *arguments, "-o", output)
    assert finished.status == 1 and not output.exists()
    return finished.error.replace("allennlp average soup: error: ", "")


def test_models_that_differ_are_named(runs, states, recorded, capsys, tmp_path):
    name = "tag_projection_layer._module.bias"
    other = written(recorded, tmp_path / "other", {**states["other"], name: torch.zeros(2)})
    for options in ([], ["--greedy", DATA / "dev.tsv"]):
        assert re.fullmatch(
            rf'\S+ has float32\[\d\] for "{name}", but \S+ has float32\[\d\]: they are not of one '
            "model",
            refused(capsys, tmp_path, runs["one"], other, *options),
        )


def test_vocabularies_that_differ_are_named(runs, states, recorded, capsys, tmp_path):
    other = written(recorded, tmp_path / "other", states["other"])
    labels = other / "vocabulary" / "labels.txt"
    labels.write_text(labels.read_text().replace("\n", "x\n", 1))
    assert re.fullmatch(
        rf'{other} has "\w+x" in line 1 of the namespace "labels", but {runs["one"]} has "\w+": '
        "they have to have one vocabulary",
        refused(capsys, tmp_path, runs["one"], other),
    )


def test_what_is_missing_or_wrong_is_one_line(runs, capsys, tmp_path):
    one, other = runs["one"], runs["other"]
    greedy = ["--greedy", DATA / "dev.tsv"]
    missing, foreign = tmp_path / "missing", tmp_path / "foreign.tar.gz"
    foreign.write_bytes(b"no archive")
    for arguments, message in (
        ([one], f"a soup is of at least two models, but {one} is only one"),
        ([one, missing], f"{missing}: there is no such file or directory"),
        ([one, foreign], f"{foreign} is truncated or not an archive"),
        ([one, tmp_path], f"{tmp_path} is not the serialization directory of a training"),
        ([one, other, "--metric", "+accuracy"], "--metric is what --greedy DATA compares, which "),
        ([one, other, *greedy, "--metric", "+f1"], "--metric is '+f1', but the model has accuracy"),
        ([one, other, *greedy, "--metric", "f1"], "--metric is 'f1', but has to be the name of"),
    ):
        assert refused(capsys, tmp_path, *arguments).startswith(message)


def test_a_truncated_archive_is_named_by_its_own_name(runs, capsys, tmp_path):
    archive = packed(runs["other"], tmp_path / "other.tar.gz")
    weights = tmp_path / "cut" / "best.th"
    shutil.copytree(str(runs["other"]), str(weights.parent))
    weights.write_bytes(weights.read_bytes()[:500])
    cut = packed(weights.parent, tmp_path / "cut.tar.gz")
    message = f"{cut}/weights.th is truncated or not a file of PyTorch"
    assert refused(capsys, tmp_path, archive, cut).startswith(message)


def test_the_archive_says_how_it_was_made(runs, capsys, tmp_path):
    output = tmp_path / "soup.tar.gz"
    options = ["--greedy", DATA / "dev.tsv"]
    allennlp(capsys, "average", "soup", runs["one"], runs["worst"], "-o", output, *options)
    with tarfile.open(str(output)) as archive:
        file = archive.extractfile("averaging.json")
        assert file is not None
        provenance = json.loads(file.read())
    assert provenance["files"] == [str(runs["one"])]
    assert provenance["data"] == str(DATA / "dev.tsv")
    assert [(step["file"], step["is_kept"]) for step in provenance["steps"]] == [
        (str(runs["one"]), True),
        (str(runs["worst"]), False),
    ]
