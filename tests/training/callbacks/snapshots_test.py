import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, List

import pytest
import torch
from allennlp.common import Lazy, Params
from allennlp.common.checks import ConfigurationError
from allennlp.training.callbacks import TrainerCallback
from allennlp.training.moving_average import ExponentialMovingAverage as AllenNLPAverage
from safetensors.numpy import load_file

from allennlp_ema import MovingAverage
from allennlp_ema.averages import snapshot_files
from allennlp_ema.averages.snapshot_files import find_snapshots, snapshot_paths
from tests.support.training_runs import latest_checkpoint, tagger_config, train_here

BANK = {
    "type": "bank",
    "active": "long",
    "averages": {
        "short": {"type": "power_function", "sigma_rel": 0.05},
        "long": {"type": "window", "window_size": 4, "update_every": 2},
    },
}


def config(moving_average: Dict[str, Any] = BANK, **snapshots: Any) -> Dict[str, Any]:
    callback = {"type": "moving_average_snapshots", **snapshots}
    return tagger_config(moving_average=moving_average, callbacks=[callback], num_epochs=3)


def updates(directory: Path) -> List[int]:
    return sorted(snapshot_paths(directory).values())


def contents(directory: Path) -> Dict[str, Any]:
    return {
        path.name: {name: value.tolist() for name, value in load_file(str(path)).items()}
        for path in snapshot_paths(directory)
    }


@pytest.mark.everywhere
def test_each_average_of_a_bank_after_each_epoch(tmp_path):
    train_here(config(), tmp_path)
    snapshots = find_snapshots(tmp_path / "averages")
    assert [(s.num_updates, s.name) for s in snapshots] == [
        (6, "long"),
        (6, "short"),
        (12, "long"),
        (12, "short"),
        (18, "long"),
        (18, "short"),
    ]
    model_state, training_state = latest_checkpoint(tmp_path)
    for snapshot in snapshots[-2:]:
        state = training_state["moving_average"]["averages"][snapshot.name]
        assert snapshot.counts._asdict() == state["counts"]
        values = load_file(str(snapshot.path))
        assert values.keys() == state["averages"].keys() == model_state.keys()
        for name, value in state["averages"].items():
            assert torch.equal(torch.from_numpy(values[name]), value)


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({"every_num_epochs": 2}, [12, 18]),
        ({"every_num_updates": 5}, [5, 10, 15, 18]),
        ({"every_num_updates": 6, "keep": 2}, [12, 18]),
        ({"every_num_epochs": 1, "keep": 1, "directory": "kept/here"}, [18]),
    ],
    ids=str,
)
def test_every_so_often_and_at_the_end(settings, expected, tmp_path):
    train_here(config({"decay": 0.9}, **settings), tmp_path)
    directory = tmp_path / settings.get("directory", "averages")
    assert updates(directory) == expected
    assert {snapshot.name for snapshot in find_snapshots(directory)} == {"exponential"}


def test_after_a_recovery_all_snapshots_are_those_of_the_uninterrupted_run(tmp_path):
    uninterrupted, recovered = tmp_path / "uninterrupted", tmp_path / "recovered"
    settings = config(every_num_updates=5)
    train_here(settings, uninterrupted)
    train_here(settings, recovered, interrupt_at=(2, 4))
    assert updates(recovered / "averages") == [5, 5, 10, 10, 15, 15]
    # The checkpoint is of update 12. What other snapshots there are of later updates, and half
    # written, the recovered training does not come to write again.
    for future in ("update_0000000015.short.safetensors", "update_0000000010.long.safetensors"):
        whole = (recovered / "averages" / future).read_bytes()
        (recovered / "averages" / "update_0000000017.short.safetensors").write_bytes(whole)
    (recovered / "averages" / "update_0000000005.short.safetensors.partial").write_bytes(b"half")
    (recovered / "averages" / "notes.txt").write_text("mine")
    train_here(settings, recovered, recover=True)
    assert contents(recovered / "averages") == contents(uninterrupted / "averages")
    assert (recovered / "averages" / "notes.txt").exists()
    # Nothing is written when there is nothing left to train.
    times = {path: path.stat().st_mtime_ns for path in snapshot_paths(recovered / "averages")}
    train_here(settings, recovered, recover=True)
    assert times == {p: p.stat().st_mtime_ns for p in snapshot_paths(recovered / "averages")}


def test_the_average_of_an_optimizer(tmp_path):
    settings = config()
    trainer = settings["trainer"]
    trainer["optimizer"] = {
        "type": "moving_average",
        "optimizer": trainer["optimizer"],
        "moving_average": trainer.pop("moving_average"),
    }
    train_here(settings, tmp_path)
    assert updates(tmp_path / "averages") == [6, 6, 12, 12, 18, 18]


class Run:
    """A trainer's calls alone."""

    def __init__(self, serialization_dir: Path, prefix: str = "", **settings: Any) -> None:
        self.model = torch.nn.Linear(2, 2)
        self.average = MovingAverage.from_params(
            Params({"decay": 0.9}),
            parameters=[(prefix + n, p) for n, p in self.model.named_parameters()],
        )
        self.callback: Any = Lazy(
            TrainerCallback, Params({"type": "moving_average_snapshots", **settings})
        ).construct(serialization_dir=str(serialization_dir))
        self.trainer: Any = SimpleNamespace(
            _moving_average=self.average, _ddp_wrapped_model=None, model=self.model
        )

    def start(self, is_primary: bool = True) -> None:
        self.callback.on_start(self.trainer, is_primary=is_primary)

    def updates(self, *numbers: int, is_primary: bool = True) -> None:
        for number in numbers:
            self.average.apply(number)
            self.callback.on_batch(self.trainer, [], [], {}, 0, number, True, is_primary)
            self.callback.on_batch(self.trainer, [], [], {}, 0, number, False, is_primary)

    def end(self) -> None:
        self.callback.on_end(self.trainer, metrics={}, epoch=0)


def test_under_distributed_the_primary_writes_and_names_have_no_prefix(tmp_path):
    run = Run(tmp_path, prefix="module.", every_num_updates=2)
    run.start(is_primary=False)
    run.updates(1, 2, is_primary=False)
    run.callback.on_epoch(run.trainer, {}, 0, is_primary=False)
    run.callback.on_end(run.trainer, {}, 0, is_primary=False)
    assert not (tmp_path / "averages").exists()
    run.updates(3, 4)
    run.end()
    (snapshot,) = find_snapshots(tmp_path / "averages")
    assert snapshot.shapes == {"weight": (2, 2), "bias": (2,)}


def test_a_training_that_failed_writes_no_last_snapshot(tmp_path):
    run = Run(tmp_path, every_num_updates=4)
    run.start()
    run.updates(1, 2)
    run.callback.on_end(run.trainer, metrics=None, epoch=None)
    assert not (tmp_path / "averages").exists()
    run.end()
    assert updates(tmp_path / "averages") == [2]


def test_the_averages_of_banks_within_a_bank_are_named_by_both(tmp_path):
    run = Run(tmp_path)
    bank = {"type": "bank", "active": "outer", "averages": {"outer": BANK, "last": {"decay": 0.9}}}
    run.trainer._moving_average = MovingAverage.from_params(
        Params(bank), parameters=list(run.model.named_parameters())
    )
    run.start()
    run.callback.on_epoch(run.trainer, {}, 0)
    assert not (tmp_path / "averages").exists()
    run.trainer._moving_average.apply(1)
    run.callback.on_epoch(run.trainer, {}, 0)
    run.end()
    assert [snapshot.name for snapshot in find_snapshots(tmp_path / "averages")] == [
        "last",
        "outer.long",
        "outer.short",
    ]


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"every_num_epochs": 0}, '"every_num_epochs" is 0, but has to be an integer >= 1'),
        ({"every_num_updates": 0}, '"every_num_updates" is 0, but has to be an integer >= 1'),
        ({"keep": 0}, '"keep" is 0, but has to be an integer >= 1'),
        (
            {"every_num_epochs": 1, "every_num_updates": 100},
            '"every_num_epochs" and "every_num_updates" cannot both be given, but are 1 and 100',
        ),
        *(
            (
                {"directory": outside},
                f"\"directory\" is '{outside}', but has to be a path within the serialization dir",
            )
            for outside in ("/averages", "../averages", "kept/../../averages")
        ),
        ({"every": 1}, 'unknown key "every"'),
    ],
    ids=str,
)
def test_invalid_settings_are_refused(settings, message, tmp_path):
    with pytest.raises(ConfigurationError, match=message):
        Run(tmp_path, **settings)


def test_a_training_without_averages_that_can_be_written_is_refused(tmp_path):
    run = Run(tmp_path)
    run.trainer._moving_average = None
    with pytest.raises(ConfigurationError, match='"moving_average_snapshots" needs an average'):
        run.start()
    run.trainer._moving_average = AllenNLPAverage(list(run.model.named_parameters()))
    with pytest.raises(ConfigurationError, match="needs an allennlp_ema.MovingAverage"):
        run.start()
    run.trainer._moving_average = run.average
    run.trainer._ddp_wrapped_model = SimpleNamespace(is_sharded=True)
    with pytest.raises(
        ConfigurationError, match="cannot write the averages of a model that SimpleNamespace shards"
    ):
        run.start()


def test_two_callbacks_wait_for_each_other(tmp_path, monkeypatch):
    write = snapshot_files._write_safetensors

    def write_slowly(*args):
        write(*args)
        time.sleep(0.3)

    monkeypatch.setattr(snapshot_files, "_write_safetensors", write_slowly)
    plain = config({"decay": 0.9}, every_num_updates=3)
    plain["trainer"]["callbacks"].append("moving_average_snapshots")
    plain["trainer"]["num_epochs"] = 2
    train_here(plain, tmp_path)
    assert updates(tmp_path / "averages") == [3, 6, 9, 12]
