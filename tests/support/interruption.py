"""
A training run that dies at one batch, without a word in the configuration, which `--recover`
compares with that of the run it continues.
"""

import contextlib
import os
import signal
from typing import Any, Iterator, Tuple
from unittest import mock

from allennlp.training import gradient_descent_trainer
from allennlp.training.callbacks import TrainerCallback

# "epoch,batch" in the environment: what this module, imported by `--include-package`, then does.
KILL_AT = "KILL_AT"


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
