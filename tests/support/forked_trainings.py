"""
Runs `allennlp train` with several workers many times, in forks of one process, `python -m
tests.support.forked_trainings PLAN`. A worker that is not forked has to import everything first,
which takes most of its time.
"""

import functools
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple
from unittest import mock

from tests.support.interruption import KILL_AT
from tests.support.training_runs import run_python, tagger_config

SECONDS = 240


class Training(NamedTuple):
    """
    # Parameters

    config : `Dict[str, Any]`
    directory : `Path`
    recover : `bool`
    kill_at : `Tuple[int, int]`
        All workers of it get a SIGKILL in this epoch (from 0) after this batch (from 1).
    node_rank : `int`
    fails : `bool`
        Whether it is to end with an error.
    include_packages : `Sequence[str]`
    """

    config: Dict[str, Any]
    directory: Path
    recover: bool = False
    kill_at: Optional[Tuple[int, int]] = None
    node_rank: int = 0
    fails: bool = False
    include_packages: Sequence[str] = ()


def workers_config(
    num_workers: int = 2,
    accelerator: Optional[Dict[str, Any]] = None,
    distributed: Optional[Dict[str, Any]] = None,
    **trainer: Any,
) -> Dict[str, Any]:
    """The tagger on several CPUs: epochs of 6 batches for each of two workers."""
    config = tagger_config(**{"num_epochs": 3, **trainer})
    config["data_loader"] = {"batch_size": 2}
    config["distributed"] = {"cuda_devices": [-1] * num_workers, **(distributed or {})}
    if accelerator is not None:
        config["distributed"]["ddp_accelerator"] = accelerator
    return config


def run_trainings(*stages: Sequence[Training]) -> List[str]:
    """
    Runs the trainings of each stage beside each other, the stages one after the other.

    # Returns

    outputs : `List[str]`
        What each wrote to the terminal.
    """
    plan: List[Any] = []
    for stage in stages:
        plan.append([])
        for training in stage:
            name = f"{training.directory.name}_{len(plan)}"
            config = training.directory.parent / f"{name}.json"
            config.parent.mkdir(parents=True, exist_ok=True)
            config.write_text(json.dumps(training.config))
            arguments = ["train", str(config), "--serialization-dir", str(training.directory)]
            arguments += ["--node-rank", str(training.node_rank)]
            arguments += ["--recover"] if training.recover else []
            packages = list(training.include_packages)
            if training.kill_at is not None:
                packages.append("tests.support.interruption")
            for package in packages:
                arguments += ["--include-package", package]
            kill_at = ",".join(map(str, training.kill_at or ()))
            plan[-1].append([arguments, kill_at, str(config.with_suffix(".out")), training.fails])
    trainings = [training for stage in stages for training in stage]
    file = trainings[0].directory.parent / f"{trainings[0].directory.name}_plan.json"
    file.write_text(json.dumps(plan))
    run_python("-m", "tests.support.forked_trainings", str(file))
    return [Path(output).read_text() for stage in plan for _, _, output, _ in stage]


def _train(arguments: List[str], kill_at: str, output: str) -> int:
    import torch.multiprocessing as mp
    from allennlp.commands import main

    os.setsid()
    # A training that hangs ends all the same, with its workers.
    signal.signal(signal.SIGALRM, lambda *_: os.killpg(0, signal.SIGABRT))
    signal.alarm(SECONDS)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    if kill_at:
        os.environ[KILL_AT] = kill_at
        del sys.modules["tests.support.interruption"]
    forked = functools.partial(mp.start_processes, start_method="fork")
    with mock.patch.object(sys, "argv", ["allennlp", *arguments]), mock.patch.object(
        mp, "spawn", forked
    ):
        main(prog="allennlp")
    return 0


def _run_stage(stage: List[Any]) -> None:
    started = []
    for arguments, kill_at, output, fails in stage:
        process = os.fork()
        if process == 0:
            status = 1
            try:
                status = _train(arguments, kill_at, output)
            except SystemExit as exit_:
                status = int(exit_.code or 0)
            except BaseException:
                sys.excepthook(*sys.exc_info())
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        started.append((process, bool(kill_at), output, fails))
        # The first is the one that the others connect to.
        time.sleep(0.1)
    for process, is_killed, output, fails in started:
        _, status = os.waitpid(process, 0)
        ended_by = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        expected = signal.SIGKILL if is_killed else 0
        is_right = ended_by == expected and (is_killed or bool(status) == fails)
        if not is_right:
            print(Path(output).read_text()[-6000:])
        assert is_right, (output, status)


if __name__ == "__main__":
    import torch

    import allennlp_ema  # noqa: F401

    torch.set_num_threads(1)
    for each in json.loads(Path(sys.argv[1]).read_text()):
        _run_stage(each)
