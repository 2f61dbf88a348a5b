"""
Interrupts a training at a batch, or while it writes a file. The configuration does not say so,
because `--recover` compares it with that of the interrupted run.
"""

import contextlib
import os
import signal
from pathlib import Path
from typing import Any, Iterator, Tuple
from unittest import mock

from allennlp.training import gradient_descent_trainer
from allennlp.training.callbacks import TrainerCallback

# "epoch,batch" in the environment: what this module, imported by `--include-package`, then does.
KILL_AT = "KILL_AT"
# "name,count,when" for `kill_at_file`.
KILL_AT_FILE = "KILL_AT_FILE"


class Interruption(Exception):
    pass


class InterruptingCallback(TrainerCallback):
    """Ends the training of the given epoch, counted from 0, after the given batch, from 1."""

    at: Tuple[int, int]

    def on_batch(
        self,
        trainer: Any,
        batch_inputs: Any,
        batch_outputs: Any,
        batch_metrics: Any,
        epoch: int,
        batch_number: int,
        is_training: bool,
        is_primary: bool = True,
        **kwargs: Any,
    ) -> None:
        if is_training and is_primary and (epoch, batch_number) == self.at:
            self.interrupt()

    def interrupt(self) -> None:
        raise Interruption(f"interrupted at {self.at}")


class KillingCallback(InterruptingCallback):
    def interrupt(self) -> None:
        # Every process of the run at once, as when the machine goes down.
        os.killpg(os.getpgid(0), signal.SIGKILL)


def kill_at_file(name: str, count: int, when: str) -> None:
    """
    From now on all processes of the run get a SIGKILL when a file `name` is written for the
    `count`-th time: `"within"`, when half of it is on the disk, or `"after"`.
    """
    replace, num_written = os.replace, 0

    def replace_and_kill(source: Any, target: Any) -> None:
        nonlocal num_written
        num_written += Path(target).name == name
        is_due = num_written == count and Path(target).name == name
        if is_due and when == "within":
            os.truncate(source, os.path.getsize(source) // 2)
        else:
            replace(source, target)
        if is_due:
            os.killpg(os.getpgid(0), signal.SIGKILL)

    os.replace = replace_and_kill


def _with_default_callback(callback: type) -> Any:
    callbacks = (*gradient_descent_trainer.DEFAULT_CALLBACKS, callback)
    return mock.patch.object(gradient_descent_trainer, "DEFAULT_CALLBACKS", callbacks)


@contextlib.contextmanager
def interrupted_at(at: Tuple[int, int]) -> Iterator[None]:
    """In this context a training in this process raises an `Interruption` at (epoch, batch)."""
    callback = type("InterruptingCallback", (InterruptingCallback,), {"at": at})
    with _with_default_callback(callback):
        yield


if KILL_AT in os.environ:
    KillingCallback.at = tuple(int(number) for number in os.environ[KILL_AT].split(","))  # type: ignore
    _with_default_callback(KillingCallback).start()

if KILL_AT_FILE in os.environ:
    file_name, number, moment = os.environ[KILL_AT_FILE].split(",")
    kill_at_file(file_name, int(number), moment)
