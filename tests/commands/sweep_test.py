import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any, Dict, List, Tuple

import pytest
import torch
from allennlp.common.checks import ConfigurationError
from allennlp.models import Model, SimpleTagger
from allennlp.training.metric_tracker import MetricTracker
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from allennlp_ema.after_training.trained_model import TrainedModel
from allennlp_ema.weighting.relative_width import sigma_rel_to_gamma
from tests.commands.synthesize_test import synthesize
from tests.support.command_line import allennlp, archived_weights, evaluated
from tests.support.recorded_training import RecordedTraining
from tests.support.training_runs import DATA, metrics, tagger_config, train_here

NAMES = ["sweep.csv", "sweep.png", "sweep_best.tar.gz"]


def sweep(capsys, recorded: RecordedTraining, output: Path, *more: Any):
    return allennlp(
        capsys,
        "average",
        "sweep",
        recorded.directory,
        DATA / "dev.tsv",
        "--output-dir",
        output,
        *more,
    )


def values(directory: Path) -> List[Dict[str, str]]:
    with (directory / "sweep.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def copied(recorded, tmp_path) -> RecordedTraining:
    shutil.copytree(str(recorded.directory), str(tmp_path / "run"))
    return recorded._replace(directory=tmp_path / "run")


@pytest.mark.everywhere
def test_each_length_is_measured_as_allennlp_does_beside_raw_and_tracked(
    recorded, capsys, tmp_path
):
    finished = sweep(capsys, recorded, tmp_path, "--metric=-loss", "--points", "4")
    assert finished.status == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == NAMES
    rows = values(tmp_path)
    assert [(row["kind"], row["name"], row["sigma_rel"]) for row in rows] == [
        ("raw", "raw weights after update 320", ""),
        ("in training", '"long" as taken in training', ""),
        ("in training", '"short" as taken in training', ""),
        ("synthesized", "power_function", "0.02"),
        ("synthesized", "power_function", "0.04642"),
        ("synthesized", "power_function", "0.1077"),
        ("synthesized", "power_function", "0.25"),
    ]
    windows = [float(row["effective_window"]) for row in rows[3:]]
    assert windows == sorted(windows)
    # That of the power function itself: 1 over the integral of its square.
    gamma = sigma_rel_to_gamma(0.1077)
    assert windows[2] == pytest.approx(320 * (2 * gamma + 1) / (gamma + 1) ** 2, rel=0.01)
    # The ends are beyond what 16 snapshots each can make, and so cannot be the best.
    assert [float(row["residual"]) > 0.05 for row in rows[3:]] == [True, False, False, True]
    losses = [float(row["loss"]) for row in rows]
    best = 4 if losses[4] < losses[5] else 5
    cells = [line.split("│") for line in finished.output.splitlines() if line.startswith("│")]
    assert [row[2].strip() for row in cells if row[-2].strip() == "best"] == [
        rows[best]["sigma_rel"]
    ]

    archive = tmp_path / "sweep_best.tar.gz"
    specification = {"type": "power_function", "sigma_rel": float(rows[best]["sigma_rel"])}
    synthesize(capsys, recorded, tmp_path / "same.tar.gz", specification)
    expected, found = archived_weights(tmp_path / "same.tar.gz"), archived_weights(archive)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    metrics = evaluated(archive)
    assert {key: float(rows[best][key]) for key in metrics} == metrics


def test_raw_and_tracked_weights_are_those_of_the_training(recorded, capsys, tmp_path):
    sweep(capsys, recorded, tmp_path, "--metric", "+accuracy", "--points", "1", "--from", "0.1")
    (raw, long, short, same) = values(tmp_path)
    assert (same["loss"], same["accuracy"]) == (long["loss"], long["accuracy"])
    for row, sigma_rel in ((long, 0.10), (short, 0.05)):
        output = tmp_path / f"{sigma_rel}.tar.gz"
        synthesize(capsys, recorded, output, {"type": "power_function", "sigma_rel": sigma_rel})
        assert evaluated(output)["loss"] == float(row["loss"])
    allennlp(
        capsys,
        "average",
        "checkpoints",
        recorded.directory,
        "--last",
        "1",
        "-o",
        tmp_path / "raw.tar.gz",
    )
    assert evaluated(tmp_path / "raw.tar.gz")["loss"] == float(raw["loss"])
    assert len({row["loss"] for row in (raw, long, short)}) == 3


@pytest.mark.parametrize("checkpointer", ["default", "swapping"])
def test_what_is_left_out_of_averages_is_of_the_same_update(checkpointer, capsys, tmp_path):
    average = {"type": "power_function", "sigma_rel": 0.1, "exclude": ["tag_projection_layer"]}
    config = tagger_config(
        moving_average=average,
        callbacks=["moving_average_snapshots"],
        checkpointer={"type": checkpointer},
        # So that the first epoch is the best.
        validation_metric="+loss",
    )
    directory = tmp_path / "run"
    train_here(config, directory)
    assert metrics(directory)["best_epoch"] == 0
    trained = RecordedTraining(directory, [], torch.empty(0))
    sweep(capsys, trained, tmp_path, "--points", "1", "--from", "0.1")
    _, tracked, same = values(tmp_path)
    measured_in_training = metrics(directory)["validation_loss"]
    assert float(tracked["loss"]) == float(same["loss"]) == pytest.approx(measured_in_training)


@pytest.mark.parametrize(
    "arguments, expected",
    [
        (
            ["--type", "exponential", "--from", "0.9", "--to", "0.99", "--points", "2"],
            [("decay", "0.9"), ("decay", "0.99")],
        ),
        (
            ["--type", "exponential", "--key", "half_life", "--from", "8", "--to", "32"]
            + ["--points", "3"],
            [("half_life", "8.0"), ("half_life", "16.0"), ("half_life", "32.0")],
        ),
        (
            ["--type", "window", "--from", "20", "--to", "80", "--points", "3"],
            [("window_size", "20"), ("window_size", "40"), ("window_size", "80")],
        ),
        (
            ["--type", "uniform", "--from", "161", "--to", "301", "--points", "2"]
            + ["--max-residual", "1"],
            [("start_step", "161"), ("start_step", "301")],
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value[0], str) else "",
)
def test_other_averages_along_other_keys(arguments, expected, recorded, capsys, tmp_path):
    finished = sweep(capsys, recorded, tmp_path, "--metric", "+accuracy", *arguments)
    assert finished.status == 0
    rows = [row for row in values(tmp_path) if row["kind"] == "synthesized"]
    assert [(key, row[key]) for row, (key, _) in zip(rows, expected)] == expected
    assert len(rows) == len(expected)


def test_the_metric_is_the_one_of_the_training_unless_another_is_given(copied, capsys, tmp_path):
    sweep(capsys, copied, tmp_path / "out", "--points", "2", "--from", "0.06", "--to", "0.12")
    assert (tmp_path / "out" / "sweep.png").read_bytes().startswith(b"\x89PNG")
    config = json.loads((copied.directory / "config.json").read_text())
    assert config["trainer"]["validation_metric"] == "+accuracy"
    config["trainer"]["validation_metric"] = ["accuracy"]
    (copied.directory / "config.json").write_text(json.dumps(config))
    finished = sweep(capsys, copied, tmp_path / "other")
    assert "\"validation_metric\" is ['accuracy'], but has to be the name of" in finished.error


def test_without_raw_weights_there_is_no_line_of_them(copied, capsys, tmp_path):
    for path in copied.directory.glob("model_state_*"):
        path.unlink()
    finished = sweep(capsys, copied, tmp_path / "out", "--points", "1", "--from", "0.07")
    assert finished.status == 0
    assert [row["kind"] for row in values(tmp_path / "out")] == [
        "in training",
        "in training",
        "synthesized",
    ]


@pytest.fixture
def evaluations(monkeypatch) -> List[float]:
    """The losses of all evaluations, in their order."""
    losses: List[float] = []
    evaluate = TrainedModel.evaluate

    def recorded_evaluate(self, data):
        metrics = evaluate(self, data)
        losses.append(metrics["loss"])
        return metrics

    monkeypatch.setattr(TrainedModel, "evaluate", recorded_evaluate)
    return losses


PLANE = ["--metric=-loss", "--points", "2", "--from", "0.06", "--to", "0.12"]


def plane(rows: List[Dict[str, str]]) -> List[Tuple[str, str]]:
    return [(r["num_updates"], r["sigma_rel"]) for r in rows if r["kind"] == "synthesized"]


def test_each_length_after_each_number_of_updates(recorded, capsys, tmp_path):
    # An epoch has 8 updates.
    words = ["240", '{"epochs": 20}', '{"fraction": 0.75}']
    finished = sweep(capsys, recorded, tmp_path, *PLANE, "--num-updates", *words)
    assert finished.status == 0, finished.errors
    rows = values(tmp_path)
    assert plane(rows) == [(n, s) for n in ("160", "240") for s in ("0.06", "0.12")]
    assert [(r["kind"], r["name"], r["num_updates"]) for r in rows[:3]] == [
        ("raw", "raw weights after update 320", "320"),
        ("in training", '"long" as taken in training', "160"),
        ("in training", '"short" as taken in training', "160"),
    ]
    synthesized = rows[3:5] + rows[7:]
    best = min(synthesized, key=lambda row: float(row["loss"]))
    cells = [line.split("│") for line in finished.output.splitlines() if line.startswith("│")]
    assert [[cell.strip() for cell in row[2:4]] for row in cells if row[-2].strip() == "best"] == [
        [best["sigma_rel"], best["num_updates"]]
    ]
    assert evaluated(tmp_path / "sweep_best.tar.gz")["loss"] == float(best["loss"])
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")
    # As in a sweep of its own.
    assert sweep(capsys, recorded, tmp_path / "own", *PLANE, "--num-updates", "160").status == 0
    own = values(tmp_path / "own")
    assert [(r["evaluation"], r["loss"]) for r in own[1:]] == [
        (r["evaluation"], r["loss"]) for r in rows[1:5]
    ]


def test_all_are_those_of_the_snapshots(recorded, capsys, tmp_path):
    arguments = ["--points", "1", "--from", "0.1", "--num-updates", "all", "30"]
    assert sweep(capsys, recorded, tmp_path, *arguments).status == 0
    found = [number for number, _ in plane(values(tmp_path))]
    assert found == [str(n) for n in sorted([30, *range(20, 321, 20)])]


def test_what_was_evaluated_is_not_evaluated_again(recorded, capsys, tmp_path, evaluations):
    arguments = [*PLANE, "--num-updates", "160", "320"]
    assert sweep(capsys, recorded, tmp_path, *arguments).status == 0
    # Two averages of each number of updates, two snapshots of it, and the raw weights.
    assert len(evaluations) == len(set(evaluations)) == 9
    table = (tmp_path / "sweep.csv").read_bytes()
    best = archived_weights(tmp_path / "sweep_best.tar.gz")
    assert sweep(capsys, recorded, tmp_path, *arguments, "--force").status == 0
    assert len(evaluations) == 9
    assert (tmp_path / "sweep.csv").read_bytes() == table
    again = archived_weights(tmp_path / "sweep_best.tar.gz")
    assert all(torch.equal(again[name], best[name]) for name in best)
    # Refined: one more length, one more number of updates.
    finer = ["--points", "3", *PLANE[3:], "--num-updates", "160", "200", "320"]
    assert sweep(capsys, recorded, tmp_path, "--metric=-loss", *finer, "--force").status == 0
    assert len(evaluations) == 9 + 2 + 5
    # By content: on a copy of the data.
    shutil.copy(str(DATA / "dev.tsv"), str(tmp_path / "dev.tsv"))
    data = ["average", "sweep", recorded.directory, tmp_path / "dev.tsv"]
    where = ["--output-dir", tmp_path, "--force"]
    assert allennlp(capsys, *data, *where, *arguments).status == 0
    assert len(evaluations) == 9 + 2 + 5
    # Other data of the same name.
    (tmp_path / "dev.tsv").write_text((DATA / "dev.tsv").read_text().splitlines()[0] + "\n")
    assert allennlp(capsys, *data, *where, *PLANE, "--num-updates", "320").status == 0
    assert len(evaluations) == 9 + 2 + 5 + 5


def test_it_goes_on_where_it_was_stopped(recorded, capsys, tmp_path, evaluations, monkeypatch):
    arguments = [*PLANE, "--num-updates", "160", "320"]
    evaluate = TrainedModel.evaluate

    def stopped(self, data):
        if len(evaluations) == 4:
            raise KeyboardInterrupt
        return evaluate(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(TrainedModel, "evaluate", stopped)
        with pytest.raises(KeyboardInterrupt):
            sweep(capsys, recorded, tmp_path, *arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["sweep.csv"]
    assert [float(row["loss"]) for row in values(tmp_path)] == evaluations
    assert sweep(capsys, recorded, tmp_path, *arguments).status == 0
    assert len(evaluations) == len(set(evaluations)) == 9
    assert [float(row["loss"]) for row in values(tmp_path)] == evaluations


def test_other_snapshots_are_evaluated_again(copied, capsys, tmp_path, evaluations):
    arguments = ["--points", "1", "--from", "0.07"]
    assert sweep(capsys, copied, tmp_path / "out", *arguments).status == 0
    path = copied.directory / "averages" / "update_0000000320.short.safetensors"
    with safe_open(str(path), framework="numpy") as file:
        metadata = file.metadata()
    changed = {name: value * 1.5 for name, value in load_file(str(path)).items()}
    save_file(changed, str(path), metadata=metadata)
    assert sweep(capsys, copied, tmp_path / "out", *arguments, "--force").status == 0
    # Not the raw weights, nor the other snapshot.
    assert len(evaluations) == 4 + 2
    assert len(values(tmp_path / "out")) == 4


def test_durations_need_a_checkpoint_from_the_end_of_an_epoch(copied, capsys, tmp_path):
    for path in copied.directory.glob("model_state_*"):
        path.rename(path.with_name(path.name.replace("_b0", "_b3")))
    finished = sweep(capsys, copied, tmp_path / "out", "--num-updates", '{"epochs": 3}')
    assert "does not tell how many updates an epoch has" in finished.error


def test_nothing_is_overwritten_without_force(recorded, capsys, tmp_path):
    arguments = ["--points", "1", "--from", "0.07"]
    for name in NAMES:
        (tmp_path / name).write_text("precious")
        finished = sweep(capsys, recorded, tmp_path, *arguments)
        assert f"{tmp_path / name} exists already" in finished.error
        assert finished.error.endswith("--force overwrites it")
        assert [path.name for path in tmp_path.iterdir()] == [name]
        (tmp_path / name).unlink()
    (tmp_path / "sweep.csv").write_text("precious")
    assert sweep(capsys, recorded, tmp_path, *arguments, "--force").status == 0
    assert len(values(tmp_path)) == 4


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            ["--metric", "accuracy"],
            "--metric is 'accuracy', but has to be the name of a metric after",
        ),
        (["--metric", "+f1"], "--metric is '+f1', but the model has accuracy, accuracy3, loss"),
        (["--type", "polynomial"], 'type "polynomial" and their "eta", --from and --to have to be'),
        (
            ["--type", "mine"],
            'for averages of type "mine", --key, --from and --to have to be given',
        ),
        (
            ["--type", "mine", "--key", "a", "--from", "1", "--to", "2"],
            "\"type\" is 'mine', but has to be one of",
        ),
        (["--points", "0"], "--points is 0, but has to be at least 1"),
        (["--to", "0.3", "--points", "2"], '"sigma_rel" is 0.3, but has to be a finite number'),
        (["--from", "0"], '"sigma_rel": an average with 0 has no length'),
        (
            ["--to", "0.021"],
            "none of these averages comes out with a residual within --max-residual 0.05; the "
            "smallest is 0.1",
        ),
        (["--num-updates", "160", "400"], "the latest snapshot is of update 320"),
        (["--num-updates", "0"], "the earliest snapshot is of update 20, so there is none from"),
        *[
            (["--num-updates", "160", text], f"--num-updates is {text!r}, but has to be a number")
            for text in ("1.5", "every", "[2]", '{"epochs"', "")
        ],
        (["--num-updates", '{"epochs": -1}'], '--num-updates: "epochs" is -1, but has to be'),
        (["--num-updates", '{"epochs": 41}'], "nothing is known of an average after 328 updates"),
        (["--num-updates", '{"fraction": 1.5}'], '--num-updates: "fraction" is 1.5, but has to be'),
        (["--num-updates", '{"updates": 5}'], '--num-updates: unknown key "updates"'),
        (
            ["--cuda-device", "99"],
            "--cuda-device is 99, but has to be -1 (the CPU) or the number of a GPU, counted from "
            "0, of which there are ",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_said_before_anything_is_written(
    arguments, message, recorded, capsys, tmp_path
):
    finished = sweep(capsys, recorded, tmp_path / "out", *arguments)
    assert message in finished.error
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_where_nothing_can_be_written_nothing_is_measured(recorded, capsys, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("precious")
    finished = sweep(capsys, recorded, tmp_path / "file")
    assert f"{tmp_path / 'file'} is a file, but has to be a directory" in finished.error

    def fail(path: Path, *args: Any, **kwargs: Any) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(Path, "mkdir", fail)
    finished = sweep(capsys, recorded, tmp_path / "new")
    assert "no space left" in finished.error and "1 of 12" not in finished.output


def test_a_metric_of_several_numbers_is_refused_at_the_first(
    recorded, capsys, tmp_path, monkeypatch
):
    monkeypatch.setattr(TrainedModel, "evaluate", lambda self, data: {"accuracy": [0.5, 0.6]})
    finished = sweep(capsys, recorded, tmp_path, "--metric", "+accuracy")
    assert finished.error.endswith(
        "--metric is '+accuracy', which is [0.5, 0.6], but has to be a single number"
    )
    assert "1 of 12" not in finished.output


def test_validation_data_are_read_as_training_data_if_nothing_else_is_said(
    copied, capsys, tmp_path
):
    config = json.loads((copied.directory / "config.json").read_text())
    config["validation_data_loader"] = None
    (copied.directory / "config.json").write_text(json.dumps(config))
    assert sweep(capsys, copied, tmp_path / "out", "--points", "1", "--from", "0.1").status == 0


@Model.register("later_tagger")
class LaterTagger(SimpleTagger):
    """Has a buffer that weights of earlier versions lack."""

    authorized_missing_keys = [r"positions$"]

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.register_buffer("positions", torch.arange(5))


def test_what_a_module_says_may_be_missing_may_be_missing(copied, capsys, tmp_path):
    config = json.loads((copied.directory / "config.json").read_text())
    config["model"]["type"] = "later_tagger"
    (copied.directory / "config.json").write_text(json.dumps(config))
    same = ["--metric=-loss", "--points", "1", "--from", "0.1"]
    assert sweep(capsys, copied, tmp_path / "out", *same).status == 0
    _, long, _, synthesized = values(tmp_path / "out")
    assert synthesized["loss"] == long["loss"]
    found = archived_weights(tmp_path / "out" / "sweep_best.tar.gz")
    assert found["positions"].tolist() == [0, 1, 2, 3, 4]

    # Nothing else may be missing.
    path = copied.directory / "model_state_e40_b0.th"
    raw = torch.load(str(path))
    name = "tag_projection_layer._module.bias"
    bias = raw.pop(name)
    for changed, message in (
        ({}, f"does not load the weights: missing are {name}, unexpected are none"),
        ({"bias": bias}, f"does not load the weights: missing are {name}, unexpected are bias"),
        ({name: bias[:-1]}, f"size mismatch for {name}: "),
    ):
        torch.save({**raw, **changed}, str(path))
        assert message in sweep(capsys, copied, tmp_path / "out", *same, "--force").error


def test_best_weights_that_cannot_be_loaded_are_named(copied, capsys, tmp_path):
    path = copied.directory / "best.th"
    whole = path.read_bytes()
    path.write_bytes(whole[:500])
    finished = sweep(capsys, copied, tmp_path / "out")
    assert f"error: {path} is truncated or not a file of PyTorch: " in finished.error
    path.unlink()
    assert f"{path}: there is no such file" in sweep(capsys, copied, tmp_path / "out").error
    torch.save({"other": torch.zeros(3)}, str(path))
    finished = sweep(capsys, copied, tmp_path / "out")
    assert f"error: the model does not load {path}: Error loading state dict" in finished.error


def test_several_metrics_are_compared_by_the_trainers_own_rule(copied, capsys, tmp_path):
    config = json.loads((copied.directory / "config.json").read_text())
    config["trainer"]["validation_metric"] = ["+accuracy", "-loss"]
    (copied.directory / "config.json").write_text(json.dumps(config))
    arguments = ["--points", "3", "--from", "0.05", "--to", "0.12"]
    for more in ([], ["--metric", "+accuracy", "--metric=-loss"]):
        finished = sweep(capsys, copied, tmp_path / "out", *arguments, *more, "--force")
        assert finished.status == 0, finished.errors
        rows = values(tmp_path / "out")
        tracker = MetricTracker(["+accuracy", "-loss"])
        scores = [
            tracker.combined_score({key: float(row[key]) for key in ("accuracy", "loss")})
            for row in rows
        ]
        cells = [line.split("│") for line in finished.output.splitlines() if line.startswith("│")]
        assert "+accuracy -loss" in finished.output
        assert [cell[-3].strip() for cell in cells] == [f"{score:.4f}" for score in scores]
        best = max(range(3, 6), key=lambda number: scores[number])
        assert [cell[-2].strip() == "best" for cell in cells].index(True) == best


def test_data_are_taken_as_allennlp_evaluate_takes_them(recorded, capsys, tmp_path):
    arguments = ["--points", "1", "--from", "0.1", "--output-dir", tmp_path, "--force"]

    def measured(data: str, *more: str) -> Dict[str, str]:
        how = [recorded.directory, data, *arguments, *more]
        finished = allennlp(capsys, "average", "sweep", *how)
        assert finished.status == 0, finished.errors
        return values(tmp_path)[-1]

    dev, train = DATA / "dev.tsv", DATA / "train.tsv"
    alone = measured(str(dev), "--metric=-loss")
    both = measured(f"{dev},{train}", "--metric=-train_loss")
    assert (both["dev_loss"], both["dev_accuracy"]) == (alone["loss"], alone["accuracy"])
    # Which is shuffled after the other.
    train_loss = float(measured(json.dumps(str(train)), "--metric=-loss")["loss"])
    assert float(both["train_loss"]) == pytest.approx(train_loss, rel=1e-2)


def test_data_whose_metrics_would_have_the_same_names_are_refused(recorded, capsys, tmp_path):
    paths = [tmp_path / name for name in ("A/dev.tsv", "B/dev.txt")]
    for path in paths:
        path.parent.mkdir()
        shutil.copy(str(DATA / "dev.tsv"), str(path))
    data = ",".join(map(str, paths))
    output = tmp_path / "out"
    arguments = [recorded.directory, data, "--points", "1", "--from", "0.1"]
    finished = allennlp(capsys, "average", "sweep", *arguments, "--output-dir", output)
    assert finished.error.endswith(
        f'the data {paths[0]} and {paths[1]} would both have metrics "dev_*": give files of '
        "different names"
    )
    assert not list(output.iterdir())


def test_json_goes_to_the_reader_as_an_object(recorded, capsys, tmp_path, monkeypatch):
    read = []

    def loader(self: TrainedModel, key: str, reader: Any, path: Any) -> Any:
        read.append((key, path))
        raise ConfigurationError("read")

    monkeypatch.setattr(TrainedModel, "_data_loader", loader)
    data = json.dumps({"tagging": "tagging.tsv", "parsing": "parsing.tsv"})
    for more in ([], ["--recalibrate", data]):
        arguments = [recorded.directory, data, "--output-dir", tmp_path, *more]
        assert allennlp(capsys, "average", "sweep", *arguments).error.endswith("read")
    assert read == [("data_loader", json.loads(data))] * 2


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_poisoned_snapshot_is_refused_by_name(value, copied, capsys, tmp_path):
    path = copied.directory / "averages" / "update_0000000320.long.safetensors"
    with safe_open(str(path), framework="numpy") as file:
        metadata = file.metadata()
    poisoned = load_file(str(path))
    name = "tag_projection_layer._module.bias"
    poisoned[name][0] = value
    save_file(poisoned, str(path), metadata=metadata)
    specification = {"type": "power_function", "sigma_rel": 0.07}
    for finished in (
        sweep(capsys, copied, tmp_path / "out"),
        synthesize(capsys, copied, tmp_path / "made.tar.gz", specification),
    ):
        assert f'long.safetensors: "{name}" ' in finished.error
    assert not (tmp_path / "made.tar.gz").exists()


def test_missing_data_are_named(recorded, capsys, tmp_path):
    finished = allennlp(
        capsys,
        "average",
        "sweep",
        recorded.directory,
        tmp_path / "missing.tsv",
        "--output-dir",
        tmp_path,
    )
    assert re.search("missing.tsv", finished.error)
    assert not list(tmp_path.iterdir())
