"""
What a training left in its serialization directory.
"""

import json
import logging
import re
from pathlib import Path
from typing import Any, Collection, Dict, List, NamedTuple, Optional, Tuple

from allennlp.common.checks import ConfigurationError
from allennlp.models.archival import CONFIG_NAME
from torch import Tensor

from allennlp_ema.averages.snapshot_files import Snapshot, find_snapshots
from allennlp_ema.common.torch_files import load_dictionary
from allennlp_ema.training.checkpoint_files import RAW_MODEL_STATE

logger = logging.getLogger(__name__)

_MODEL_STATE = re.compile(r"model_state_e(\d+)_b(\d+)\.th")


class RawWeights(NamedTuple):
    """
    # Parameters

    weights : `Dict[str, Tensor]`
        The model's state in training.
    num_updates : `Optional[int]`
        The update after which that is, if a checkpoint of an average tells.
    """

    weights: Dict[str, Tensor]
    num_updates: Optional[int]


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
        path = serialization_dir / CONFIG_NAME
        if not path.is_file():
            raise ConfigurationError(
                f"{serialization_dir} is not the serialization directory of a training: there is "
                f"no {path}"
            )
        try:
            self.config: Dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ConfigurationError(f"{path} is truncated or not JSON: {error}") from error
        if not isinstance(self.config, dict):
            raise ConfigurationError(f"{path} holds {self.config!r:.40}, but has to hold an object")

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

    def callback(self, name: str) -> Dict[str, Any]:
        """What the configuration says of the callback of this name, nothing if it has none."""
        for callback in self.config.get("trainer", {}).get("callbacks") or []:
            if isinstance(callback, dict) and callback.get("type") == name:
                return callback
        return {}

    @property
    def snapshots_directory(self) -> Path:
        """Where the callback `"moving_average_snapshots"` writes."""
        directory = self.callback("moving_average_snapshots").get("directory", "averages")
        return self.serialization_dir / directory

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
        training_file = model_file.with_name(model_file.name.replace("model", "training", 1))
        training_state = load_dictionary(training_file)
        weights = {**load_dictionary(model_file), **training_state.get(RAW_MODEL_STATE, {})}
        average = training_state.get("moving_average") or training_state.get("optimizer", {}).get(
            "moving_average"
        )
        return RawWeights(weights, _num_updates(average))

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
            more in it than averages. Buffers that go with averages are only in the latter.
        """
        if self.callback("moving_average_buffers"):
            reason = "checkpoints have buffers that go with raw weights"
        else:
            try:
                raw = self.raw_weights()
                if raw.num_updates == num_updates:
                    return raw.weights
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
        return weights


def _num_updates(state: Any) -> Optional[int]:
    """Of an average, or of those in a bank, all of which see the same updates."""
    while isinstance(state, dict) and "counts" not in state:
        state = next(iter(state.get("averages", {}).values()), None)
    return state["counts"]["num_updates"] if state else None
