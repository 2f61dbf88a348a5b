"""
What AllenNLP's checkpoints need to hold what a recovered training goes on from.
"""

import functools
from typing import Any

from allennlp.training.checkpointer import Checkpointer
from allennlp.training.gradient_descent_trainer import GradientDescentTrainer


def let_every_worker_note_a_checkpoint() -> None:
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
