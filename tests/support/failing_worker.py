"""
A distributed training in which one worker fails.
"""

from pathlib import Path
from typing import Any, Dict

from allennlp.training import GradientDescentTrainer
from allennlp.training.callbacks import TrainerCallback


class FailingWorker(TrainerCallback):
    """
    Raises on the worker of rank `rank`: after the third batch, or with `while_saving` when it is
    asked for its state, which only the primary is.
    """

    def __init__(self, serialization_dir: str, rank: int, while_saving: bool = False) -> None:
        super().__init__(serialization_dir)
        self.rank = rank
        self.while_saving = while_saving

    def on_batch(self, trainer: GradientDescentTrainer, *args: Any, **kwargs: Any) -> None:
        if trainer._rank == self.rank and trainer._total_batches_completed == 3:
            if not self.while_saving:
                self._fail(ValueError("failed after the third batch"))

    def state_dict(self) -> Dict[str, Any]:
        if self.while_saving:
            self._fail(OSError("no space left"))
        return {}

    def _fail(self, error: Exception) -> None:
        # The log has the error of whichever worker ends first, which may be the other one, of the
        # connection that this one has closed.
        Path(self.serialization_dir, "failed").write_text(repr(error))
        raise error
