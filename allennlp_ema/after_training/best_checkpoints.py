"""
The checkpoints of the epochs with the best validation metrics.
"""

import json
import math
import re
from pathlib import Path
from typing import Any, Dict, List, Tuple

from allennlp.common.checks import ConfigurationError

from allennlp_ema.after_training.finished_training import FinishedTraining
from allennlp_ema.common.metrics import SignedMetric

_METRICS_FILE = re.compile(r"metrics_epoch_(\d+)\.json")
_VALIDATION, _RAW = "validation_", "validation_raw_"


def best_checkpoints(
    training: FinishedTraining, metric: SignedMetric, num_checkpoints: int
) -> List[Tuple[Path, float]]:
    """
    # Returns

    checkpoints : `List[Tuple[Path, float]]`
        The `num_checkpoints` model states with the best validation metrics, in the order of their
        epochs, each with the value of its metric. If two are equal, the earlier counts as better,
        as in the trainer.

    # Raises

    `ConfigurationError` : if there are fewer validated epochs, or if the checkpoint of one of the
        best epochs was deleted.
    """
    values = _values(training, metric)
    if not values:
        raise ConfigurationError(
            f"{training.serialization_dir} has no metrics of a validated epoch "
            "(metrics_epoch_*.json) to choose checkpoints by"
        )
    if not 1 <= num_checkpoints <= len(values):
        raise ConfigurationError(
            f"--best is {num_checkpoints}, but has to be within 1 and {len(values)}: of so many "
            f"validated epochs {training.serialization_dir} has the metric {metric}"
        )
    best = sorted(sorted(values), key=lambda epoch: -values[epoch])[:num_checkpoints]
    found = training.checkpoints()
    missing = [f"model_state_e{epoch + 1}_b0.th" for epoch in best if (epoch + 1, 0) not in found]
    if missing:
        raise ConfigurationError(
            f"of the {num_checkpoints} best checkpoints {training.serialization_dir} no longer has "
            f"{', '.join(missing)}: the checkpointer keeps the latest, as many as its "
            '"keep_most_recent_by_count" says (2 unless it is set; null keeps all)'
        )
    return [(found[epoch + 1, 0], values[epoch]) for epoch in sorted(best)]


def _values(training: FinishedTraining, metric: SignedMetric) -> Dict[int, float]:
    """The values of the metric by epoch, for the validated epochs in which it is not NaN."""
    matches = map(_METRICS_FILE.fullmatch, (p.name for p in training.serialization_dir.iterdir()))
    values: Dict[int, float] = {}
    before = ""
    for epoch in sorted(int(match[1]) for match in matches if match):
        path = training.serialization_dir / f"metrics_epoch_{epoch}.json"
        metrics = _validation_metrics(path)
        # The file of an epoch without validation repeats the metrics of the previous epoch.
        averaged = json.dumps({k: v for k, v in metrics.items() if not k.startswith(_RAW)})
        if metrics and averaged != before:
            plain = {key[len(_VALIDATION) :]: value for key, value in metrics.items()}
            values[epoch] = metric.value(plain, str(path))
        before = averaged
    return {epoch: value for epoch, value in values.items() if not math.isnan(value)}


def _validation_metrics(path: Path) -> Dict[str, Any]:
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigurationError(f"{path} is truncated or not JSON: {error}") from error
    if not isinstance(metrics, dict):
        raise ConfigurationError(f"{path} holds {metrics!r:.40}, but has to hold an object")
    return {key: value for key, value in metrics.items() if key.startswith(_VALIDATION)}
