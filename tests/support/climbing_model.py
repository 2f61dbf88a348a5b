"""
A model of one weight, which is n after n updates. The validation metric is how close the weight is
to a target of the epoch. So it is known which average is the best.
"""

from typing import Any, Dict, List

import torch
from allennlp.data import Vocabulary
from allennlp.models import Model
from allennlp.training import GradientDescentTrainer
from allennlp.training.callbacks import TrainerCallback
from allennlp.training.metrics import Average

from tests.support.training_runs import tagger_config


class ClimbingModel(Model):
    """
    # Parameters

    nan_above : `float`, optional (default = `inf`)
        For a weight above this the metric "closeness" is NaN.
    """

    def __init__(self, vocab: Vocabulary, nan_above: float = float("inf")) -> None:
        super().__init__(vocab)
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.target = 0.0
        self.nan_above = nan_above
        self.closeness = Average()
        #: Of the passes in evaluation mode, the weight.
        self.validated: List[float] = []

    def forward(self, tokens: Any, tags: Any, metadata: Any = None) -> Dict[str, torch.Tensor]:
        weight = self.weight.item()
        if not self.training:
            self.validated.append(weight)
            self.closeness(float("nan") if weight > self.nan_above else -abs(weight - self.target))
        return {"loss": -self.weight.sum()}

    def get_metrics(self, reset: bool = False) -> Dict[str, float]:
        return {"closeness": self.closeness.get_metric(reset)}


class Targets(TrainerCallback):
    """
    # Parameters

    targets : `List[float]`
        One for each epoch.
    """

    def __init__(self, serialization_dir: str, targets: List[float]) -> None:
        super().__init__(serialization_dir)
        self.targets = targets

    def on_batch(
        self, trainer: GradientDescentTrainer, *args: Any, epoch: int = 0, **kwargs: Any
    ) -> None:
        trainer.model.target = self.targets[trainer._epochs_completed]  # type: ignore


def climbing_config(
    targets: List[float], *callbacks: Any, nan_above: float = 1e9, **trainer: Any
) -> Dict[str, Any]:
    """Epochs of 6 updates, one for each of `targets`."""
    sets_targets = {"type": f"{__name__}.Targets", "targets": targets}
    config = tagger_config(
        **{
            "num_epochs": len(targets),
            "optimizer": {"type": "sgd", "lr": 1.0},
            "validation_metric": "+closeness",
            "callbacks": [sets_targets, *callbacks],
            "run_confidence_checks": False,
            **trainer,
        }
    )
    config["model"] = {"type": f"{__name__}.ClimbingModel", "nan_above": nan_above}
    return config
