"""
Repairs of AllenNLP's trainer, without which averages are wrong.
"""

import functools
import logging
from types import SimpleNamespace
from typing import Any, Dict, Optional

import torch
import torch.distributed as dist
from allennlp.common.checks import ConfigurationError
from allennlp.training.callbacks import TrainerCallback
from allennlp.training.gradient_descent_trainer import GradientDescentTrainer
from torch.nn.modules.batchnorm import _NormBase

from allennlp_ema.training.replaced import replaced
from allennlp_ema.training.training_length import training_length
from allennlp_ema.training.update_numbers import UpdateNumbers
from allennlp_ema.weighting.weighting import AveragingCounts

logger = logging.getLogger(__name__)


def _is_ours(average: Any) -> bool:
    # Not checked by class, because a second import of this package defines the class anew.
    return hasattr(average, "num_updates") and hasattr(average, "members")


def warn_that_repairs_are_left_out() -> None:
    """
    Without the repairs an average is wrong where AllenNLP is wrong, so a training with an average
    warns that they are left out.
    """
    trainer: Any = GradientDescentTrainer
    train = trainer.train

    @functools.wraps(train)
    def warn_and_train(self: Any) -> Any:
        if _is_ours(self._moving_average) or hasattr(self.optimizer, "hand_over_average"):
            logger.warning(
                "ALLENNLP_EMA_REPAIRS=0 leaves out what AllenNLP needs for averages that are right "
                "(see allennlp_ema/training/repairs), but this training has a moving average"
            )
        return train(self)

    trainer.train = warn_and_train


def take_the_average_of_the_optimizer() -> None:
    """
    The trainer validates and writes `best.th` with averages only if they are its own
    `moving_average`. With an average in the optimizer alone, both would use raw weights. And only
    the trainer knows the number of updates in a duration, which an average may have.
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
        average = self._moving_average
        if _is_ours(average) and average.has_unresolved_durations:
            average.resolve(*training_length(self))

    trainer.__init__ = __init__


def start_from_what_the_model_holds() -> None:
    """
    After a training the model holds the averages. A second training continues from them, as with
    AllenNLP's own average, so the raw weights that were set aside are dropped.

    Each training also warns at its start if the model has running statistics that follow only the
    raw weights, because validation would combine them with the averages.
    """
    trainer: Any = GradientDescentTrainer
    train = trainer.train

    @functools.wraps(train)
    def train_from_what_the_model_holds(self: Any) -> Any:
        if _is_ours(self._moving_average):
            if self._moving_average.is_assigned:
                self._moving_average.keep_average_value()
            if self._primary:
                _warn_of_statistics(self)
        return train(self)

    trainer.train = train_from_what_the_model_holds


def _warn_of_statistics(trainer: Any) -> None:
    names = [
        name
        for name, module in trainer.model.named_modules()
        if isinstance(module, _NormBase) and module.running_mean is not None
    ]
    follows: Any = TrainerCallback.by_name("moving_average_buffers")
    if names and not any(isinstance(callback, follows) for callback in trainer._callbacks):
        logger.warning(
            "The model has running statistics (%s), which are those of the raw weights and do not "
            'go with the averages: add {"type": "moving_average_buffers"} to the "callbacks" of '
            "the trainer",
            ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else ""),
        )


def begin_an_average_that_the_checkpoint_lacks() -> None:
    """
    A training with an average that continued from a checkpoint without one failed with a
    `KeyError: 'moving_average'`.
    """
    trainer: Any = GradientDescentTrainer
    restore = trainer._maybe_restore_checkpoint

    @functools.wraps(restore)
    def restore_or_begin_an_average(self: Any) -> None:
        average, checkpointer = self._moving_average, self._checkpointer
        if average is None or checkpointer is None:
            restore(self)
            return
        checkpoint = checkpointer.load_checkpoint()
        state = {} if checkpoint is None else checkpoint.trainer_state
        is_lacking = checkpoint is not None and "moving_average" not in state
        if checkpoint is not None and hasattr(self.optimizer, "hand_over_average"):
            # The optimizer in the checkpoint had no average: either there was none, or the trainer
            # had it.
            of_trainer = average.state_dict() if is_lacking else state["moving_average"]
            state["optimizer"].setdefault("moving_average", of_trainer)
        loaded = SimpleNamespace(load_checkpoint=lambda: checkpoint)
        with replaced(self, "_checkpointer", loaded), replaced(
            self, "_moving_average", None if is_lacking else average
        ):
            restore(self)
        if is_lacking:
            logger.warning(
                "The checkpoint has no moving average: averaging begins with its weights"
            )
            _begin_anew(average)

    trainer._maybe_restore_checkpoint = restore_or_begin_an_average


def _begin_anew(average: Any) -> None:
    if _is_ours(average):
        for member in average.members():
            member.running.load(dict(member.named_raw_values()), AveragingCounts())
    else:
        weights = {name: parameter.detach() for name, parameter in average._parameters}
        average.load_state_dict({**average.state_dict(), "shadows": weights, "backups": weights})


def average_real_steps_only() -> None:
    """
    With `use_amp` the trainer averaged after every batch, even if `GradScaler` skipped the step
    because a gradient overflowed. So parameters that did not move were averaged once more. The
    trainer's update number also counts skipped batches, and batches that it only iterates over to
    catch up with a checkpoint. An average counts only the updates that it makes.
    """
    trainer: Any = GradientDescentTrainer
    try_train = trainer._try_train

    @functools.wraps(try_train)
    def train_averaging_real_steps(self: Any) -> Any:
        if self._moving_average is None:
            return try_train(self)
        steps = _RealSteps(self)
        with replaced(self._moving_average, "apply", steps.apply):
            if self._scaler is None:
                return try_train(self)
            with replaced(self.optimizer, "step", steps.step):
                return try_train(self)

    trainer._try_train = train_averaging_real_steps


class _RealSteps:
    """
    The trainer calls these methods instead of its optimizer's `step` and its average's `apply`.
    This is an object, because a copy of the optimizer or the average has its own copy of an object,
    but would share a function.
    """

    def __init__(self, trainer: Any) -> None:
        self._optimizer, self._average = trainer.optimizer, trainer._moving_average
        self._take_step, self._apply = self._optimizer.step, self._average.apply
        self._may_skip_steps = trainer._scaler is not None
        self._took_a_step = not self._may_skip_steps
        self._is_continued = (
            trainer._start_after_epochs_completed + trainer._start_after_batches_in_epoch_completed
            > 0
        )
        self._numbers = UpdateNumbers(self._average)

    def __getstate__(self) -> Dict[str, Any]:
        # A copy of an optimizer has no `step` of its own. That of a learning rate scheduler cannot
        # be pickled.
        return {**vars(self), "_take_step": None}

    def step(self, *args: Any, **kwargs: Any) -> Any:
        loss = self._take_step(*args, **kwargs)
        # A fused optimizer is called after an overflow too, but `found_inf` tells it to do nothing.
        self._took_a_step = not getattr(self._optimizer, "found_inf", False)
        return loss

    def apply(self, num_updates: Optional[int] = None) -> None:
        if self._took_a_step:
            if _is_ours(self._average):
                # An average that begins at a checkpoint without one has counted no updates yet.
                before = num_updates - 1 if num_updates and self._is_continued else 0
                self._numbers.apply(self._apply, before)
            else:
                self._apply(num_updates)
        self._took_a_step = not self._may_skip_steps


def count_the_batches_of_every_worker() -> None:
    """
    Workers with unequal numbers of batches end an epoch when the worker with the fewest batches has
    no more. While it caught up with a checkpoint, the trainer iterated over all batches of each
    worker and counted them. So the learning rate of a schedule by batches ran ahead, differently
    from worker to worker.

    The average is also told when an epoch ends. Its durations may need that if the loader has no
    length, and only the trainer knows it.
    """
    trainer: Any = GradientDescentTrainer
    train_epoch = trainer._train_epoch

    @functools.wraps(train_epoch)
    def count_as_all_workers(self: Any, epoch: int) -> Any:
        start = self._total_batches_completed
        metrics = train_epoch(self, epoch)
        if self._distributed and self._epochs_completed < self._start_after_epochs_completed:
            num_batches = torch.tensor(
                self._total_batches_completed - start, device=self.cuda_device
            )
            dist.all_reduce(num_batches, dist.ReduceOp.MIN)
            self._total_batches_completed = start + int(num_batches)
        if (
            _is_ours(self._moving_average)
            and self._epochs_completed >= self._start_after_epochs_completed
        ):
            self._moving_average.epoch_ended(self._epochs_completed + 1)
        return metrics

    trainer._train_epoch = count_as_all_workers


def wait_for_the_average_before_the_best_model_is_loaded() -> None:
    """
    At the end of a training the trainer loads the best model into the parameters. An update in the
    background may still read them.
    """
    trainer: Any = GradientDescentTrainer
    load_model_state = trainer._load_model_state

    @functools.wraps(load_model_state)
    def wait_and_load(self: Any, path: str) -> None:
        if _is_ours(self._moving_average):
            self._moving_average.wait()
        load_model_state(self, path)

    trainer._load_model_state = wait_and_load
