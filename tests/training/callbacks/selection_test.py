import csv
import re
from pathlib import Path
from typing import Any, Dict, List
from unittest import mock

import pytest
import torch
from allennlp.common import Params
from allennlp.common.checks import ConfigurationError
from allennlp.training.callbacks import TrainerCallback
from allennlp.training.util import evaluate
from pytest import approx
from safetensors.torch import load_file

from allennlp_ema.training.callbacks import monitor, selection
from tests.support.climbing_model import climbing_config
from tests.support.training_runs import (
    DATA,
    best_weights,
    differences,
    latest_checkpoint,
    metrics,
    tagger_config,
    train,
    train_here,
)
from tests.training.callbacks import buffers_test
from tests.training.callbacks.buffers_distributed_test import on_two_ranks, trainer_with
from tests.training.callbacks.monitor_test import evaluated, metrics_of_epoch
from tests.training.callbacks.random_state_test import assert_is_the_same_run
from tests.training.callbacks.recalibrated_statistics_test import NormModel, trainer_of

SELECTION = {"type": "moving_average_selection"}
MONITOR = {"type": "moving_average_monitor"}
FAST = {"type": "exponential", "decay": {"type": "constant", "decay": 0.5}}
BANK = {"type": "bank", "active": "slow", "averages": {"fast": FAST, "slow": {"type": "uniform"}}}

# Above them all are the raw weights the closest, below them the plain mean, and in the end `fast`.
ABOVE, BELOW = 1000.0, -1000.0
CHANGING = [ABOVE, BELOW, 17.0, 22.0]
CHANGING_SELECTED = ["raw", "slow", "fast", "fast"]


def after(num_updates: int) -> Dict[str, float]:
    """What the weight of a `ClimbingModel` is then, by candidate."""
    fast = 0.0
    for raw in range(1, num_updates + 1):
        fast += 0.5 * (raw - fast)
    return {"raw": float(num_updates), "slow": (num_updates + 1) / 2, "fast": fast}


def config(targets: List[float], *callbacks: Any, **trainer: Any) -> Dict[str, Any]:
    trainer = {"moving_average": BANK, **trainer}
    return climbing_config(targets, *(callbacks or [SELECTION]), **trainer)


def selected(directory: Path, num_epochs: int) -> List[str]:
    return [metrics_of_epoch(directory, epoch)["selected"] for epoch in range(num_epochs)]


def said(directory: Path) -> List[str]:
    log = (directory / "out.log").read_text()
    return [line.split(" - ")[-1] for line in log.splitlines() if " - Selected " in line]


@pytest.fixture(scope="module")
def changing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The winner changes from epoch to epoch, with checkpoints of what is assigned."""
    directory = tmp_path_factory.mktemp("changing") / "run"
    checkpointer = {"type": "swapping", "keep_most_recent_by_count": None}
    train_here(config(CHANGING, SELECTION, checkpointer=checkpointer), directory)
    return directory


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than the rest of these trainings."""
    monkeypatch.setattr(monitor, "picture", lambda *arguments: b"")


class TestChoice:
    @pytest.mark.parametrize(
        "targets, best_epoch, winner",
        [([ABOVE, ABOVE], 1, "raw"), ([BELOW, BELOW], 0, "slow"), ([5.0, 11.0], 1, "fast")],
    )
    def test_the_best_candidate_of_the_best_epoch_is_the_result(
        self, targets: List[float], best_epoch: int, winner: str, tmp_path: Path
    ) -> None:
        model: Any = train_here(config(targets), tmp_path / "run")
        weight = after(6 * (best_epoch + 1))[winner]
        assert best_weights(tmp_path / "run")["weight"] == model.weight == weight
        shown = metrics(tmp_path / "run")
        assert selected(tmp_path / "run", 2) == [winner, winner]
        assert (shown["best_epoch"], shown["best_selected"]) == (best_epoch, winner)
        closeness = -abs(weight - targets[best_epoch])
        assert shown["best_validation_closeness"] == approx(closeness)

    def test_it_changes_from_epoch_to_epoch(self, changing: Path) -> None:
        assert selected(changing, 4) == CHANGING_SELECTED
        for epoch, name in enumerate(CHANGING_SELECTED):
            weight = after(6 * (epoch + 1))[name]
            shown = metrics_of_epoch(changing, epoch)
            assert shown["validation_closeness"] == approx(-abs(weight - CHANGING[epoch]))
            # What the checkpoint of this epoch has assigned.
            assert torch.load(str(changing / f"model_state_e{epoch + 1}_b0.th"))["weight"] == weight
            assert shown["best_selected"] == CHANGING_SELECTED[shown["best_epoch"]]
        assert latest_checkpoint(changing)[1]["moving_average"]["selected"] == "fast"

    def test_the_log_says_it_and_the_progress_is_that_of_each_candidate(
        self, changing: Path
    ) -> None:
        assert said(changing)[2] == (
            'Selected "fast" for epoch 2: "slow" has closeness -7.5, "fast" has closeness '
            '-3.8147e-06, "raw" has closeness -1'
        )
        log = (changing / "out.log").read_text()
        for name in ("slow", "fast", "raw"):
            assert log.count(f'validating "{name}": 100%') >= 4

    @pytest.mark.parametrize(
        "active, nan_above, winner",
        [
            # All candidates are NaN, or none and all equal, or all but one.
            ("fast", -1.0, "fast"),
            ("slow", -1.0, "slow"),
            ("slow", 4.0, "slow"),
            ("fast", 4.0, "slow"),
        ],
    )
    def test_nan_never_wins(
        self, active: str, nan_above: float, winner: str, tmp_path: Path
    ) -> None:
        plain = config([ABOVE], nan_above=nan_above, moving_average={**BANK, "active": active})
        train_here(plain, tmp_path / "run")
        assert selected(tmp_path / "run", 1) == [winner]

    @pytest.mark.parametrize("active", ["fast", "slow"])
    def test_ties_go_to_the_configured_average(self, active: str, tmp_path: Path) -> None:
        averages = {name: {**FAST, "start_step": 1000} for name in ("fast", "slow")}
        bank = {"type": "bank", "active": active, "averages": averages}
        train_here(config([ABOVE], moving_average=bank), tmp_path / "run")
        assert selected(tmp_path / "run", 1) == [active]

    def test_candidates_and_metric_on_demand(self, tmp_path: Path) -> None:
        for number, (keys, winner) in enumerate(
            [
                ({"candidates": ["fast", "slow", "fast"]}, "fast"),
                ({"candidates": ["slow"]}, "slow"),
                ({"metric": "+loss"}, "slow"),
                ({"metric": ["+loss", "-closeness"]}, "slow"),
            ]
        ):
            directory = tmp_path / str(number)
            train_here(config([ABOVE], {**SELECTION, **keys}), directory)
            assert selected(directory, 1) == [winner]
            assert best_weights(directory)["weight"] == after(6)[winner]

    @pytest.mark.parametrize("target, winner", [(ABOVE, "raw"), (5.0, "exponential")])
    def test_of_one_average(self, target: float, winner: str, tmp_path: Path) -> None:
        train_here(config([target], moving_average=FAST), tmp_path / "run")
        assert selected(tmp_path / "run", 1) == [winner]
        weight = after(6)["fast" if winner == "exponential" else winner]
        assert best_weights(tmp_path / "run")["weight"] == weight

    def test_epochs_without_validation_keep_what_was_selected(self, tmp_path: Path) -> None:
        every_other = {"type": "should_validate_callback", "validation_interval": 2}
        train_here(config(CHANGING[:3], SELECTION, every_other), tmp_path / "run")
        assert selected(tmp_path / "run", 3) == ["raw", "raw", "fast"]
        assert len(said(tmp_path / "run")) == 2

    def test_by_an_optimizer_that_averages(self, changing: Path, tmp_path: Path) -> None:
        optimizer = {
            "type": "moving_average",
            "optimizer": {"type": "sgd", "lr": 1.0},
            "moving_average": BANK,
        }
        plain = config(CHANGING, optimizer=optimizer, moving_average=None)
        train_here(plain, tmp_path / "run")
        assert selected(tmp_path / "run", 4) == CHANGING_SELECTED
        assert differences(best_weights(tmp_path / "run"), best_weights(changing)) == []


@pytest.fixture(scope="module")
def taggers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same training without averages, with a bank of them, and with a selection from all."""
    directory = tmp_path_factory.mktemp("tagger")
    slow = {"type": "exponential", "decay": {"type": "constant", "decay": 0.8}}
    bank = {**BANK, "averages": {"fast": FAST, "slow": slow}}
    snapshots = {"type": "moving_average_snapshots"}
    for name, trainer in (
        ("raw", {}),
        ("averaged", {"moving_average": bank, "callbacks": [snapshots]}),
        ("selected", {"moving_average": bank, "callbacks": [SELECTION, snapshots]}),
    ):
        keep_all = {"keep_most_recent_by_count": None}
        plain = tagger_config(num_epochs=5, checkpointer=keep_all, **trainer)
        plain["trainer"]["optimizer"] = {"type": "adam", "lr": 0.2}
        plain["model"]["encoder"].update(num_layers=2, dropout=0.3)
        plain["data_loader"]["shuffle"] = True
        train_here(plain, directory / name)
    return directory


class SavedDuringValidation(TrainerCallback):
    """Saves a checkpoint after the first validation batch."""

    def on_batch(self, trainer: Any, *args: Any, **kwargs: Any) -> None:
        if args[4] == 1 and not kwargs["is_training"]:
            trainer._checkpointer.save_checkpoint(trainer)


@pytest.mark.parametrize("target, winner", [(ABOVE, "raw"), (BELOW, "slow"), (5.0, "fast")])
def test_checkpoint_during_a_validation(target: float, winner: str, tmp_path: Path) -> None:
    """It holds raw weights, and the validation goes on with what is selected."""
    saved = {"type": f"{__name__}.SavedDuringValidation"}
    model: Any = train_here(config([target], SELECTION, saved), tmp_path / "run")
    assert torch.load(str(tmp_path / "run" / "model_state_e0_b6.th"))["weight"] == 6.0
    assert model.validated[-3:] == [after(6)[winner]] * 3


@pytest.mark.everywhere
class TestTagger:
    """A real model, with dropout and shuffling."""

    def test_no_epoch_is_worse_than_without_averaging(self, taggers: Path) -> None:
        names = selected(taggers / "selected", 5)
        assert {"raw"} < set(names)
        for epoch in range(5):
            losses = {
                name: metrics_of_epoch(taggers / name, epoch)["validation_loss"]
                for name in ("raw", "averaged", "selected")
            }
            assert losses["selected"] <= min(losses.values())
            assert (losses["selected"] == losses["raw"]) == (names[epoch] == "raw")
        best = metrics(taggers / "selected")["best_validation_loss"]
        assert best < metrics(taggers / "raw")["best_validation_loss"]

    def test_best_weights_are_the_candidate_evaluated_by_hand(self, taggers: Path) -> None:
        directory = taggers / "selected"
        shown = metrics(directory)
        for name, value in evaluated(directory, best_weights(directory)).items():
            assert shown[f"best_validation_{name}"] == approx(value, rel=1e-6)
        point = f"e{shown['best_epoch'] + 1}_b0.th"
        state = torch.load(str(directory / f"training_state_{point}"))["moving_average"]
        averages = state["averages"][shown["best_selected"]]["averages"]
        assert differences(dict(best_weights(directory)), dict(averages)) == []

    def test_training_averages_and_snapshots_do_not_notice(self, taggers: Path) -> None:
        ends = [latest_checkpoint(taggers / name) for name in ("raw", "averaged", "selected")]
        assert differences(dict(ends[0][0]), dict(ends[2][0])) == []
        ends[2][1]["moving_average"].pop("selected")
        for key in ("moving_average", "optimizer"):
            assert differences(ends[1][1][key], ends[2][1][key]) == []
        snapshots = [
            sorted((taggers / name / "averages").iterdir()) for name in ("averaged", "selected")
        ]
        assert len(snapshots[0]) == 2 * 5
        for one, other in zip(*snapshots):
            assert one.name == other.name
            assert differences(load_file(one), load_file(other)) == []


@pytest.mark.parametrize("buffers", [buffers_test.RECALIBRATE, buffers_test.AVERAGE])
def test_model_with_batch_norms(buffers: Dict[str, Any], tmp_path: Path) -> None:
    """The raw weights are evaluated and saved with the raw statistics, an average with its own."""
    for name, keys in (
        ("raw", {"candidates": ["raw"]}),
        ("uniform", {"candidates": ["uniform"]}),
        ("least", {}),
        ("most", {"metric": "+loss"}),
    ):
        plain = buffers_test.config(buffers, {**SELECTION, **keys}, num_epochs=3)
        train_here(plain, tmp_path / name)
        best = best_weights(tmp_path / name)
        for metric, value in evaluated(tmp_path / name, best).items():
            assert metrics(tmp_path / name)[f"best_validation_{metric}"] == approx(value, rel=1e-6)
    for epoch in range(3):
        raw, uniform, least, most = (
            metrics_of_epoch(tmp_path / name, epoch)["validation_loss"]
            for name in ("raw", "uniform", "least", "most")
        )
        assert (least, most) == (min(raw, uniform), max(raw, uniform))
    assert least < most
    for name in ("raw", "uniform"):
        ends = [latest_checkpoint(tmp_path / run)[0] for run in (name, "least")]
        assert differences(dict(ends[0]), dict(ends[1])) == []


class TestWithMonitor:
    def test_no_candidate_is_evaluated_twice(self, tmp_path: Path) -> None:
        model: Any = train_here(config([ABOVE, 11.0], MONITOR, SELECTION), tmp_path / "run")
        num_batches = len(model.validated) // 8
        one, two = after(6), after(12)
        # Each of the candidates, and then the trainer's own validation of the winner.
        in_order = [one["slow"], one["fast"], one["raw"], one["raw"]]
        in_order += [two["slow"], two["fast"], two["raw"], two["fast"]]
        assert model.validated == [weight for weight in in_order for _ in range(num_batches)]

    def test_table_and_picture_have_it(self, tmp_path: Path) -> None:
        with mock.patch.object(monitor, "picture", wraps=monitor.picture) as picture:
            train_here(config([ABOVE, 11.0], SELECTION, MONITOR), tmp_path / "run")
        with (tmp_path / "run" / "moving_average.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["selected"] for row in rows] == ["raw", "fast"]
        for epoch, (row, target) in enumerate(zip(rows, [ABOVE, 11.0])):
            weights = after(6 * (epoch + 1))
            assert float(row["validation_closeness"]) == -abs(weights[row["selected"]] - target)
            assert float(row["validation_raw_closeness"]) == -abs(weights["raw"] - target)
            # Of the average as without a selection.
            distance = (weights["raw"] - weights["slow"]) / weights["raw"]
            assert float(row["distance"]) == approx(distance)
        assert [row["selected"] for row in picture.call_args[0][0]] == ["raw", "fast"]
        assert (tmp_path / "run" / "moving_average.png").read_bytes().startswith(b"\x89PNG")

    @pytest.mark.usefixtures("undrawn")
    def test_raw_weights_that_are_no_candidate_are_validated_by_the_monitor(
        self, tmp_path: Path
    ) -> None:
        selection = {**SELECTION, "candidates": ["fast"]}
        train_here(config([ABOVE], selection, MONITOR), tmp_path / "run")
        shown = metrics(tmp_path / "run")
        assert shown["validation_raw_closeness"] == -994.0
        assert shown["validation_closeness"] == after(6)["fast"] - ABOVE
        assert shown["selected"] == "fast"


TO_BE_KILLED = config(
    [ABOVE, BELOW, ABOVE, BELOW],
    SELECTION,
    MONITOR,
    "random_state",
    checkpointer={"type": "swapping", "save_every_num_batches": 4},
)


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("recovery") / "straight"
    train_here(TO_BE_KILLED, directory)
    assert selected(directory, 4) == ["raw", "slow", "raw", "slow"]
    return directory


class TestRecovery:
    # From the end of an epoch, and from within one.
    @pytest.mark.parametrize("interrupt_at", [(2, 2), (2, 5)], ids=str)
    def test_recovered_run_is_the_same_run(
        self, straight: Path, interrupt_at: Any, tmp_path: Path
    ) -> None:
        train_here(TO_BE_KILLED, tmp_path / "run", interrupt_at=interrupt_at)
        _, state = latest_checkpoint(tmp_path / "run")
        assert state["moving_average"]["selected"] == "slow"
        train_here(TO_BE_KILLED, tmp_path / "run", recover=True)
        assert_is_the_same_run(straight, tmp_path / "run")
        for name in ("moving_average.csv", "moving_average.png"):
            assert (tmp_path / "run" / name).read_bytes() == (straight / name).read_bytes()


def test_two_processes_have_the_primarys_raw_buffers(tmp_path: Path) -> None:
    """One has a batch more than the other; of a model with batch norms the raw weights win."""
    sentences = (DATA / "train.tsv").read_text().splitlines(True)
    (tmp_path / "train.tsv").write_text("".join(sentences[:21]))
    plain = buffers_test.config(
        buffers_test.RECALIBRATE,
        SELECTION,
        MONITOR,
        num_epochs=2,
        validation_metric="+loss",
        checkpointer={"type": "swapping", "save_every_num_batches": 3},
    )
    plain["train_data_path"] = str(tmp_path / "train.tsv")
    plain["data_loader"]["batch_size"] = 2
    plain["distributed"] = {"cuda_devices": [-1, -1]}
    train(plain, tmp_path / "run")
    assert selected(tmp_path / "run", 2) == ["raw", "raw"]
    logs = [(tmp_path / "run" / f"out_worker{rank}.log").read_text() for rank in (0, 1)]
    said = [re.findall('Selected "raw" for epoch .*', log) for log in logs]
    assert len(said[0]) == 2 and said[0] == said[1]
    assert ['validating "raw": 100%' in log for log in logs] == [True, False]
    trainer = trainer_with(tmp_path / "run", best_weights(tmp_path / "run"))
    expected = evaluate(trainer.model, trainer._validation_data_loader)
    shown = metrics(tmp_path / "run")
    assert shown["best_validation_accuracy"] == expected["accuracy"]
    for name in ("accuracy", "loss"):
        assert shown[f"validation_raw_{name}"] == shown[f"validation_{name}"]


def test_all_processes_select_what_the_primary_does(tmp_path: Path) -> None:
    def select(rank: int, directory: Path) -> Any:
        trainer = trainer_of(NormModel(), directory)
        trainer._validation_data_loader = trainer.data_loader
        values = [{"loss": float(rank)}, {"loss": 0.5}]
        with mock.patch.object(selection, "validation_metrics", side_effect=values):
            callback = selection.MovingAverageSelectionCallback(str(directory))
            callback.on_start(trainer)
            with mock.patch.object(type(trainer), "_validation_loss"):
                trainer._validation_loss(0)
        return trainer._moving_average.selected

    assert on_two_ranks(select, tmp_path) == ["exponential", "exponential"]


def test_validation_that_is_interrupted_selects_nothing(tmp_path: Path) -> None:
    trainer = trainer_of(NormModel(), tmp_path)
    trainer._validation_data_loader = trainer.data_loader
    callback = selection.MovingAverageSelectionCallback(str(tmp_path))
    callback.on_start(trainer)
    values = [{"loss": 0.0}, KeyboardInterrupt]
    with mock.patch.object(selection, "validation_metrics", side_effect=values):
        with pytest.raises(KeyboardInterrupt):
            trainer._validation_loss(0)
    average: Any = trainer._moving_average
    assert average.selected is None and not average.is_assigned
    callback.on_end(trainer)
    assert "_validation_loss" not in vars(trainer)


def built_callback(**keys: Any) -> TrainerCallback:
    return TrainerCallback.from_params(Params({**SELECTION, **keys}), serialization_dir="somewhere")


@pytest.mark.parametrize(
    "keys, message",
    [
        ({"candidates": []}, '"candidates" is empty'),
        (
            {"candidates": "raw"},
            "\"candidates\" is 'raw', but has to be a list of strings: \\['raw'\\]",
        ),
        ({"metric": "closeness"}, "\"metric\" is 'closeness', but has to be the name of a metric"),
        ({"metrics": "+closeness"}, 'unknown key "metrics" .* candidates, metric'),
    ],
)
def test_bad_keys_are_refused_when_it_is_built(keys: Dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        built_callback(**keys)


def refusal(plain: Dict[str, Any], directory: Path) -> str:
    with pytest.raises(ConfigurationError) as error:
        train_here(plain, directory)
    return str(error.value)


def test_what_cannot_be_selected_is_refused_in_words(tmp_path: Path) -> None:
    of_nonesuch = {**SELECTION, "candidates": ["raw", "medium"]}
    said = refusal(config([ABOVE], of_nonesuch), tmp_path / "unknown")
    assert "\"candidates\" is 'medium', but has to be one of 'fast', 'slow', 'raw'" in said
    without_data = config([ABOVE])
    del without_data["validation_data_path"]
    said = refusal(without_data, tmp_path / "without_data")
    assert 'selects by the validation metrics, but there is no "validation_data_path"' in said
    said = refusal(config([ABOVE], moving_average=None), tmp_path / "without_average")
    assert 'the callback "moving_average_selection" needs an average' in said
    bank = {"type": "bank", "active": "raw", "averages": {"raw": FAST}}
    said = refusal(config([ABOVE], moving_average=bank), tmp_path / "ambiguous")
    assert 'the bank has an average "raw", which is what' in said
    said = refusal(config([ABOVE], {**SELECTION, "metric": "+f1"}), tmp_path / "metric")
    assert "\"metric\" is '+f1', but the validation has closeness, loss" in said
