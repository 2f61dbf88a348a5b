"""
The callback that selects the best of the raw weights and the averages before each validation.
"""

import contextlib
import functools
import json
import logging
import math
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Union

import torch
import torch.distributed as dist
from allennlp.common.checks import ConfigurationError
from allennlp.common.util import is_distributed
from allennlp.training import GradientDescentTrainer
from allennlp.training.callbacks import TrainerCallback

from allennlp_ema.averages.contract import RAW
from allennlp_ema.averages.moving_average import MovingAverage
from allennlp_ema.common.checks import check_choice
from allennlp_ema.common.files import written_whole
from allennlp_ema.common.from_params import ExplainedFromParams
from allennlp_ema.common.metrics import SignedMetric
from allennlp_ema.training.callbacks.trainer_average import average_of
from allennlp_ema.training.callbacks.validation_metrics import (
    validation_metric_of,
    validation_metrics,
)
from allennlp_ema.training.replaced import replaced

logger = logging.getLogger(__name__)


@TrainerCallback.register("moving_average_selection")
class MovingAverageSelectionCallback(ExplainedFromParams, TrainerCallback):
    """
    Selects the best weights: before each validation it evaluates the raw weights and each average,
    and selects the best candidate. `assign_average_value` assigns this candidate until the next
    validation. So the trainer's own validation, early stopping, `best.th` and `model.tar.gz` use
    the best candidate of the best epoch. By the validation metric, the result is never worse than
    without averaging.

    The selected candidate is shown as `selected` in the `metrics_epoch_*.json`, with the metrics in
    the log, and in the table and picture of `"moving_average_monitor"`. `best_selected` is the
    candidate of the best epoch. The average's state includes the selection, so it holds after
    `--recover` and for `average_values()`.

    Each candidate takes one more validation. These validations do not change the training: random
    numbers, metrics, buffers and the order of the data stay as they would be without the callback.
    A loader with `batches_per_epoch` gives all candidates the same batches, but gives other batches
    to the trainer's own validation.

    ```python
    >>> params = Params({"type": "moving_average_selection", "metric": "+accuracy"})
    >>> TrainerCallback.from_params(params, serialization_dir="run").metric
    '+accuracy'

    ```

    Registered as a `TrainerCallback` with name "moving_average_selection".

    # Parameters

    serialization_dir : `str`
        The trainer gives it.
    candidates : `List[str]`, optional (default = `None`)
        The candidates: the names of averages in the bank, or the type of the only average, and
        `"raw"` for the raw weights. `None` means all of them.
    metric : `Union[str, List[str]]`, optional (default = `None`)
        The metric to select by, with a + before its name if more is better, or else a -. Several
        metrics are added up, as the trainer does it. `None` means the trainer's
        `validation_metric`. If several candidates are equally good, the configured average (the
        bank's `active`) is selected, or else the first of them. NaN never wins.
    """

    def __init__(
        self,
        serialization_dir: str,
        candidates: Optional[List[str]] = None,
        metric: Optional[Union[str, List[str]]] = None,
    ) -> None:
        super().__init__(serialization_dir)
        if candidates is not None and not candidates:
            raise ConfigurationError('"candidates" is empty, but there has to be one to select')
        self.candidates = candidates
        self.metric = metric
        self._signed_metric = None if metric is None else SignedMetric(metric, '"metric"')
        #: The metrics of each candidate at the latest validation.
        self.validated: Dict[str, Dict[str, Any]] = {}
        self._selected_in_epoch: Dict[int, str] = {}
        self._until_the_end = contextlib.ExitStack()

    def on_start(
        self, trainer: GradientDescentTrainer, is_primary: bool = True, **kwargs: Any
    ) -> None:
        super().on_start(trainer, is_primary, **kwargs)
        average = average_of(trainer, "moving_average_selection")
        if trainer._validation_data_loader is None:
            raise ConfigurationError(
                'the callback "moving_average_selection" selects by the validation metrics, but '
                'there is no "validation_data_path"'
            )
        select_first = functools.partial(
            self._select_and_validate,
            trainer._validation_loss,
            average,
            self._candidates_of(average),
            self._signed_metric or validation_metric_of(trainer),
        )
        self._until_the_end.enter_context(replaced(trainer, "_validation_loss", select_first))

    def _candidates_of(self, average: MovingAverage) -> List[str]:
        """The names of the candidates. The configured average comes first, so that it wins ties."""
        members = average.named_members()
        if RAW in members:
            raise ConfigurationError(
                f'the bank has an average "{RAW}", which is what the callback '
                '"moving_average_selection" calls the raw weights: give it another name'
            )
        names = [*members, RAW] if self.candidates is None else self.candidates
        for name in names:
            check_choice("candidates", name, [*members, RAW])
        configured = average.active_member()
        return sorted(dict.fromkeys(names), key=lambda name: members.get(name) is not configured)

    def _select_and_validate(
        self,
        validate: Callable[[int], Any],
        average: MovingAverage,
        candidates: List[str],
        metric: SignedMetric,
        epoch: int,
    ) -> Any:
        values = self._values_of(candidates, average, metric, epoch)
        best = max(values, key=lambda name: (not math.isnan(values[name]), values[name]))
        if is_distributed():
            # A metric may differ from worker to worker, so all workers take the primary's choice.
            index = torch.tensor(candidates.index(best), device=self.trainer.cuda_device)  # type: ignore
            dist.broadcast(index, src=0)
            best = candidates[int(index)]
        average.select(best)
        self._selected_in_epoch[epoch] = best
        logger.info(
            'Selected "%s" for epoch %d: %s',
            best,
            epoch,
            ", ".join(f'"{name}" has {metric.in_words(value)}' for name, value in values.items()),
        )
        return validate(epoch)

    def _values_of(
        self, candidates: List[str], average: MovingAverage, metric: SignedMetric, epoch: int
    ) -> Dict[str, float]:
        assert self.trainer is not None
        before = average.selected
        values = {}
        try:
            for name in candidates:
                average.select(name)
                with average.average_values():
                    self.validated[name] = validation_metrics(self.trainer, epoch, f'"{name}"')
                values[name] = metric.value(self.validated[name], "the validation")
        finally:
            average.select(before)
        return values

    def on_epoch(
        self,
        trainer: GradientDescentTrainer,
        metrics: Dict[str, Any],
        epoch: int,
        is_primary: bool = True,
        **kwargs: Any,
    ) -> None:
        selected = average_of(trainer, "moving_average_selection").selected
        if selected is None:
            return
        metrics["selected"] = selected
        if metrics["best_epoch"] in self._selected_in_epoch:
            metrics["best_selected"] = self._selected_in_epoch[metrics["best_epoch"]]
        if is_primary:
            # The trainer wrote this file before it called the callbacks, so it lacks their entries.
            path = Path(self.serialization_dir) / f"metrics_epoch_{epoch}.json"
            with written_whole(path) as partial:
                partial.write_text(json.dumps(metrics, indent=2))

    def on_end(
        self,
        trainer: GradientDescentTrainer,
        metrics: Optional[Dict[str, Any]] = None,
        epoch: Optional[int] = None,
        is_primary: bool = True,
        **kwargs: Any,
    ) -> None:
        self._until_the_end.close()

    def state_dict(self) -> Dict[str, Any]:
        return {"selected": dict(self._selected_in_epoch)}

    def load_state_dict(self, state_dict: Dict[str, Any]) -> None:
        self._selected_in_epoch = dict(state_dict["selected"])
