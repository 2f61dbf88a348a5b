"""
Chooses the metric that compares trained models.
"""

from typing import List, Optional

from allennlp_ema.after_training.finished_training import FinishedTraining
from allennlp_ema.common.metrics import SignedMetric


def chosen_metric(given: Optional[List[str]], training: FinishedTraining) -> SignedMetric:
    """The given metric, or else the `"validation_metric"` of the training."""
    if given is not None:
        return SignedMetric(given[0] if len(given) == 1 else given)
    trainer = training.config.get("trainer", {})
    return SignedMetric(trainer.get("validation_metric", "-loss"), '"validation_metric"')
