"""
Reads the serialization directory of a finished training.
"""

import contextlib
import logging
import math
import re
from pathlib import Path
from typing import Any, Collection, Dict, List, NamedTuple, Optional, Tuple

import torch
from allennlp.common.checks import ConfigurationError
from allennlp.models.archival import CONFIG_NAME
from torch import Tensor

from allennlp_ema.after_training.finite_values import InfiniteConstants
from allennlp_ema.averages.snapshot_files import Snapshot, find_snapshots
from allennlp_ema.averages.specifications import Specification, check_specification
from allennlp_ema.averages.written_states import average_state, check_tensors, num_updates_of
from allennlp_ema.common.documents import check_kind, check_range, entry, read_json
from allennlp_ema.common.torch_files import load_dictionary
from allennlp_ema.shadow_weights.sharded import memory_of
from allennlp_ema.training.checkpoint_files import RAW_MODEL_STATE
from allennlp_ema.weighting.duration import TrainingLength

logger = logging.getLogger(__name__)

# The trainer's default for "num_epochs".
_NUM_EPOCHS = 20

_MODEL_STATE = re.compile(r"model_state_e(\d+)_b(\d+)\.th")


class RawWeights(NamedTuple):
    """
    # Parameters

    weights : `Dict[str, Tensor]`
        The model's state with raw weights.
    num_updates : `Optional[int]`
        The number of the update after which it was saved. `None` if the checkpoint has no average
        that knows it.
    path : `Path`
        The file of the checkpoint.
    """

    weights: Dict[str, Tensor]
    num_updates: Optional[int]
    path: Path


class FinishedTraining:
    """
    # Parameters

    serialization_dir : `Path`

    # Raises

    `ConfigurationError` : if it is not the serialization directory of a training. All methods
        raise it too, naming a file that is missing, truncated or of another kind.
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
        """
        # Raises

        `ConfigurationError` : if the configuration has no model, so that no archive can be made.
        """
        if not self.config.get("model"):
            raise ConfigurationError(f'{self.config_file} has no "model"')

    def checkpoints(self) -> Dict[Tuple[int, int], Path]:
        """
        # Returns

        checkpoints : `Dict[Tuple[int, int], Path]`
            The model states by the number of completed epochs and the number of batches after
            them, in ascending order. Shards of model states are left out.
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

    def checkpoints_of_each_update(self) -> List[Path]:
        """
        The model states in the order of their updates, one of each. An epoch may end with two
        checkpoints, that of its last batch and its own. Of these it is the latter.
        """
        found = self.checkpoints()
        points = list(found)
        for (epochs, batches), following in zip(points, points[1:]):
            if batches and following == (epochs + 1, 0):
                if _are_of_one_update(found[epochs, batches], found[following]):
                    del found[epochs, batches]
        return list(found.values())

    def length(self) -> TrainingLength:
        """
        The length of the training. The number of epochs comes from the configuration, the number of
        updates per epoch from the newest checkpoint at the end of an epoch.
        """
        for (epochs, batches), model_file in reversed(list(self.checkpoints().items())):
            if epochs and not batches:
                num_updates = _num_updates(model_file)
                if num_updates is not None:
                    place = f'{self.config_file}: "num_epochs"'
                    num_epochs = self.config.get("trainer", {}).get("num_epochs", _NUM_EPOCHS)
                    return TrainingLength(num_updates / epochs, check_kind(place, num_epochs, int))
        raise ConfigurationError(
            f"{self.serialization_dir} does not tell how many updates an epoch has: there is no "
            "checkpoint of an average from the end of an epoch"
        )

    def callback(self, name: str) -> Dict[str, Any]:
        """The configuration of the callback of this name. Empty if there is none."""
        for callback in self.config.get("trainer", {}).get("callbacks") or []:
            # The configuration of a callback may be just its type.
            found = {"type": callback} if isinstance(callback, str) else callback
            if found.get("type") == name:
                return found
        return {}

    @property
    def snapshots_directory(self) -> Path:
        """The directory to which the callback `"moving_average_snapshots"` writes."""
        callback = self.callback("moving_average_snapshots")
        return self.serialization_dir / callback.get("directory", "averages")

    def snapshots(self) -> List[Snapshot]:
        """All snapshots, in the order of their updates."""
        return find_snapshots(self.snapshots_directory)

    @property
    def best_weights_file(self) -> Path:
        """The weights that the training archived: the averaged model of its best epoch."""
        return self.serialization_dir / "best.th"

    def best_weights(self) -> Dict[str, Tensor]:
        """The contents of `best_weights_file`."""
        return load_dictionary(self.best_weights_file)

    def raw_weights(self) -> RawWeights:
        """The raw weights in the newest checkpoint, of any checkpointer."""
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
            The number of the update after which the averages were taken.
        averaged : `Collection[str]`
            The names of the averaged parameters.

        # Returns

        weights : `Dict[str, Tensor]`
            A state of the model into which these averages can be copied. If the newest checkpoint
            is of this update, it is the raw state in it, else the state in `best_weights_file`,
            with a warning if parameters or buffers in it are not averaged. Only the latter has the
            buffers of the averaged model.

        # Raises

        `ConfigurationError` : naming a parameter or buffer that is not averaged and has a NaN.
        """
        path, weights = self._state_around(num_updates, averaged)
        InfiniteConstants().check_state(path, _not_averaged(weights, averaged))
        return weights

    def _state_around(
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
        num_others = len(_not_averaged(weights, averaged))
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


def _not_averaged(weights: Dict[str, Tensor], averaged: Collection[str]) -> Dict[str, Tensor]:
    """What `averaged` does not name. Tied parameters have more names here than in an average."""
    memories = {name: _memory(value) for name, value in weights.items()}
    tied = {memories[name] for name in averaged if name in weights}
    return {
        name: value
        for name, value in weights.items()
        if name not in averaged and memories[name] not in tied
    }


def _memory(value: Any) -> object:
    # Others than dense tensors are not averaged.
    is_dense = isinstance(value, Tensor) and value.layout == torch.strided
    return memory_of(value) if is_dense else id(value)


def _training_file(model_file: Path) -> Path:
    """The training state that was saved together with a model state."""
    return model_file.with_name(model_file.name.replace("model", "training", 1))


def _num_updates(model_file: Path) -> Optional[int]:
    """The number of the update after which a model state was saved. `None` if it is not known."""
    path = _training_file(model_file)
    return num_updates_of(average_state(path, load_dictionary(path, is_mapped=True)))


def _are_of_one_update(path: Path, other: Path) -> bool:
    with contextlib.suppress(ConfigurationError):
        numbers = [_num_updates(each) for each in (path, other)]
        if None not in numbers:
            return numbers[0] == numbers[1]
    state, other_state = (load_dictionary(each, is_mapped=True) for each in (path, other))
    return state.keys() == other_state.keys() and all(
        torch.equal(value, other_state[name])
        for name, value in state.items()
        if isinstance(value, Tensor) and isinstance(other_state[name], Tensor)
    )


def check_config(place: Any, config: Any) -> Dict[str, Any]:
    """
    Checks the parts of a training's configuration that this package reads.

    # Returns

    config : `Dict[str, Any]`

    # Raises

    `ConfigurationError` : if one of these parts is malformed.
    """
    null = type(None)
    if not isinstance(config, dict):
        raise ConfigurationError(f"{place} holds {config!r:.40}, but has to hold an object")
    for pattern in entry(place, config, "include_in_archive", list, null) or []:
        check_kind(f'{place}: "include_in_archive"', pattern, str)
    for key in ("dataset_reader", "model", "data_loader", "validation_data_loader"):
        entry(place, config, key, dict, str, null)
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
        The specification of the trainer's or the optimizer's average. `None` if there is none.

    # Raises

    `ConfigurationError` : if it does not specify an average, see `check_specification`.
    """
    trainer = config.get("trainer", {})
    average, optimizer = trainer.get("moving_average"), trainer.get("optimizer")
    if average is None and isinstance(optimizer, dict):
        average = optimizer.get("moving_average")
        decay = entry(f'{place}: "optimizer"', optimizer, "average_decay", float, type(None))
        if average is None and decay is not None:
            # As `MovingAverageOptimizer` builds it.
            average = {"type": "exponential", "decay": {"type": "constant", "decay": decay}}
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
