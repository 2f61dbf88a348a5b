"""
Checkpoints that hold averages where a model's weights are looked for, and are whole or not there.
"""

import contextlib
import logging
import os
import re
from typing import Any, Dict, Iterator, List, Optional, Set, Tuple

import torch
import torch.distributed as dist
from allennlp.common.checks import ConfigurationError
from allennlp.common.util import is_distributed
from allennlp.nn.util import device_mapping
from allennlp.training.checkpointer import Checkpointer
from allennlp.training.trainer import TrainerCheckpoint
from torch import Tensor

from allennlp_ema.averages.moving_average import MovingAverage
from allennlp_ema.common.from_params import ExplainedFromParams
from allennlp_ema.shadow_weights.sharded import local_part

logger = logging.getLogger(__name__)

# How many epochs were completed, and how many batches of the next one.
PointInTime = Tuple[int, int]

_RAW_KEY = "raw_model_state"
_PARTIAL = ".partial"


@Checkpointer.register("swapping")
class SwappingCheckpointer(ExplainedFromParams, Checkpointer):
    """
    Swaps the averages in for each checkpoint: every `model_state_*.th` holds them under the
    parameters' own names, ready for `allennlp evaluate --weights-file`, as with the
    `swapping_saver` of `tf.contrib.opt.MovingAverageOptimizer`. The raw weights are in the training
    state, and `--recover` goes on from them.

    Both files are written under another name and then renamed, so that a killed process leaves no
    half of a checkpoint. `--recover` passes over a checkpoint that cannot be read, with a warning,
    and goes on from the newest one that can.

    It swaps the average of the trainer, or of an optimizer of type `"moving_average"`. Without
    either there is nothing to swap; it warns of that and saves the weights as they are.

    Registered as a `Checkpointer` with name "swapping".

    # Parameters

    serialization_dir : `str`
        Where the files are. The trainer gives it.
    save_completed_epochs : `bool`, optional (default = `True`)
        Save a checkpoint at the end of each epoch.
    save_every_num_seconds : `float`, optional (default = `None`)
        Save one when the last is as many seconds old.
    save_every_num_batches : `int`, optional (default = `None`)
        Save one when the last is as many batches old.
    keep_most_recent_by_count : `int`, optional (default = `2`)
        How many checkpoints to keep.
    keep_most_recent_by_age : `int`, optional (default = `None`)
        Keep those that are not older than so many seconds as well. All checkpoints are kept if this
        and `keep_most_recent_by_count` are both `None`.
    """

    _has_warned = False

    def save_checkpoint(self, trainer: Any) -> None:
        self._check_average(trainer._moving_average)
        checkpoint = trainer.get_checkpoint_state()
        if checkpoint is not None:
            self._save(trainer, checkpoint)
        else:
            # Only one of several workers saves, but all of them may be needed to compute what goes
            # with the averages (statistics of a batch norm, say).
            with _average_values(trainer._moving_average):
                pass
        # Finds the files there, and does what is left to do.
        super().save_checkpoint(trainer)

    def _check_average(self, average: Any) -> None:
        if average is None and not self._has_warned:
            self._has_warned = True
            logger.warning(
                'The checkpointer "swapping" finds no moving average to swap in: the files '
                "model_state_*.th hold the raw weights"
            )
        if getattr(average, "is_assigned", False):
            raise RuntimeError(
                "the parameters hold their averages at present, and a checkpoint needs their own "
                "values too: call restore() before save_checkpoint()"
            )

    def _save(self, trainer: Any, checkpoint: TrainerCheckpoint) -> None:
        training_state = checkpoint.trainer_state
        point = training_state["epochs_completed"], training_state["batches_in_epoch_completed"]
        model_file = self._model_state_path(*point)
        training_file = self._training_state_path(*point)

        values = self._tensors(checkpoint.model_state)
        # By their memory, because a tied parameter has more names here than in the average.
        averaged = {_memory(tensor) for tensor in _averaged_tensors(trainer)}
        raw = {name: value for name, value in values.items() if _memory(value) in averaged}
        # Buffers may follow the averages too, and need not do so in place.
        parameters = {_memory(parameter) for parameter in trainer._pytorch_model.parameters()}
        buffers = {n: v.clone() for n, v in values.items() if _memory(v) not in parameters}
        with _average_values(trainer._moving_average):
            model_state = trainer.get_checkpoint_state().model_state
            torch.save(model_state, model_file + _PARTIAL)
            values = self._tensors(model_state)
            raw.update({n: v for n, v in buffers.items() if not torch.equal(v, values[n])})
        torch.save({**training_state, _RAW_KEY: raw}, training_file + _PARTIAL)
        # A checkpoint is looked for by the file of its model, so that one comes last.
        os.replace(training_file + _PARTIAL, training_file)
        os.replace(model_file + _PARTIAL, model_file)

    def _tensors(self, model_state: Any) -> Dict[str, Tensor]:
        # A worker's shard has what it needs to be put together beside it.
        values = model_state["weights"] if self.state_is_sharded else model_state
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def load_checkpoint(self) -> Optional[TrainerCheckpoint]:
        """
        Loads the newest checkpoint that can be read, by every worker if there are several.

        # Returns

        checkpoint : `Optional[TrainerCheckpoint]`
            The model state with the raw weights, and the training state; `None` if there are no
            checkpoints.

        # Raises

        `ConfigurationError` : if there are checkpoints, but none can be read.
        """
        self._remove_partial_files()
        # Every worker goes through the same checkpoints, so that none waits for another.
        points = set().union(*_from_all_workers(self._points("model") | self._points("training")))
        for point in sorted(points, reverse=True):
            checkpoint = None
            try:
                checkpoint = self._read(point)
            except Exception as error:
                logger.warning(
                    "The checkpoint of %s and %s cannot be read and is passed over: %s: %s",
                    self._model_state_path(*point),
                    self._training_state_path(*point),
                    type(error).__name__,
                    error,
                )
            if all(_from_all_workers(checkpoint is not None)):
                return checkpoint
        if points:
            raise ConfigurationError(
                f"None of the {len(points)} checkpoints in {self._serialization_dir} can be read. "
                "To train anew, empty the directory and leave out --recover"
            )
        return None

    def _read(self, point: PointInTime) -> TrainerCheckpoint:
        on_cpu = device_mapping(-1)
        model_state = torch.load(self._model_state_path(*point), map_location=on_cpu)
        training_state = torch.load(self._training_state_path(*point), map_location=on_cpu)
        raw = training_state.pop(_RAW_KEY, {})
        (model_state["weights"] if self.state_is_sharded else model_state).update(raw)
        return TrainerCheckpoint(model_state, training_state)

    def _find_all_checkpoints(self) -> Set[PointInTime]:
        return self._points("model") & self._points("training")

    def _points(self, what: str) -> Set[PointInTime]:
        return {point for point, _ in self._files(what)}

    def _files(self, what: str, suffix: str = "") -> List[Tuple[PointInTime, str]]:
        """The files `{what}_state_*.th{suffix}` of this worker, and which point each is from."""
        worker = f"_w{self._rank}" if self.state_is_sharded else ""
        pattern = re.compile(rf"{what}_state_e(\d+)_b(\d+){worker}\.th{re.escape(suffix)}")
        folder = self._serialization_dir
        names = os.listdir(folder) if os.path.isdir(folder) else []
        matches = [match for match in map(pattern.fullmatch, names) if match]
        return [((int(m[1]), int(m[2])), os.path.join(folder, m[0])) for m in matches]

    def _remove_partial_files(self) -> None:
        if self._is_primary or self.state_is_sharded:
            for what in ("model", "training"):
                for _, path in self._files(what, _PARTIAL):
                    os.remove(path)


def _averaged_tensors(trainer: Any) -> List[Tensor]:
    average = trainer._moving_average
    if average is None:
        return []
    if isinstance(average, MovingAverage):
        return [value for _, value in average.named_raw_values()]
    # What the trainer gives to one that was written for AllenNLP's own base class.
    return [p for p in trainer._pytorch_model.parameters() if p.requires_grad]


def _memory(tensor: Tensor) -> int:
    tensor = local_part(tensor)
    storage = tensor.untyped_storage if hasattr(tensor, "untyped_storage") else tensor.storage
    return storage().data_ptr()


@contextlib.contextmanager
def _average_values(average: Any) -> Iterator[None]:
    if average is None:
        yield
        return
    average.assign_average_value()
    try:
        yield
    finally:
        average.restore()


def _from_all_workers(value: Any) -> List[Any]:
    if not is_distributed():
        return [value]
    values: List[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
