"""
The callback that gives the averaged model its own buffers.
"""

import itertools
import logging
from typing import Any, Dict

from allennlp.common.util import is_distributed
from allennlp.training import GradientDescentTrainer
from allennlp.training.callbacks import TrainerCallback

from allennlp_ema.averages.attachment import Attachment
from allennlp_ema.averages.moving_average import MovingAverage
from allennlp_ema.common.checks import check_choice, check_integer
from allennlp_ema.common.from_params import ExplainedFromParams
from allennlp_ema.training.callbacks.averaged_buffers import AveragedBuffers
from allennlp_ema.training.callbacks.recalibrated_statistics import (
    RecalibratedStatistics,
    norms_with_statistics,
)
from allennlp_ema.training.callbacks.trainer_average import average_of

logger = logging.getLogger(__name__)


@TrainerCallback.register("moving_average_buffers")
class MovingAverageBuffersCallback(ExplainedFromParams, TrainerCallback):
    """
    Gives the averaged model its own buffers, because batch-norm statistics that were gathered for
    the raw weights do not fit the averaged weights. These buffers are assigned together with the
    averages, and the raw buffers are restored together with the raw weights. So `best.th` and the
    model after training hold the right buffers. The callback does nothing if the model has no such
    buffers.

    With `"recalibrate"` in distributed training, all processes have to assign averages together,
    because each of them computes a part of the statistics. Only averages that have not changed
    since the last time may be assigned by one process alone.

    ```python
    >>> from allennlp.training.callbacks import TrainerCallback
    >>> params = Params({"type": "moving_average_buffers", "num_batches": 50})
    >>> TrainerCallback.from_params(params, serialization_dir="run").mode
    'recalibrate'

    ```

    Registered as a `TrainerCallback` with name "moving_average_buffers".

    # Parameters

    serialization_dir : `str`
        The trainer gives it.
    mode : `str`, optional (default = `"recalibrate"`)
        `"recalibrate"` computes the running statistics of batch norms and instance norms anew when
        averages are assigned that have changed since the last time. The new statistics are the mean
        statistics of batches of the training data, with the averaged model in training mode
        (Izmailov et al. 2018, "Averaging Weights Leads to Wider Optima and Better Generalization",
        section 3.2). Other buffers keep their raw values.

        `"average"` averages all floating-point and complex buffers by the same rule and with the
        same weights as the parameters. Integer buffers keep their raw values. This needs no forward
        passes, but the averaged statistics are those of raw weights.
    num_batches : `int`, optional (default = `100`)
        How many batches of the training loader each process uses for `"recalibrate"`. If the loader
        has fewer batches, all of them are used.
    """

    def __init__(
        self, serialization_dir: str, mode: str = "recalibrate", num_batches: int = 100
    ) -> None:
        super().__init__(serialization_dir)
        self.mode = check_choice("mode", mode, ["recalibrate", "average"])
        self.num_batches = check_integer("num_batches", num_batches, minimum=1)
        # Older checkpoints hold the buffers here, and not in the state of the average.
        self._loaded_state: Dict[str, Any] = {}

    def on_start(
        self, trainer: GradientDescentTrainer, is_primary: bool = True, **kwargs: Any
    ) -> None:
        if self.trainer is trainer:
            # When the trainer trains a second time, the average has its attachment already.
            return
        super().on_start(trainer, is_primary, **kwargs)
        average = average_of(trainer, "moving_average_buffers")
        attachment: Attachment
        if self.mode == "recalibrate":
            num_buffers = len(norms_with_statistics(trainer.model))
            logger.info("The averaged model has %d batch norms to recalibrate", num_buffers)
            attachment = RecalibratedStatistics(trainer, self.num_batches)
        else:
            attachment = AveragedBuffers(trainer.model)
            num_buffers = len(attachment.tensors())
            logger.info("The averaged model has %d averaged buffers", num_buffers)
        if num_buffers:
            average.attach(attachment)
            self._load_former_state(average, attachment)

    def _load_former_state(self, average: MovingAverage, attachment: Attachment) -> None:
        statistics = iter(self._loaded_state.get("statistics", []))
        averages = iter(self._loaded_state.get("averages", []))
        for member in average.members() if self._loaded_state else []:
            num_averages = len(member.running.all_shadow_weights())
            state: Dict[str, Any] = {
                "own": next(statistics, {}),
                "averages": list(itertools.islice(averages, num_averages)),
            }
            member.running.prepare_attachment(attachment, state)()

    def on_epoch(
        self,
        trainer: GradientDescentTrainer,
        metrics: Dict[str, Any],
        epoch: int,
        is_primary: bool = True,
        **kwargs: Any,
    ) -> None:
        if is_distributed() and self.mode == "recalibrate":
            # The primary assigns the averages alone when it saves them next, so all processes
            # recalibrate together before.
            with average_of(trainer, "moving_average_buffers").average_values():
                pass

    def load_state_dict(self, state_dict: Dict[str, Any]) -> None:
        # The trainer loads the states of its callbacks before it calls `on_start`.
        self._loaded_state = state_dict
