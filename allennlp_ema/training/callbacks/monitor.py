"""
The callback that reports after each epoch what averaging does.
"""

import json
import logging
from pathlib import Path
from typing import Any, Dict, List, Optional, Set, Tuple

from allennlp.training import GradientDescentTrainer
from allennlp.training.callbacks import TrainerCallback
from allennlp.training.callbacks.log_writer import LogWriterCallback

from allennlp_ema.averages.contract import RAW as RAW_WEIGHTS
from allennlp_ema.averages.moving_average import MovingAverage
from allennlp_ema.common.files import whole_file
from allennlp_ema.common.from_params import ExplainedFromParams
from allennlp_ema.training.callbacks.distance import distance_of
from allennlp_ema.training.callbacks.monitor_picture import AVERAGED, RAW, Row, picture, table
from allennlp_ema.training.callbacks.non_finite_values import non_finite_values
from allennlp_ema.training.callbacks.selection import MovingAverageSelectionCallback
from allennlp_ema.training.callbacks.trainer_average import average_of
from allennlp_ema.training.callbacks.validation_metrics import validation_metrics

logger = logging.getLogger(__name__)

_TRAINING = "training_moving_average_"

# A stalled share above this is worth a warning.
_MANY_STALLED = 0.1

# How many parameters one message names.
_MOST_NAMES = 5


@TrainerCallback.register("moving_average_monitor")
class MovingAverageMonitorCallback(ExplainedFromParams, TrainerCallback):
    """
    Reports after each epoch what averaging does. It shows the validation metrics of the raw weights
    beside those of the averaged weights, which are the trainer's own metrics, and it shows figures
    of the average. For a bank it shows the active average. If `"moving_average_selection"` has
    selected weights, the trainer's own metrics are those of the selected weights, and the table
    names the selection. All else stays the same.

    The numbers go into `metrics.json` and the `metrics_epoch_*.json`. They also go to the console,
    TensorBoard and Weights & Biases, if the callbacks for these come after this one in the list:

    * `validation_raw_*`: each validation metric, with the raw weights. A loader with
      `batches_per_epoch` gives other batches to the raw weights than to the averaged weights;
    * `training_moving_average_distance`: the L2 norm of the difference between averaged and raw
      weights, relative to the norm of the raw weights;
    * `training_moving_average_decay`: 1 minus the weight of the latest sample. It is missing before
      the first sample, which the log and `num_averaged` in the table below show;
    * `training_moving_average_effective_window`: the effective window in updates, see
      `MovingAverage.effective_window`. It is missing before the first sample too;
    * `training_moving_average_stalled_share`: the share of the averaged values that an update like
      the latest one moves by less than one unit in the last place. If it is more than a tenth, a
      warning says so;
    * `training_moving_average_non_finite_share`: the share of the averaged values that are a NaN or
      an infinity which the parameters do not hold. For a bank it counts the values of all averages.
      If there are such values, a warning names the average, the parameters and the first such
      epoch.

    The numbers also go into `moving_average.csv`, with one line for each epoch, and into the
    picture `moving_average.png`. Both files are in the serialization directory. They are updated
    after each epoch, and they continue after `--recover`.

    The evaluations here do not change the training: random numbers, metrics, buffers and the order
    of the data stay as they would be without the callback.

    ```python
    >>> from allennlp.training.callbacks import TrainerCallback
    >>> params = Params({"type": "moving_average_monitor"})
    >>> TrainerCallback.from_params(params, serialization_dir="run").validate_raw
    True

    ```

    Registered as a `TrainerCallback` with name "moving_average_monitor".

    # Parameters

    serialization_dir : `str`
        The trainer gives it.
    validate_raw : `bool`, optional (default = `True`)
        Whether to evaluate the raw weights. This takes as long as the trainer's own validation.
    """

    def __init__(self, serialization_dir: str, validate_raw: bool = True) -> None:
        super().__init__(serialization_dir)
        self.validate_raw = validate_raw
        self._rows: List[Row] = []
        self._has_warned = False
        # The first epoch with a NaN or an infinity, by average.
        self._non_finite_since: Dict[str, int] = {}
        self._non_finite_said: Set[str] = set()
        # The entries that this callback added to the trainer's metrics, and these metrics.
        self._shown: Dict[str, Any] = {}
        self._shown_in: Dict[str, Any] = {}

    def on_start(
        self, trainer: GradientDescentTrainer, is_primary: bool = True, **kwargs: Any
    ) -> None:
        super().on_start(trainer, is_primary, **kwargs)
        average_of(trainer, "moving_average_monitor")
        for callback in trainer._callbacks[: trainer._callbacks.index(self)]:
            if isinstance(callback, LogWriterCallback):
                logger.warning(
                    'The %s does not get the numbers of "moving_average_monitor", because it '
                    "stands before it in the list of callbacks",
                    type(callback).__name__,
                )

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
        batch_grad_norm: Optional[float] = None,
        **kwargs: Any,
    ) -> None:
        self._withdraw()

    def on_epoch(
        self,
        trainer: GradientDescentTrainer,
        metrics: Dict[str, Any],
        epoch: int,
        is_primary: bool = True,
        **kwargs: Any,
    ) -> None:
        self._withdraw()
        average = average_of(trainer, "moving_average_monitor")
        distance, stalled_share = distance_of(average)
        self._warn_if_stalled(stalled_share)
        if average.num_averaged == 0:
            logger.info(
                'The average has no sample yet after update %d: see its "start_step" and '
                '"update_every"',
                average.num_updates,
            )
        figures = {
            "decay": average.decay_in_force,
            "effective_window": average.effective_window(),
            "distance": distance,
            "stalled_share": stalled_share,
            "non_finite_share": self._non_finite_share(average, epoch),
        }
        averaged, raw = self._validation_metrics(trainer, metrics, epoch)
        self._shown_in = metrics
        self._shown = {
            **{_TRAINING + key: value for key, value in figures.items() if value is not None},
            **{RAW + name: value for name, value in raw.items()},
        }
        metrics.update(self._shown)
        row: Row = {
            "epoch": epoch,
            "num_updates": average.num_updates,
            "num_averaged": average.num_averaged,
            **figures,
        }
        if average.selected is not None:
            row["selected"] = average.selected
        for name, value in averaged.items():
            for key, number in ((AVERAGED + name, value), (RAW + name, raw.get(name))):
                if isinstance(number, (int, float)):
                    row[key] = float(number)
        self._rows.append(row)
        if is_primary:
            self._write(metrics, [name for _, name in trainer._metric_tracker.tracked_metrics])

    def _withdraw(self) -> None:
        # The trainer keeps its metrics for the next epoch, where these entries would be outdated.
        for key in self._shown:
            self._shown_in.pop(key, None)
        self._shown = {}

    def _warn_if_stalled(self, stalled_share: float) -> None:
        if stalled_share > _MANY_STALLED and not self._has_warned:
            self._has_warned = True
            logger.warning(
                "The average stalls: the latest update moved %.0f%% of its values by less than "
                'one unit in the last place, which rounding loses. "shadow_dtype": "float64" '
                "keeps such updates",
                100 * stalled_share,
            )

    def _non_finite_share(self, average: MovingAverage, epoch: int) -> float:
        num_values = num_averaged = 0
        for name, member in average.named_members().items():
            found = non_finite_values(member)
            num_values += found.num_values
            num_averaged += found.num_averaged
            if not found.names:
                self._non_finite_since.pop(name, None)
                continue
            since = self._non_finite_since.setdefault(name, epoch)
            if name not in self._non_finite_said:
                self._non_finite_said.add(name)
                others = len(found.names) - _MOST_NAMES
                logger.warning(
                    'The average "%s" holds NaN or infinite values that the parameters do not, '
                    "since epoch %d, in %s%s. No later update removes them, except from a "
                    '"window". "exclude" such parameters, take a "window", or --recover from a '
                    "checkpoint from before; averages of earlier updates can still be made from "
                    'the snapshots that "moving_average_snapshots" keeps',
                    name,
                    since,
                    ", ".join(found.names[:_MOST_NAMES]),
                    f" and {others:,} more" if others > 0 else "",
                )
        return num_values / num_averaged

    def _validation_metrics(
        self, trainer: GradientDescentTrainer, metrics: Dict[str, Any], epoch: int
    ) -> Tuple[Dict[str, Any], Dict[str, Any]]:
        """
        The metrics of the averaged and of the raw weights. Empty if this epoch is not validated.
        """
        if not trainer._should_validate_this_epoch or trainer._validation_data_loader is None:
            return {}, {}
        averaged = {k[len(AVERAGED) :]: v for k, v in metrics.items() if k.startswith(AVERAGED)}
        return averaged, self._raw_metrics(trainer, epoch) if self.validate_raw else {}

    def _raw_metrics(self, trainer: GradientDescentTrainer, epoch: int) -> Dict[str, Any]:
        for callback in trainer._callbacks:
            if isinstance(callback, MovingAverageSelectionCallback):
                if RAW_WEIGHTS in callback.validated:
                    return callback.validated[RAW_WEIGHTS]
        return validation_metrics(trainer, epoch, "the raw weights")

    def _write(self, metrics: Dict[str, Any], tracked_metrics: List[str]) -> None:
        directory = Path(self.serialization_dir)
        metrics_file = directory / f"metrics_epoch_{metrics['epoch']}.json"
        written = {
            # The trainer wrote this file before it called the callbacks, so it lacks their entries.
            metrics_file: json.dumps(metrics, indent=2).encode(),
            directory / "moving_average.csv": table(self._rows).encode(),
            directory / "moving_average.png": picture(self._rows, tracked_metrics),
        }
        for path, content in written.items():
            with whole_file(path) as file:
                file.write(content)

    def state_dict(self) -> Dict[str, Any]:
        return {
            "rows": [dict(row) for row in self._rows],
            "non_finite_since": dict(self._non_finite_since),
        }

    def load_state_dict(self, state_dict: Dict[str, Any]) -> None:
        self._rows = [dict(row) for row in state_dict["rows"]]
        self._non_finite_since = dict(state_dict.get("non_finite_since", {}))
