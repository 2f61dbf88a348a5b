"""
The checkpointer whose model states hold the averages and whose checkpoints are written whole.
"""

import contextlib
import logging
from typing import Any, Dict, Iterator, List, Optional, Set

import torch
from allennlp.training.checkpointer import Checkpointer
from allennlp.training.trainer import TrainerCheckpoint
from torch import Tensor

from allennlp_ema.averages.moving_average import MovingAverage
from allennlp_ema.common.from_params import ExplainedFromParams
from allennlp_ema.shadow_weights.sharded import local_part
from allennlp_ema.training.checkpoint_files import (
    RAW_MODEL_STATE,
    PointInTime,
    find_checkpoints,
    load_newest_checkpoint,
    written_checkpoint,
)
from allennlp_ema.training.sharded_states import without_shards

logger = logging.getLogger(__name__)


@Checkpointer.register("swapping")
class SwappingCheckpointer(ExplainedFromParams, Checkpointer):
    """
    Swaps the averages in for each checkpoint, as the `swapping_saver` of
    `tf.contrib.opt.MovingAverageOptimizer` does. Every `model_state_*.th` holds the averages under
    the names of the parameters, ready for `allennlp evaluate --weights-file`. The training state
    holds the raw weights, and `--recover` continues from them.

    Both files are written under another name and then renamed, so that a killed process leaves no
    partial checkpoint. `--recover` skips a checkpoint that cannot be read or belongs to another
    training, and warns of it. It continues from the newest of the other checkpoints.

    The average is that of the trainer, or of an optimizer of type `"moving_average"`. If there is
    none, the checkpointer warns of that and saves the weights as they are.

    ```python
    >>> from allennlp.training.checkpointer import Checkpointer
    >>> params = Params({"type": "swapping"})
    >>> type(Checkpointer.from_params(params, serialization_dir="run")).__name__
    'SwappingCheckpointer'

    ```

    Registered as a `Checkpointer` with name "swapping".

    # Parameters

    serialization_dir : `str`
        The directory of the files. The trainer gives it.
    save_completed_epochs : `bool`, optional (default = `True`)
        Whether to save a checkpoint at the end of each epoch.
    save_every_num_seconds : `float`, optional (default = `None`)
        Save a checkpoint when the last one is this many seconds old.
    save_every_num_batches : `int`, optional (default = `None`)
        Save a checkpoint when the last one is this many batches old.
    keep_most_recent_by_count : `int`, optional (default = `2`)
        How many checkpoints to keep.
    keep_most_recent_by_age : `int`, optional (default = `None`)
        Also keep the checkpoints that are at most this many seconds old. All checkpoints are kept
        if this and `keep_most_recent_by_count` are both `None`.
    """

    _has_warned = False

    def save_checkpoint(self, trainer: Any) -> None:
        self._check_average(trainer._moving_average)
        checkpoint = trainer.get_checkpoint_state()
        if checkpoint is not None:
            self._save(trainer, checkpoint)
        else:
            # Only one of several workers saves, but all of them may be needed to compute an
            # attachment of the averages, for example batch-norm statistics.
            with average_values_of(trainer._moving_average):
                pass
        # The base class does not write files that exist, but it removes old checkpoints.
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
        values = self._tensors(checkpoint.model_state)
        # Tensors are compared by memory, because a tied parameter has more names here than in the
        # average.
        averaged = {_memory(tensor) for tensor in _averaged_tensors(trainer)}
        raw = {name: value for name, value in values.items() if _memory(value) in averaged}
        # Buffers are cloned, because assigning the averages may change them too, in place or not.
        parameters = {_memory(parameter) for parameter in trainer._pytorch_model.parameters()}
        buffers = {n: v.clone() for n, v in values.items() if _memory(v) not in parameters}
        training_state = checkpoint.trainer_state
        with written_checkpoint(self, training_state) as (model_file, training_file):
            with average_values_of(trainer._moving_average):
                model_state = trainer.get_checkpoint_state().model_state
                torch.save(model_state, model_file)
                values = self._tensors(model_state)
                raw.update({n: v for n, v in buffers.items() if not torch.equal(v, values[n])})
            training_state = without_shards({**training_state, RAW_MODEL_STATE: raw})
            torch.save(training_state, training_file)

    def _tensors(self, model_state: Any) -> Dict[str, Tensor]:
        # A sharded state has its weights under "weights", beside the data for merging the shards.
        values = model_state["weights"] if self.state_is_sharded else model_state
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def load_checkpoint(self) -> Optional[TrainerCheckpoint]:
        """See `load_newest_checkpoint`."""
        return load_newest_checkpoint(self)

    def _find_all_checkpoints(self) -> Set[PointInTime]:
        return find_checkpoints(self)


def _averaged_tensors(trainer: Any) -> List[Tensor]:
    average = trainer._moving_average
    if average is None:
        return []
    if isinstance(average, MovingAverage):
        return [value for _, value in average.named_raw_values()]
    # The trainer gives these to an average that was written for AllenNLP's own base class.
    return [p for p in trainer._pytorch_model.parameters() if p.requires_grad]


def _memory(tensor: Tensor) -> int:
    tensor = local_part(tensor)
    storage = tensor.untyped_storage if hasattr(tensor, "untyped_storage") else tensor.storage
    return storage().data_ptr()


@contextlib.contextmanager
def average_values_of(average: Any) -> Iterator[None]:
    """
    A context in which the parameters hold their averages. `average` may be of any class, or `None`.
    """
    if average is None:
        yield
        return
    average.assign_average_value()
    try:
        yield
    finally:
        average.restore()
