"""
The losses and metrics of a partial epoch, for a checkpoint in the middle of an epoch.
"""

from typing import Any, Dict, Iterator, List, Set

from allennlp.models import Model
from allennlp.nn.util import dist_reduce_sum, move_to_device
from allennlp.training import GradientDescentTrainer
from allennlp.training.metrics import Metric
from torch import Tensor


class PartialEpoch:
    """
    The figures from which an epoch's training metrics are computed: the sums of its losses, and the
    counts of the model's metrics. AllenNLP keeps neither in a checkpoint. So after `--recover` in
    the middle of an epoch it divides the losses of the second part by the number of all batches.

    Only numbers, strings and tensors in a metric's attributes are kept, and lists, tuples, sets and
    dictionaries of these.
    """

    def __init__(self) -> None:
        self._loss = 0.0
        self._reg_loss = 0.0
        self._is_continued = False

    def add(
        self,
        batch_metrics: Dict[str, Any],
        batch_outputs: List[Dict[str, Any]],
        num_accumulated: int,
    ) -> None:
        """
        Adds the losses of one step in the trainer's order, so that the sums are equal bit for bit.
        """
        self._loss += batch_metrics["batch_loss"]
        for outputs in batch_outputs:
            if "reg_loss" in outputs:
                self._reg_loss += (outputs["reg_loss"] / num_accumulated).item()

    def state_dict(self, model: Model) -> Dict[str, Any]:
        metrics = [_kept_attributes(metric) for metric in _metrics_of(model)]
        return {"loss": self._loss, "reg_loss": self._reg_loss, "metrics": metrics}

    def load_state_dict(self, state_dict: Dict[str, Any], trainer: GradientDescentTrainer) -> None:
        """Continues from a state that was saved in the middle of the epoch that begins now."""
        self._is_continued = True
        self._loss, self._reg_loss = state_dict["loss"], state_dict["reg_loss"]
        for metric, attributes in zip(_metrics_of(trainer.model), state_dict["metrics"]):
            for key, (value, is_on_gpu) in attributes.items():
                # Checkpoints are loaded onto the CPU, also tensors that were on a GPU.
                value = move_to_device(value, trainer.cuda_device) if is_on_gpu else value
                _restore(metric, key, value)

    def complete(self, metrics: Dict[str, Any], trainer: GradientDescentTrainer) -> None:
        """Adds the first part of a continued epoch to its training metrics."""
        if not self._is_continued:
            return
        if "loss" not in metrics:
            # If the checkpoint was taken after the last batch, the trainer trains on no batch and
            # returns no metrics.
            metrics.update(trainer.model.get_metrics(reset=True))
        num_batches = dist_reduce_sum(trainer._batches_in_epoch_completed)
        metrics["loss"] = float(dist_reduce_sum(self._loss) / num_batches)
        if trainer.model.get_regularization_penalty() is not None:
            metrics["reg_loss"] = float(dist_reduce_sum(self._reg_loss) / num_batches)


def _metrics_of(model: Model) -> List[Metric]:
    """All metrics of a model, including those within other metrics, always in the same order."""
    seen: Set[int] = set()
    return [m for module in model.modules() for m in _metrics_in(list(vars(module).values()), seen)]


def _metrics_in(value: Any, seen: Set[int]) -> Iterator[Metric]:
    if isinstance(value, Metric) and id(value) not in seen:
        seen.add(id(value))
        yield value
        yield from _metrics_in(vars(value), seen)
    elif isinstance(value, (dict, list, tuple)):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _metrics_in(each, seen)


def _kept_attributes(metric: Metric) -> Dict[str, Any]:
    kept = {}
    for key, value in vars(metric).items():
        try:
            kept[key] = (_plain(value), _is_on_gpu(value))
        except TypeError:
            continue
    return kept


def _plain(value: Any, is_outermost: bool = True) -> Any:
    """
    `value` in types that every `torch.load` accepts. Raises a `TypeError` if that is impossible.
    """
    if isinstance(value, Tensor):
        return value.cpu()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, dict) and (is_outermost or type(value) is dict):
        return {_plain(key, False): _plain(each, False) for key, each in value.items()}
    if type(value) in (list, tuple) or (is_outermost and isinstance(value, set)):
        values = [_plain(each, False) for each in value]
        return tuple(values) if isinstance(value, tuple) else values
    raise TypeError(type(value))


def _is_on_gpu(value: Any) -> bool:
    if isinstance(value, (dict, list, tuple, set)):
        return any(map(_is_on_gpu, value.values() if isinstance(value, dict) else value))
    return isinstance(value, Tensor) and value.is_cuda


def _restore(metric: Metric, key: str, value: Any) -> None:
    present = getattr(metric, key, None)
    if isinstance(present, dict):
        # The dictionary is kept, because it may be of a type that the state does not keep, for
        # example a `defaultdict`.
        present.clear()
        dict.update(present, value)
    else:
        setattr(metric, key, type(present)(value) if isinstance(present, set) else value)
