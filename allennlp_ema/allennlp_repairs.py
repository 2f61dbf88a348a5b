"""
What AllenNLP 2.10.1 needs on a current torch, and for averages that are right. Each repair says
why, and is made only where it is needed.
"""

import contextlib
import functools
import inspect
from typing import Any, Iterator, Optional

import numpy
import torch
from allennlp.common.checks import ConfigurationError
from allennlp.training.callbacks.should_validate import ShouldValidateCallback
from allennlp.training.checkpointer import Checkpointer
from allennlp.training.gradient_descent_trainer import GradientDescentTrainer
from allennlp.training.learning_rate_schedulers import ReduceOnPlateauLearningRateScheduler
from torch.torch_version import TorchVersion


def repair_allennlp() -> None:
    """Makes every repair that the installed torch calls for."""
    _let_checkpoints_hold_numpy_numbers()
    _leave_verbose_out_of_reduce_on_plateau()
    _take_the_average_of_the_optimizer()
    _average_real_steps_only()
    _decide_on_validation_when_the_epoch_begins()
    _let_every_worker_note_a_checkpoint()
    _save_raw_weights_during_validation()


def _let_checkpoints_hold_numpy_numbers() -> None:
    """
    From torch 2.6 on, `torch.load` refuses whatever is not on its list, and numpy's scalars are
    not. AllenNLP's `cosine` scheduler computes the learning rate with numpy, so with it no
    checkpoint could be read and every `--recover` failed.
    """
    if TorchVersion(torch.__version__) < "2.6":
        return
    scalar: Any = numpy.float64(0).__reduce__()[0]
    numbers = [numpy.dtype(name) for name in ("float32", "float64", "int32", "int64", "bool")]
    torch.serialization.add_safe_globals(
        [
            # Numpy 1 and numpy 2 name the function differently in what they write.
            (scalar, "numpy.core.multiarray.scalar"),
            (scalar, "numpy._core.multiarray.scalar"),
            numpy.dtype,
            *(type(number) for number in numbers),
        ]
    )


def _leave_verbose_out_of_reduce_on_plateau() -> None:
    """
    AllenNLP's `reduce_on_plateau` scheduler always passes `verbose`, which torch 2.7 removed, so
    with it no training started.
    """
    torch_scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau
    if "verbose" in inspect.signature(torch_scheduler.__init__).parameters:
        return
    scheduler: Any = ReduceOnPlateauLearningRateScheduler
    signature = inspect.signature(scheduler.__init__)

    # `wraps` keeps the signature, which `FromParams` reads.
    @functools.wraps(scheduler.__init__)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        arguments = signature.bind(self, *args, **kwargs).arguments
        without_verbose = {k: v for k, v in arguments.items() if k not in ("self", "verbose")}
        super(scheduler, self).__init__(torch_scheduler(**without_verbose))

    scheduler.__init__ = __init__


def _take_the_average_of_the_optimizer() -> None:
    """
    The trainer validates and writes `best.th` with averages only if they are its own
    `moving_average`. With an optimizer that keeps an average both would be of raw weights.
    """
    trainer: Any = GradientDescentTrainer
    init = trainer.__init__

    @functools.wraps(init)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        for name, part in getattr(self.optimizer, "optimizers", {}).items():
            if hasattr(part, "hand_over_average"):
                raise ConfigurationError(
                    f'the optimizer "{name}" of a "multi" keeps a moving average, which nobody '
                    'looks for there: put "moving_average" around "multi", or into the trainer'
                )
        if hasattr(self.optimizer, "hand_over_average"):
            if self._moving_average is not None:
                raise ConfigurationError(
                    'the trainer has a "moving_average" and an "optimizer" that keeps one as well, '
                    "but only one of them can be swapped in: take out either"
                )
            self._moving_average = self.optimizer.hand_over_average()

    trainer.__init__ = __init__


def _average_real_steps_only() -> None:
    """
    With `use_amp` the trainer averages after every batch, also where `GradScaler` skipped the step
    because a gradient overflowed: parameters that did not move were averaged once more, and the
    decay's warm-up and `update_every` counted them.
    """
    trainer: Any = GradientDescentTrainer
    train = trainer.train

    @functools.wraps(train)
    def train_averaging_real_steps(self: Any) -> Any:
        with _real_steps_only(self):
            return train(self)

    trainer.train = train_averaging_real_steps


@contextlib.contextmanager
def _real_steps_only(trainer: Any) -> Iterator[None]:
    optimizer, average = trainer.optimizer, trainer._moving_average
    if trainer._scaler is None or average is None:
        yield
        return
    optimizer_step, apply = optimizer.step, average.apply
    took_a_step = False

    @functools.wraps(optimizer_step)
    def step(*args: Any, **kwargs: Any) -> Any:
        nonlocal took_a_step
        loss = optimizer_step(*args, **kwargs)
        # A fused optimizer is called after an overflow too, and told by this to do nothing.
        took_a_step = not getattr(optimizer, "found_inf", False)
        return loss

    def apply_after_a_step(num_updates: Optional[int] = None) -> None:
        nonlocal took_a_step
        if took_a_step:
            # The trainer's own number counts the skipped steps too.
            apply(average.num_updates + 1 if hasattr(average, "num_updates") else num_updates)
        took_a_step = False

    optimizer.step, average.apply = step, apply_after_a_step
    try:
        yield
    finally:
        optimizer.step, average.apply = optimizer_step, apply


def _decide_on_validation_when_the_epoch_begins() -> None:
    """
    `ShouldValidateCallback` decided on the next epoch at the end of each, before the trainer asks
    whether to save the best model: an epoch that was not validated was saved as `best.th`, and one
    that was the best was not. After `--recover` it decided for the first epoch anew, and the number
    of the best epoch was how many validations came before it. And where the last epochs were not
    validated, the model at the end was theirs instead of the best.
    """

    def on_start(self: Any, trainer: Any, is_primary: bool = True, **kwargs: Any) -> None:
        first_epoch = trainer._start_after_epochs_completed
        trainer._should_validate_this_epoch = self._should_validate(first_epoch)

    def on_batch(self: Any, trainer: Any, *args: Any, **kwargs: Any) -> None:
        trainer._should_validate_this_epoch = self._should_validate(trainer._epochs_completed)

    def on_epoch(self: Any, trainer: Any, *args: Any, **kwargs: Any) -> None:
        has_validation = trainer._validation_data_loader is not None
        if has_validation and not trainer._should_validate_this_epoch:
            trainer._metric_tracker._is_best_so_far = False
            trainer._metric_tracker._epoch_number += 1

    callback: Any = ShouldValidateCallback
    callback.on_start = on_start
    callback.on_batch = on_batch
    callback.on_epoch = on_epoch


def _let_every_worker_note_a_checkpoint() -> None:
    """
    In a distributed training only the primary worker noted that a checkpoint was saved. With
    `save_every_num_batches` all others went to save another one after each of the batches that
    followed, so that workers could not do anything together when a checkpoint is due.
    """
    checkpointer: Any = Checkpointer
    save_checkpoint = checkpointer.save_checkpoint

    @functools.wraps(save_checkpoint)
    def save_and_note(self: Any, trainer: Any) -> None:
        save_checkpoint(self, trainer)
        if isinstance(trainer, GradientDescentTrainer):
            self._last_save_num_epochs_completed = trainer._epochs_completed
            self._last_save_num_batches_in_epoch_completed = trainer._batches_in_epoch_completed

    checkpointer.save_checkpoint = save_and_note


def _save_raw_weights_during_validation() -> None:
    """
    A checkpoint that a callback saves in the midst of a validation held the averages in the place
    of the raw weights, which were lost: `--recover` went on from the averages.
    """
    checkpointer: Any = Checkpointer
    save_checkpoint = checkpointer.save_checkpoint

    @functools.wraps(save_checkpoint)
    def save_raw_weights(self: Any, trainer: Any) -> None:
        average: Any = getattr(trainer, "_moving_average", None)
        restored = []
        for member in average.members() if hasattr(average, "members") else []:
            while member.is_assigned:
                member.restore()
                restored.append(member)
        try:
            save_checkpoint(self, trainer)
        finally:
            for member in restored:
                member.assign_average_value()

    checkpointer.save_checkpoint = save_raw_weights
