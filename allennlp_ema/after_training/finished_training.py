"""
What a training left in its serialization directory.
"""

import logging
import math
import re
from pathlib import Path
from typing import Any, Collection, Dict, List, NamedTuple, Optional, Tuple

from allennlp.common.checks import ConfigurationError
from allennlp.models.archival import CONFIG_NAME
from torch import Tensor

from allennlp_ema.after_training.finite_values import InfiniteConstants
from allennlp_ema.averages.snapshot_files import Snapshot, find_snapshots
from allennlp_ema.averages.specifications import Specification, check_specification
from allennlp_ema.averages.written_states import average_state, check_tensors, num_updates_of
from allennlp_ema.common.documents import check_kind, check_range, entry, read_json
from allennlp_ema.common.torch_files import load_dictionary
from allennlp_ema.training.checkpoint_files import RAW_MODEL_STATE
from allennlp_ema.weighting.duration import TrainingLength

logger = logging.getLogger(__name__)

# What a trainer makes of a configuration without "num_epochs".
_NUM_EPOCHS = 20

_MODEL_STATE = re.compile(r"model_state_e(\d+)_b(\d+)\.th")


class RawWeights(NamedTuple):
    """
    # Parameters

    weights : `Dict[str, Tensor]`
        The model's state in training.
    num_updates : `Optional[int]`
        The update after which that is, if a checkpoint of an average tells.
    path : `Path`
        Of the checkpoint.
    """

    weights: Dict[str, Tensor]
    num_updates: Optional[int]
    path: Path


class FinishedTraining:
    """
    # Parameters

    serialization_dir : `Path`

    # Raises

    `ConfigurationError` : if it is not one. All methods raise it too, and name the file that is
        missing, truncated or foreign.
    """

    def __init__(self, serialization_dir: Path) -> None:
        self.serialization_dir = serialization_dir
        self.config_file = path = serialization_dir / CONFIG_NAME
        if not path.is_file():
            raise ConfigurationError(
                f"{serialization_dir} is not the serialization directory of a training: there is "
                f"no {path}"
            )
        self.config: Dict[str, Any] = read_json(path, path.read_bytes())
        check_config(path, self.config)

    def check_has_model(self) -> None:
        """For what is made of it to be a model, too."""
        if not self.config.get("model"):
            raise ConfigurationError(f'{self.config_file} has no "model"')

    def checkpoints(self) -> Dict[Tuple[int, int], Path]:
        """
        # Returns

        checkpoints : `Dict[Tuple[int, int], Path]`
            The model states by the numbers of epochs completed and of batches after them, in this
            order. Shards of model states are not among them.
        """
        matches = [
            (_MODEL_STATE.fullmatch(path.name), path) for path in self.serialization_dir.iterdir()
        ]
        found = {(int(match[1]), int(match[2])): path for match, path in matches if match}
        if not found:
            raise ConfigurationError(
                f"{self.serialization_dir} has no checkpoint of a whole model, no "
                "model_state_e*_b*.th"
            )
        return dict(sorted(found.items()))

    def length(self) -> TrainingLength:
        """
        How long it is by its configuration, and by the newest checkpoint from between two epochs.
        """
        for (epochs, batches), model_file in reversed(list(self.checkpoints().items())):
            if epochs and not batches:
                path = _training_file(model_file)
                num_updates = num_updates_of(average_state(path, load_dictionary(path)))
                if num_updates is not None:
                    place = f'{self.config_file}: "num_epochs"'
                    num_epochs = self.config.get("trainer", {}).get("num_epochs", _NUM_EPOCHS)
                    return TrainingLength(num_updates / epochs, check_kind(place, num_epochs, int))
        raise ConfigurationError(
            f"{self.serialization_dir} does not tell how many updates an epoch has: there is no "
            "checkpoint of an average from the end of an epoch"
        )

    def callback(self, name: str) -> Dict[str, Any]:
        """What the configuration says of the callback of this name, nothing if it has none."""
        for callback in self.config.get("trainer", {}).get("callbacks") or []:
            if isinstance(callback, dict) and callback.get("type") == name:
                return callback
        return {}

    @property
    def snapshots_directory(self) -> Path:
        """Where the callback `"moving_average_snapshots"` writes."""
        callback = self.callback("moving_average_snapshots")
        return self.serialization_dir / callback.get("directory", "averages")

    def snapshots(self) -> List[Snapshot]:
        """All that are there, as they were taken."""
        return find_snapshots(self.snapshots_directory)

    @property
    def best_weights_file(self) -> Path:
        """Of what the training archived: the averaged model of its best epoch."""
        return self.serialization_dir / "best.th"

    def best_weights(self) -> Dict[str, Tensor]:
        """What `best_weights_file` holds."""
        return load_dictionary(self.best_weights_file)

    def raw_weights(self) -> RawWeights:
        """The raw weights in the newest checkpoint, whichever checkpointer wrote it."""
        model_file = list(self.checkpoints().values())[-1]
        training_file = _training_file(model_file)
        training_state = load_dictionary(training_file)
        raw = check_tensors(
            f'{training_file}: "{RAW_MODEL_STATE}"', training_state.get(RAW_MODEL_STATE, {})
        )
        average = average_state(training_file, training_state)
        weights = {**load_dictionary(model_file), **raw}
        return RawWeights(weights, num_updates_of(average), model_file)

    def weights_around(self, num_updates: int, averaged: Collection[str]) -> Dict[str, Tensor]:
        """
        # Parameters

        num_updates : `int`
            The update after which averages are.
        averaged : `Collection[str]`
            The names of the parameters that they are of.

        # Returns

        weights : `Dict[str, Tensor]`
            The model's state for these averages to be put in: the raw one after this update if the
            newest checkpoint is of it, else that of `best_weights_file`, with a warning if there is
            more in it than averages. Buffers of the averaged model are only in the latter.

        # Raises

        `ConfigurationError` : naming what is not averaged and has a NaN.
        """
        path, weights = self._around(num_updates, averaged)
        others = {name: value for name, value in weights.items() if name not in averaged}
        InfiniteConstants().check_state(path, others)
        return weights

    def _around(
        self, num_updates: int, averaged: Collection[str]
    ) -> Tuple[Path, Dict[str, Tensor]]:
        if self.callback("moving_average_buffers"):
            reason = "checkpoints have buffers that go with raw weights"
        else:
            try:
                raw = self.raw_weights()
                if raw.num_updates == num_updates:
                    return raw.path, raw.weights
                reason = (
                    "the newest checkpoint does not tell of which update it is"
                    if raw.num_updates is None
                    else f"the newest checkpoint is of update {raw.num_updates:,}"
                )
            except ConfigurationError as error:
                reason = str(error)
        weights = self.best_weights()
        num_others = sum(name not in averaged for name in weights)
        if num_others:
            logger.warning(
                "%d of the model's %d parameters and buffers are not averaged and come from %s, as "
                "they were in the best epoch and not after update %s: %s",
                num_others,
                len(weights),
                self.best_weights_file,
                f"{num_updates:,}",
                reason,
            )
        return self.best_weights_file, weights


def _training_file(model_file: Path) -> Path:
    """The other half of a checkpoint."""
    return model_file.with_name(model_file.name.replace("model", "training", 1))


def check_config(place: Any, config: Any) -> Dict[str, Any]:
    """
    Checks what is read here of the configuration of a training. The rest is AllenNLP's.

    # Returns

    config : `Dict[str, Any]`

    # Raises

    `ConfigurationError` : if it has not the form of one.
    """
    null = type(None)
    if not isinstance(config, dict):
        raise ConfigurationError(f"{place} holds {config!r:.40}, but has to hold an object")
    for pattern in entry(place, config, "include_in_archive", list, null) or []:
        check_kind(f'{place}: "include_in_archive"', pattern, str)
    for key in ("dataset_reader", "model", "data_loader"):
        entry(place, config, key, dict, str, null)
    entry(place, config, "validation_data_loader", dict, null)
    for key in ("evaluation", "trainer"):
        if key in config:
            entry(place, config, key, dict)
    trainer = config.get("trainer", {})
    place = f'{place}: "trainer"'
    for callback in entry(place, trainer, "callbacks", list, null) or []:
        _check_callback(f'{place}: "callbacks"', callback)
    metric = entry(place, trainer, "validation_metric", list, str, null)
    for name in metric if isinstance(metric, list) else []:
        check_kind(f'{place}: "validation_metric"', name, str)
    entry(place, trainer, "moving_average", dict, str, null)
    entry(place, trainer, "optimizer", dict, str, null)
    return config


def configured_average(place: Any, config: Dict[str, Any]) -> Optional[Specification]:
    """
    # Returns

    average : `Optional[Specification]`
        The one that a training was configured with, as the trainer's or as the optimizer's.

    # Raises

    `ConfigurationError` : if it names what is no average, see `check_specification`.
    """
    trainer = config.get("trainer", {})
    average, optimizer = trainer.get("moving_average"), trainer.get("optimizer")
    if average is None and isinstance(optimizer, dict):
        average = optimizer.get("moving_average")
    return None if average is None else check_specification(f'{place}: "moving_average"', average)


def _check_callback(place: Any, callback: Any) -> None:
    check_kind(place, callback, dict, str)
    if isinstance(callback, str):
        return
    kind = callback.get("type")
    if kind == "moving_average_snapshots" and "directory" in callback:
        entry(place, callback, "directory", str)
    if kind == "moving_average_buffers" and "num_batches" in callback:
        num_batches = entry(place, callback, "num_batches", int)
        check_range(f'{place}: "num_batches"', num_batches, 1, math.inf)
