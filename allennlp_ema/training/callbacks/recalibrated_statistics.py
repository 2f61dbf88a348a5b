"""
Running statistics of batch norms, computed afresh for a model that holds averages.
"""

import contextlib
import logging
from typing import Any, Callable, Dict, Iterator, Optional, Tuple

import torch
from allennlp.common import Tqdm
from allennlp.common.util import is_distributed
from allennlp.data import TensorDict
from allennlp.nn.util import dist_reduce_sum
from allennlp.training import GradientDescentTrainer
from torch import Tensor

from allennlp_ema.averages.attachment import Attachment
from allennlp_ema.averages.moving_average import MovingAverage
from allennlp_ema.training.callbacks.side_effects import same_data, without_side_effects
from allennlp_ema.weighting.weighting import AveragingCounts

logger = logging.getLogger(__name__)

# The base class of torch's batch norms and instance norms.
_Norm = torch.nn.modules.batchnorm._NormBase

# The running statistics of one norm: the values of its buffers.
Statistics = Dict[str, Tensor]


def norms_with_statistics(model: torch.nn.Module) -> Dict[str, _Norm]:
    """The batch and instance norms in `model` that keep running statistics, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, _Norm) and module.running_mean is not None
    }


class RecalibratedStatistics(Attachment):
    """
    The running statistics that belong to an average. While the average is assigned, the model holds
    the statistics of the averaged model. They are computed anew if the average has changed since
    the last time.

    # Parameters

    trainer : `GradientDescentTrainer`
        The trainer whose model and training data are used.
    num_batches : `int`
        How many batches of the training loader each process uses.
    """

    name = "recalibrated_statistics"

    def __init__(self, trainer: GradientDescentTrainer, num_batches: int) -> None:
        self._trainer = trainer
        self._num_batches = num_batches
        self._norms = norms_with_statistics(trainer.model)
        # By average. Its `counts` are another object after each change, so they show outdated
        # statistics.
        self._recalibrated: Dict[MovingAverage, Tuple[AveragingCounts, Dict[str, Statistics]]] = {}
        self._raw: Optional[Dict[str, Statistics]] = None
        self._has_warned = False

    def assign(self, average: MovingAverage) -> None:
        counts, statistics = self._recalibrated.get(average, (None, {}))
        if counts is not average.counts:
            statistics = self.recalibrate()
            self._recalibrated[average] = average.counts, statistics
        self._raw = self.present()
        self.put(statistics)

    def restore(self, average: MovingAverage) -> None:
        if self._raw is not None:
            self.put(self._raw)
            self._raw = None

    def keep(self, average: MovingAverage) -> None:
        self._raw = None

    def state_dict(self, average: MovingAverage) -> Dict[str, Any]:
        counts, statistics = self._recalibrated.get(average, (None, {}))
        if counts is not average.counts:
            return {}
        return {"counts": average.counts.as_dict(), "statistics": statistics}

    def load_state_dict(self, average: MovingAverage, state_dict: Dict[str, Any]) -> None:
        if state_dict.get("counts") == average.counts.as_dict():
            self._recalibrated[average] = average.counts, state_dict["statistics"]

    def present(self) -> Dict[str, Statistics]:
        """A copy of the statistics in the model."""
        return {name: _statistics(norm) for name, norm in self._norms.items()}

    def put(self, statistics: Dict[str, Statistics]) -> None:
        """Copies `statistics` into the model."""
        with torch.no_grad():
            for name, values in statistics.items():
                for key, value in values.items():
                    self._norms[name].get_buffer(key).copy_(value)

    def recalibrate(self) -> Dict[str, Statistics]:
        """Computes the statistics for the present parameters, and leaves the model unchanged."""
        trainer, model = self._trainer, self._trainer.model
        if trainer._ddp_wrapped_model is not None and trainer._ddp_wrapped_model.is_sharded:
            model = trainer._pytorch_model
        with without_side_effects(trainer.model):
            model.train()
            # A norm that stays in evaluation mode gathers no statistics in training either.
            norms = {name: norm for name, norm in self._norms.items() if norm.training}
            num_calls = dict.fromkeys(norms, 0)
            hooks = []
            for name, norm in norms.items():
                norm.reset_running_stats()
                hooks.append(norm.register_forward_pre_hook(_equal_weights(name, num_calls)))
            try:
                num_batches = 0
                for batch in self._batches():
                    with torch.autocast("cuda", enabled=trainer._use_amp):
                        model(**batch)
                    num_batches += 1
            finally:
                for hook in hooks:
                    hook.remove()
            statistics = {name: _statistics(norm) for name, norm in norms.items()}
        if num_batches < self._num_batches and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "Batch-norm statistics of the averaged model are to be computed over %d batches, "
                "but the training data has only %d: all of these are used",
                self._num_batches,
                num_batches,
            )
        if is_distributed():
            _average_over_processes(statistics, num_calls)
        # A norm that no batch passed through keeps its raw statistics, because there are no better
        # ones.
        return {name: values for name, values in statistics.items() if num_calls[name]}

    def _batches(self) -> Iterator[TensorDict]:
        trainer: Any = self._trainer
        data_loader: Any = same_data(trainer.data_loader)
        if hasattr(data_loader, "batches_per_epoch"):
            data_loader.batches_per_epoch = None
        batches = iter(data_loader)
        num_batches = self._num_batches
        with contextlib.suppress(TypeError):
            num_batches = min(num_batches, len(data_loader))
        progress = Tqdm.tqdm(
            range(self._num_batches),
            total=num_batches,
            desc="recalibrating batch norms",
            disable=not trainer._primary,
        )
        for _ in progress:
            batch = next(batches, None)
            # All processes stop together, because a model's metrics may wait for all of them in the
            # forward pass.
            num_without = dist_reduce_sum(int(batch is None))
            if batch is None or num_without:
                return
            yield batch


def _statistics(norm: _Norm) -> Statistics:
    return {
        key: value.detach().clone()
        for key, value in norm.named_buffers(recurse=False)
        if key in ("running_mean", "running_var", "num_batches_tracked")
    }


def _equal_weights(name: str, num_calls: Dict[str, int]) -> Callable[[_Norm, Any], None]:
    def weigh(norm: _Norm, inputs: Any) -> None:
        # `momentum = None` would do the same, but instance norms do not support it.
        num_calls[name] += 1
        norm.momentum = 1.0 / num_calls[name]

    return weigh


def _average_over_processes(statistics: Dict[str, Statistics], num_calls: Dict[str, int]) -> None:
    """
    Replaces the statistics and the calls by those of all processes, equal bit for bit on each.
    """
    for name, values in statistics.items():
        total = dist_reduce_sum(num_calls[name])
        for value in values.values():
            if value.is_floating_point():
                weighted = dist_reduce_sum(value.double() * num_calls[name])
                value.copy_(weighted / max(total, 1))
            else:
                value.fill_(total)
        num_calls[name] = total
