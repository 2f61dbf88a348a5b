"""
Whole training runs of a tiny tagger, in a process of their own or in this one, and the files that
they write.
"""

import contextlib
import copy
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import torch
from allennlp.commands.train import train_model
from allennlp.common import Params
from allennlp.models import Model
from allennlp.training import Checkpointer
from torch.torch_version import TorchVersion

from tests.support.interruption import KILL_AT, Interruption, interrupted_at

REPOSITORY = Path(__file__).parent.parent.parent
DATA = REPOSITORY / "fixtures" / "data"

SECONDS_UNTIL_A_RUN_HANGS = 600

# Before torch 2 gloo now and then aborts a worker that has finished its training, with these words.
GLOO_ABORTS = TorchVersion(torch.__version__) < "2"
ABORTED = "terminate called without an active exception"


def tagger_config(**trainer: Any) -> Dict[str, Any]:
    """
    The configuration of a tagger: 4 epochs of 6 batches, without shuffling and dropout.

    # Parameters

    **trainer
        What `"trainer"` holds beside: `moving_average={"type": ...}`, `callbacks=[...]`.
    """
    return {
        "dataset_reader": {
            "type": "sequence_tagging",
            "word_tag_delimiter": "###",
            "token_delimiter": "\t",
        },
        "train_data_path": str(DATA / "train.tsv"),
        "validation_data_path": str(DATA / "dev.tsv"),
        "model": {
            "type": "simple_tagger",
            "text_field_embedder": {
                "token_embedders": {"tokens": {"type": "embedding", "embedding_dim": 6}}
            },
            "encoder": {"type": "lstm", "input_size": 6, "hidden_size": 5, "bidirectional": True},
        },
        "data_loader": {"batch_size": 4},
        # Copied, because a test may change its configuration, but not what others share.
        "trainer": copy.deepcopy(
            {
                "num_epochs": 4,
                "cuda_device": -1,
                "optimizer": {"type": "adam", "lr": 0.02},
                **trainer,
            }
        ),
    }


class FinishedProcess(NamedTuple):
    """
    # Parameters

    returncode : `int`
    output : `str`
        What stood on the terminal, stdout and stderr together.
    """

    returncode: int
    output: str


def run_python(
    *arguments: str,
    cwd: Path = REPOSITORY,
    environment: Optional[Dict[str, str]] = None,
    expected_returncode: Optional[int] = 0,
) -> FinishedProcess:
    """Runs the interpreter that runs the tests, see `run_command`."""
    return run_command([sys.executable, *arguments], cwd, environment, expected_returncode)


def run_command(
    command: Sequence[str],
    cwd: Path = REPOSITORY,
    environment: Optional[Dict[str, str]] = None,
    expected_returncode: Optional[int] = 0,
) -> FinishedProcess:
    """
    Runs a command, with this repository on Python's path, as the leader of a process group that
    does not outlive it.

    # Parameters

    expected_returncode : `int`, optional (default = `0`)
        Any other is an `AssertionError` that shows the output. `None` takes any.
    """
    process = subprocess.Popen(
        list(command),
        cwd=str(cwd),
        env={
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "OMP_NUM_THREADS": "1",
            **(environment or {}),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=SECONDS_UNTIL_A_RUN_HANGS)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert expected_returncode in (None, process.returncode), output[-5000:]
    return FinishedProcess(process.returncode, output)


def train(
    config: Dict[str, Any],
    directory: Path,
    recover: bool = False,
    overrides: Optional[Dict[str, Any]] = None,
    include_packages: Sequence[str] = (),
    kill_at: Optional[Tuple[int, int]] = None,
    cwd: Path = REPOSITORY,
    environment: Optional[Dict[str, str]] = None,
    expected_returncode: Optional[int] = 0,
) -> FinishedProcess:
    """
    `allennlp train` in a process of its own.

    # Parameters

    config : `Dict[str, Any]`
        Is written to a file beside `directory`.
    directory : `Path`
        The serialization directory.
    kill_at : `Tuple[int, int]`, optional (default = `None`)
        All processes of the run get a SIGKILL in this epoch (from 0) after this batch (from 1).
    cwd : `Path`, optional
        By default this repository, where `.allennlp_plugins` loads allennlp_ema.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    config_file = directory.parent / f"{directory.name}.json"
    config_file.write_text(json.dumps(config))
    environment = dict(environment or {})
    if kill_at is not None:
        environment[KILL_AT] = ",".join(str(number) for number in kill_at)
        include_packages = [*include_packages, "tests.support.interruption"]
        expected_returncode = -signal.SIGKILL
    arguments = ["-m", "allennlp", "train", str(config_file), "--serialization-dir", str(directory)]
    if recover:
        arguments.append("--recover")
    if overrides:
        arguments += ["--overrides", json.dumps(overrides)]
    for package in include_packages:
        arguments += ["--include-package", package]
    if GLOO_ABORTS and expected_returncode == 0:
        return _run_again_if_aborted(arguments, directory, cwd, environment)
    return run_python(
        *arguments, cwd=cwd, environment=environment, expected_returncode=expected_returncode
    )


def _run_again_if_aborted(
    arguments: List[str], directory: Path, cwd: Path, environment: Dict[str, str]
) -> FinishedProcess:
    with tempfile.TemporaryDirectory() as saved:
        before = Path(saved) / "before"
        if directory.exists():
            shutil.copytree(str(directory), str(before), symlinks=True)
        finished = run_python(
            *arguments, cwd=cwd, environment=environment, expected_returncode=None
        )
        if ABORTED in finished.output:
            shutil.rmtree(str(directory), ignore_errors=True)
            if before.exists():
                shutil.copytree(str(before), str(directory), symlinks=True)
            return run_python(*arguments, cwd=cwd, environment=environment)
    assert finished.returncode == 0, finished.output[-5000:]
    return finished


def train_here(
    config: Dict[str, Any],
    directory: Path,
    recover: bool = False,
    interrupt_at: Optional[Tuple[int, int]] = None,
) -> Optional[Model]:
    """
    The same in this process, whose registry it shares. An exception at `interrupt_at` stands for
    the SIGKILL.

    # Returns

    model : `Optional[Model]`
        As `allennlp.commands.train.train_model` returns it; `None` if it was interrupted.
    """
    with _own_logging():
        if interrupt_at is None:
            return train_model(Params(json.loads(json.dumps(config))), str(directory), recover)
        with contextlib.suppress(Interruption), interrupted_at(interrupt_at):
            train_model(Params(json.loads(json.dumps(config))), str(directory), recover)
            raise AssertionError(f"the training never came to {interrupt_at}")
    return None


@contextlib.contextmanager
def _own_logging() -> Iterator[None]:
    # AllenNLP throws out all handlers, those of pytest among them.
    root = logging.getLogger()
    handlers, level, excepthook = list(root.handlers), root.level, sys.excepthook
    try:
        yield
    finally:
        for handler in root.handlers:
            if handler not in handlers:
                handler.close()
        root.handlers[:] = handlers
        root.setLevel(level)
        sys.excepthook = excepthook


def best_weights(directory: Path) -> Dict[str, torch.Tensor]:
    """What `best.th` holds."""
    return torch.load(str(directory / "best.th"))


def latest_checkpoint(directory: Path) -> Tuple[Dict[str, torch.Tensor], Dict[str, Any]]:
    """
    # Returns

    model_state, training_state : `Tuple[Dict[str, Tensor], Dict[str, Any]]`
        From which `--recover` would go on.
    """
    checkpoint = Checkpointer(str(directory)).load_checkpoint()
    assert checkpoint is not None
    return checkpoint.model_state, checkpoint.trainer_state


KEEP_EVERY_UPDATE = {"save_every_num_batches": 1, "keep_most_recent_by_count": None}


def raw_trajectory(directory: Path) -> List[Dict[str, torch.Tensor]]:
    """
    # Returns

    trajectory : `List[Dict[str, Tensor]]`
        The raw weights after each update of a run whose `"checkpointer"` is `KEEP_EVERY_UPDATE`, in
        float64.
    """
    updates = {}
    for file in directory.glob("model_state_e*_b*.th"):
        epoch, batch = (int(part[1:]) for part in file.stem.split("_")[2:])
        if batch:
            updates[epoch, batch] = torch.load(str(file))
    return [
        {name: weights.double() for name, weights in updates[at].items()} for at in sorted(updates)
    ]


def metrics(directory: Path) -> Dict[str, Any]:
    """What `metrics.json` holds."""
    return json.loads((directory / "metrics.json").read_text())


def differences(one: Any, other: Any, place: str = "") -> Sequence[str]:
    """
    # Returns

    places : `Sequence[str]`
        Where two nested states differ in as much as one bit.
    """
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        is_same = one.dtype == other.dtype and torch.equal(one, other)
        return [] if is_same else [place]
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [d for key in one for d in differences(one[key], other[key], f"{place}/{key}")]
    if isinstance(one, (list, tuple)) and type(one) is type(other) and len(one) == len(other):
        return [
            d
            for number, (a, b) in enumerate(zip(one, other))
            for d in differences(a, b, f"{place}/{number}")
        ]
    return [] if type(one) is type(other) and one == other else [place]


def assert_ended_alike(straight: Path, recovered: Path, best_after_epoch: int = 2) -> None:
    """
    That two runs with a moving average ended in the same, to the last bit.

    # Parameters

    best_after_epoch : `int`, optional (default = `2`)
        The epoch of the kill. Only a later best one says anything about the recovery.
    """
    assert metrics(straight)["best_epoch"] > best_after_epoch
    weights = best_weights(straight)
    model_state, training_state = latest_checkpoint(straight)
    # Else the average would be no average.
    assert differences(dict(weights), dict(model_state)) != []

    assert differences(weights, best_weights(recovered)) == []
    recovered_model_state, recovered_training_state = latest_checkpoint(recovered)
    assert differences(model_state, recovered_model_state) == []
    for key in ("moving_average", "optimizer", "metric_tracker"):
        assert differences(training_state[key], recovered_training_state[key]) == []
    for key, value in metrics(straight).items():
        if key.startswith(("best_", "validation_", "test_")):
            assert metrics(recovered)[key] == value
