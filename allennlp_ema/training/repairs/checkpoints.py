"""
Repairs of AllenNLP's checkpoints, without which `--recover` fails or uses wrong weights.
"""

import functools
from pathlib import Path
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
    In a distributed training only the primary worker recorded that a checkpoint was saved. With
    `save_every_num_batches` all other workers tried to save again after each of the next batches.
    So the workers could not do anything together when a checkpoint was due.
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
    A checkpoint that a callback saved in the middle of a validation held the averages instead of
    the raw weights. So `--recover` continued from the averages, and the raw weights were lost.
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
    A process that was killed while it wrote a checkpoint left a partial file, and then every
    `--recover` failed. A training that reached that point again did not replace the file.
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
        # `SwappingCheckpointer` has already written its files.
        if not isinstance(self, SwappingCheckpointer):
            write(self, trainer.get_checkpoint_state())
        # AllenNLP does not write files that exist, but it removes old checkpoints.
        save_checkpoint(self, trainer)

    checkpointer.save_checkpoint = write_whole
    checkpointer._find_all_checkpoints = find_checkpoints


def remove_old_checkpoints_alone() -> None:
    """
    To remove an old checkpoint, AllenNLP deleted all files whose names begin as its names do. With
    that of batch 1 it deleted those of batches 10 to 19, and so the newest ones.
    """

    def remove(self: Any, epochs_completed: int, batches_in_epoch_completed: int) -> None:
        point = epochs_completed, batches_in_epoch_completed
        for path in Path(self._serialization_dir).glob(f"*_state_e{epochs_completed}_b*.th"):
            names = self._parse_model_state_path(path), self._parse_training_state_path(path)
            if point in names:
                path.unlink()

    checkpointer: Any = Checkpointer
    checkpointer._remove_checkpoint = remove


def read_the_newest_whole_checkpoint() -> None:
    """
    `--recover` failed if the newest checkpoint could not be read, even if others could. And from a
    checkpoint of the checkpointer `swapping` it continued with averages instead of raw weights.
    """
    checkpointer: Any = Checkpointer
    find_latest_checkpoint = checkpointer.find_latest_checkpoint
    load_checkpoint = checkpointer.load_checkpoint

    @functools.wraps(load_checkpoint)
    def load_newest(self: Any) -> Optional[TrainerCheckpoint]:
        # A subclass may choose a checkpoint itself.
        is_own_choice = type(self).find_latest_checkpoint is not find_latest_checkpoint
        return load_checkpoint(self) if is_own_choice else load_newest_checkpoint(self)

    checkpointer.load_checkpoint = load_newest


def skip_foreign_checkpoints() -> None:
    """
    `--recover` failed if the newest checkpoint was of another training, for example of a model with
    other parameters.
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
                raise first_error or RuntimeError("another worker could not continue")

    trainer._maybe_restore_checkpoint = restore_or_skip
