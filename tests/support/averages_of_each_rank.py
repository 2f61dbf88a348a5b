"""
A callback that records what each process of a distributed training averages and saves.
"""

from pathlib import Path
from typing import Any, List
from unittest import mock

import torch
from allennlp.training import GradientDescentTrainer
from allennlp.training.callbacks import TrainerCallback

NUM_UPDATES = 100


class AveragesOfEachRank(TrainerCallback):
    """
    Leaves `rank{rank}.th` in the serialization directory: the averages after 100 updates and the
    names of the files that the process saved until then.
    """

    def on_start(
        self, trainer: GradientDescentTrainer, is_primary: bool = True, **kwargs: Any
    ) -> None:
        self.saved: List[str] = []
        self.save = torch.save
        mock.patch.object(torch, "save", self.noted_save).start()

    def noted_save(self, state: Any, file: Any) -> None:
        self.saved.append(Path(str(file)).name)
        self.save(state, file)

    def on_batch(self, trainer: GradientDescentTrainer, *args: Any, **kwargs: Any) -> None:
        average = trainer._moving_average
        if kwargs["is_training"] and average.num_updates == NUM_UPDATES:
            self.save(
                {"averages": dict(average.named_averages()), "saved": self.saved},
                str(Path(self.serialization_dir) / f"rank{trainer._rank}.th"),
            )
