"""
A callback that records what the random generators draw in a training.
"""

import json
import random
from pathlib import Path
from typing import Any, Dict, List

import numpy
import torch
from allennlp.training import GradientDescentTrainer
from allennlp.training.callbacks import TrainerCallback


class DrawsOfGenerators(TrainerCallback):
    """
    Leaves `draws.json` in the serialization directory: what it drew from each generator after each
    batch, and the words of the batch.
    """

    def __init__(self, serialization_dir: str, draws: bool = True) -> None:
        super().__init__(serialization_dir)
        self.draws = draws

    def on_start(
        self, trainer: GradientDescentTrainer, is_primary: bool = True, **kwargs: Any
    ) -> None:
        self.file = Path(self.serialization_dir) / f"draws{trainer._rank or ''}.json"
        self.drawn: Dict[str, List[Any]] = {}
        if self.file.exists():
            self.drawn = json.loads(self.file.read_text())

    def on_batch(
        self,
        trainer: GradientDescentTrainer,
        batch_inputs: Any,
        batch_outputs: Any,
        batch_metrics: Any,
        epoch: int,
        batch_number: int,
        is_training: bool,
        is_primary: bool = True,
        **kwargs: Any,
    ) -> None:
        words = [batch["tokens"]["tokens"]["tokens"].tolist() for batch in batch_inputs]
        draws = [random.random(), numpy.random.rand(), torch.rand(1).item()] if self.draws else []
        self.drawn[f"{epoch} {batch_number} {is_training}"] = [words, draws]
        # Whole, whenever the process is killed.
        partial = self.file.with_suffix(".partial")
        partial.write_text(json.dumps(self.drawn))
        partial.replace(self.file)
