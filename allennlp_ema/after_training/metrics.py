"""
The metric by which the models of finished trainings are compared.
"""

from typing import List, Optional

from allennlp_ema.after_training.finished_training import FinishedTraining
from allennlp_ema.common.metrics import SignedMetric


def chosen_metric(given: Optional[List[str]], training: FinishedTraining) -> SignedMetric:
    """The metric that is given, or else that of the training."""
    if given is not None:
        return SignedMetric(given[0] if len(given) == 1 else given)
    trainer = training.config.get("trainer", {})
    return SignedMetric(trainer.get("validation_metric", "-loss"), '"validation_metric"')
