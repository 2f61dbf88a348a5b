"""
The validation metrics of the weights in a model, computed without a change to the training.
"""

import contextlib
import copy
import logging
from typing import Any, Dict, Iterator

from allennlp.common import Tqdm
from allennlp.nn.util import dist_reduce_sum
from allennlp.training import GradientDescentTrainer
from allennlp.training import util as training_util
from torch.nn.parallel import DistributedDataParallel

from allennlp_ema.common.metrics import SignedMetric
from allennlp_ema.training.callbacks.side_effects import same_data, without_side_effects

logger = logging.getLogger(__name__)


def validation_metrics(trainer: GradientDescentTrainer, epoch: int, what: str) -> Dict[str, Any]:
    """
    Validates the weights that the model holds at present, with the trainer's own validation. All
    workers have to call this together.

    # Parameters

    trainer : `GradientDescentTrainer`
        A trainer with validation data.
    epoch : `int`
    what : `str`
        What the model holds, for the log and for the progress bar.
    """
    logger.info("Validating %s", what)
    other = copy.copy(trainer)
    other._moving_average = None
    # The callbacks must only get the trainer's own validations.
    other._callbacks = []
    # This hides the trainer's progress bar, which does not say what is validated.
    other._primary = False
    with without_side_effects(trainer.model), _buffers_of_the_primary(trainer):
        data_loader: Any = same_data(trainer._validation_data_loader)
        other._validation_data_loader = Tqdm.tqdm(
            data_loader, desc=f"validating {what}", disable=not trainer._primary
        )
        # The method of the class, because a callback may have replaced the trainer's.
        loss, reg_loss, num_batches = type(trainer)._validation_loss(other, epoch)
        return training_util.get_metrics(
            trainer.model,
            dist_reduce_sum(loss),
            None if reg_loss is None else dist_reduce_sum(reg_loss),
            batch_loss=None,
            batch_reg_loss=None,
            num_batches=dist_reduce_sum(num_batches),
            reset=True,
        )


def validation_metric_of(trainer: GradientDescentTrainer) -> SignedMetric:
    """The trainer's `validation_metric`."""
    tracked = trainer._metric_tracker.tracked_metrics
    names = [("+" if sign > 0 else "-") + name for sign, name in tracked]
    return SignedMetric(names, '"validation_metric"')


@contextlib.contextmanager
def _buffers_of_the_primary(trainer: GradientDescentTrainer) -> Iterator[None]:
    model: Any = trainer._pytorch_model
    if not isinstance(model, DistributedDataParallel):
        yield
        return
    before = model.require_forward_param_sync
    # After an earlier validation the model assumes equal buffers on all processes, and sends none.
    model.require_forward_param_sync = True
    try:
        yield
    finally:
        model.require_forward_param_sync = before
