"""
A callback that records the averaged buffers and the metrics of each process of a training.
"""

from pathlib import Path
from typing import Any, Dict

import torch
from allennlp.training import GradientDescentTrainer
from allennlp.training.callbacks import TrainerCallback


class BuffersOfEachRank(TrainerCallback):
    """
    Leaves `rank{rank}.th` in the serialization directory, of the end of each epoch: the buffers
    while the averages are assigned, the raw ones, and the metrics.
    """

    def on_epoch(
        self,
        trainer: GradientDescentTrainer,
        metrics: Dict[str, Any],
        epoch: int,
        is_primary: bool = True,
        **kwargs: Any,
    ) -> None:
        raw = {name: buffer.clone() for name, buffer in trainer.model.named_buffers()}
        with trainer._moving_average.average_values():
            torch.save(
                {"averaged": dict(trainer.model.named_buffers()), "raw": raw, "metrics": metrics},
                str(Path(self.serialization_dir) / f"rank{trainer._rank}.th"),
            )
