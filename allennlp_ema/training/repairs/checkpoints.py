"""
What AllenNLP's checkpoints need to hold what a recovered training goes on from.
"""

import functools
from typing import Any, Optional

import torch
from allennlp.training.checkpointer import Checkpointer
from allennlp.training.gradient_descent_trainer import GradientDescentTrainer
from allennlp.training.trainer import TrainerCheckpoint

from allennlp_ema.training.checkpoint_files import (
    find_checkpoints,
    from_all_workers,
    load_newest_checkpoint,
    skip_loaded,
    written_checkpoint,
)
from allennlp_ema.training.checkpointer import SwappingCheckpointer
from allennlp_ema.training.sharded_states import without_shards


def record_checkpoints_on_every_worker() -> None:
    """
    In a distributed training only the primary worker noted that a checkpoint was saved. With
    `save_every_num_batches` all others went to save another one after each of the batches that
    followed, so that workers could not do anything together when a checkpoint is due.
    """
    checkpointer: Any = Checkpointer
    save_checkpoint = checkpointer.save_checkpoint

    @functools.wraps(save_checkpoint)
    def save_and_record(self: Any, trainer: Any) -> None:
        save_checkpoint(self, trainer)
        if isinstance(trainer, GradientDescentTrainer):
            self._last_save_num_epochs_completed = trainer._epochs_completed
            self._last_save_num_batches_in_epoch_completed = trainer._batches_in_epoch_completed

    checkpointer.save_checkpoint = save_and_record


def save_raw_weights_during_validation() -> None:
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
        while getattr(average, "assigned", None) is not None:
            restored.append((average.assigned, average.assigned.assigned_names))
            average.restore()
        try:
            save_checkpoint(self, trainer)
        finally:
            for running, names in restored:
                running.assign(names)

    checkpointer.save_checkpoint = save_raw_weights


def write_whole_checkpoints() -> None:
    """
    A process that was killed while it wrote a checkpoint left a part of it, with which every
    `--recover` failed, and which the training that came to that point again took for written.
    """
    checkpointer: Any = Checkpointer
    save_checkpoint = checkpointer.save_checkpoint

    def write(self: Any, checkpoint: Optional[TrainerCheckpoint]) -> None:
        if checkpoint is not None:
            with written_checkpoint(self, checkpoint.trainer_state) as (model_file, training_file):
                torch.save(checkpoint.model_state, model_file)
                torch.save(without_shards(checkpoint.trainer_state), training_file)

    @functools.wraps(save_checkpoint)
    def write_whole(self: Any, trainer: Any) -> None:
        # That one has written its own by now.
        if not isinstance(self, SwappingCheckpointer):
            write(self, trainer.get_checkpoint_state())
        # Finds the files there, and does what is left to do.
        save_checkpoint(self, trainer)

    checkpointer.save_checkpoint = write_whole
    checkpointer._find_all_checkpoints = find_checkpoints


def read_the_newest_whole_checkpoint() -> None:
    """
    `--recover` failed if the newest checkpoint could not be read, though others could. And from one
    of the checkpointer `swapping` it went on with the averages in the place of the raw weights.
    """
    checkpointer: Any = Checkpointer
    find_latest_checkpoint = checkpointer.find_latest_checkpoint
    load_checkpoint = checkpointer.load_checkpoint

    @functools.wraps(load_checkpoint)
    def load_newest(self: Any) -> Optional[TrainerCheckpoint]:
        # Some choose by themselves.
        is_own_choice = type(self).find_latest_checkpoint is not find_latest_checkpoint
        return load_checkpoint(self) if is_own_choice else load_newest_checkpoint(self)

    checkpointer.load_checkpoint = load_newest


def skip_foreign_checkpoints() -> None:
    """
    `--recover` failed if the newest checkpoint was not of this training: if its model had other
    parameters, say.
    """
    trainer: Any = GradientDescentTrainer
    restore = trainer._maybe_restore_checkpoint

    @functools.wraps(restore)
    def restore_or_skip(self: Any) -> None:
        first_error: Optional[Exception] = None
        while True:
            error = None
            try:
                restore(self)
            except Exception as raised:
                error = raised
            if not any(from_all_workers(error is not None)):
                return
            first_error = first_error or error
            if not skip_loaded(self._checkpointer, error):
                raise first_error or RuntimeError("another worker could not go on")

    trainer._maybe_restore_checkpoint = restore_or_skip
