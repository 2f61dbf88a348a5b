import logging
from typing import Any, Dict, List, Tuple

import torch
import torch.distributed as dist
from allennlp.common.util import is_distributed
from allennlp.training import GradientDescentTrainer
from allennlp.training.callbacks import TrainerCallback
from torch import Tensor

from allennlp_ema.averages.moving_average import MovingAverage
from allennlp_ema.common.checks import check_choice, check_integer
from allennlp_ema.common.from_params import ExplainedFromParams
from allennlp_ema.shadow_weights.shadow_weights import ShadowWeights
from allennlp_ema.training.callbacks.recalibrated_statistics import (
    RecalibratedStatistics,
    norms_with_statistics,
)
from allennlp_ema.training.callbacks.trainer_average import average_of

logger = logging.getLogger(__name__)


@TrainerCallback.register("moving_average_buffers")
class MovingAverageBuffersCallback(ExplainedFromParams, TrainerCallback):
    """
    Gives the averaged model buffers of its own, because averaged weights do not go with batch-norm
    statistics that were gathered for raw weights. These buffers are assigned with the averages, and
    the raw ones come back with the raw weights; so `best.th` and the model after training hold the
    right ones. In a model without such buffers nothing happens.

    In a distributed training all processes have to assign averages together, except where these
    have not changed since the last time: with `"recalibrate"` each of them takes part.

    Registered as a `TrainerCallback` with name "moving_average_buffers".

    # Parameters

    serialization_dir : `str`
        The trainer gives it.
    mode : `str`, optional (default = `"recalibrate"`)
        `"recalibrate"` computes the running statistics of batch (and instance) norms afresh when
        averages are assigned that have changed since the last time: the mean statistics of batches
        of the training data, with the averaged model in training mode (Izmailov et al. 2018,
        "Averaging Weights Leads to Wider Optima and Better Generalization", section 3.2). Other
        buffers stay as they are.

        `"average"` averages all floating-point buffers by the same rule and with the same weights
        as the parameters; integers stay as they are. This takes no forward passes, but what it
        averages are statistics of raw weights.
    num_batches : `int`, optional (default = `100`)
        For `"recalibrate"`: how many batches of the training loader, on each process. If it has
        fewer, all are used.
    """

    def __init__(
        self, serialization_dir: str, mode: str = "recalibrate", num_batches: int = 100
    ) -> None:
        super().__init__(serialization_dir)
        self.mode = check_choice("mode", mode, ["recalibrate", "average"])
        self.num_batches = check_integer("num_batches", num_batches, minimum=1)
        self._recalibrated: List[RecalibratedStatistics] = []
        self._followed: List[Tuple[torch.nn.Module, str, Tensor]] = []
        self._followers: List[ShadowWeights] = []
        self._loaded_state: Dict[str, Any] = {}

    def on_start(
        self, trainer: GradientDescentTrainer, is_primary: bool = True, **kwargs: Any
    ) -> None:
        if self.trainer is trainer:
            # It trains for a second time.
            return
        super().on_start(trainer, is_primary, **kwargs)
        average = average_of(trainer, "moving_average_buffers")
        if self.mode == "recalibrate":
            self._recalibrate_with(average, trainer)
        else:
            self._average_with(average, trainer.model)

    def _recalibrate_with(self, average: MovingAverage, trainer: GradientDescentTrainer) -> None:
        num_norms = len(norms_with_statistics(trainer.model))
        logger.info("The averaged model has %d batch norms to recalibrate", num_norms)
        for member in average.members() if num_norms else []:
            statistics = RecalibratedStatistics(trainer, member, self.num_batches)
            self._recalibrated.append(statistics)
            member.companions.append(statistics)
        for statistics, state in zip(self._recalibrated, self._loaded_state.get("statistics", [])):
            statistics.load_state_dict(state)

    def _average_with(self, average: MovingAverage, model: torch.nn.Module) -> None:
        places = _floating_point_buffers(model)
        buffers = {name: module.get_buffer(key) for name, (module, key) in places.items()}
        logger.info("The averaged model has %d averaged buffers", len(buffers))
        if not buffers:
            return
        self._followed = [(*places[name], buffer) for name, buffer in buffers.items()]
        average.before_update.append(self._follow)
        self._followers = [
            shadow_weights.add_follower(buffers.items())
            for shadow_weights in average._all_shadow_weights()
        ]
        for follower, averages in zip(self._followers, self._loaded_state.get("averages", [])):
            follower.load(averages)

    def _follow(self) -> None:
        with torch.no_grad():
            for module, key, followed in self._followed:
                if module._buffers[key] is not followed:
                    # Some modules put a new tensor in the place of the old one.
                    module._buffers[key] = followed.copy_(module.get_buffer(key))
            if is_distributed():
                # The primary's, as `DistributedDataParallel` does before the next batch.
                followed_tensors = [followed for _, _, followed in self._followed]
                flat = torch.cat([followed.reshape(-1) for followed in followed_tensors])
                dist.broadcast(flat, src=0)
                pieces = flat.split([followed.numel() for followed in followed_tensors])
                for followed, piece in zip(followed_tensors, pieces):
                    followed.copy_(piece.view_as(followed))

    def on_epoch(
        self,
        trainer: GradientDescentTrainer,
        metrics: Dict[str, Any],
        epoch: int,
        is_primary: bool = True,
        **kwargs: Any,
    ) -> None:
        if is_distributed() and self._recalibrated:
            # Next the primary alone assigns the averages, to save them.
            with average_of(trainer, "moving_average_buffers").average_values():
                pass

    def state_dict(self) -> Dict[str, Any]:
        return {
            "statistics": [statistics.state_dict() for statistics in self._recalibrated],
            "averages": [follower.values() for follower in self._followers],
        }

    def load_state_dict(self, state_dict: Dict[str, Any]) -> None:
        # The trainer loads its callbacks before they get to know it.
        self._loaded_state = state_dict


def _floating_point_buffers(model: torch.nn.Module) -> Dict[str, Tuple[torch.nn.Module, str]]:
    """Where the floating-point buffers are that a state dict holds, by name."""
    return {
        f"{prefix}.{key}" if prefix else key: (module, key)
        for prefix, module in model.named_modules()
        for key, buffer in module.named_buffers(recurse=False)
        if buffer.is_floating_point()
        and key not in module._non_persistent_buffers_set
        and not _is_expanded(buffer)
    }


def _is_expanded(buffer: Tensor) -> bool:
    """Whether its values share memory, so that nobody can write to them and they stay the same."""
    return any(size > 1 and stride == 0 for size, stride in zip(buffer.shape, buffer.stride()))
