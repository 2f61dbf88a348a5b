"""
The files of checkpoints: writes them whole, and loads the newest checkpoint that can be used.
"""

import contextlib
import functools
import logging
import os
import re
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Set, Tuple

import torch.distributed as dist
from allennlp.common.checks import ConfigurationError
from allennlp.common.util import is_distributed
from allennlp.training.checkpointer import Checkpointer
from allennlp.training.trainer import TrainerCheckpoint

from allennlp_ema.common.files import PARTIAL, whole_file
from allennlp_ema.common.torch_files import load_dictionary
from allennlp_ema.training.sharded_states import load_for_this_worker

logger = logging.getLogger(__name__)

# The number of completed epochs, and of completed batches in the next epoch.
PointInTime = Tuple[int, int]

# The key of the raw weights in a training state whose model state holds averages instead.
RAW_MODEL_STATE = "raw_model_state"

# The files that a training writes into its serialization directory.
_WRITTEN = ("*.th", "*.json", "*.tar.gz", "moving_average.*")


@contextlib.contextmanager
def written_checkpoint(
    checkpointer: Checkpointer, training_state: Dict[str, Any]
) -> Iterator[Tuple[Any, Any]]:
    """
    A context in which the two files of a checkpoint are written. They get their names at its end.

    # Returns

    model_file, training_file : `Iterator[Tuple[BinaryIO, BinaryIO]]`
    """
    point = training_state["epochs_completed"], training_state["batches_in_epoch_completed"]
    model_path = checkpointer._model_state_path(*point)
    # AllenNLP finds a checkpoint by its model file, so that file gets its name last.
    with whole_file(model_path) as model_file:
        with whole_file(checkpointer._training_state_path(*point)) as training_file:
            yield model_file, training_file
            # A model file that was skipped must not be combined with the new training state.
            with contextlib.suppress(FileNotFoundError):
                os.remove(model_path)
    _skipped(checkpointer).discard(point)
    if checkpointer.state_is_sharded and is_distributed():
        _remove_shards_of_more_workers(checkpointer, point)
        # All shards have to be written before an older checkpoint is removed.
        dist.barrier()


def find_checkpoints(checkpointer: Checkpointer) -> Set[PointInTime]:
    """
    The points in time of the checkpoints that have both files and were not skipped. So skipped ones
    do not count among the most recent ones that a checkpointer keeps.
    """
    points = _points(checkpointer, "model") & _points(checkpointer, "training")
    return points - _skipped(checkpointer)


def load_newest_checkpoint(checkpointer: Checkpointer) -> Optional[TrainerCheckpoint]:
    """
    Loads the newest checkpoint that was not skipped and that every worker can read.

    # Returns

    checkpoint : `Optional[TrainerCheckpoint]`
        The model state with the raw weights, and the training state. `None` if there are no
        checkpoints.

    # Raises

    `ConfigurationError` : if there are checkpoints, but none can be read.
    """
    if checkpointer._is_primary:
        _remove_partial_files(Path(checkpointer._serialization_dir))
    own = _points(checkpointer, "model") | _points(checkpointer, "training")
    # All workers try the same checkpoints, because they wait for each other.
    points: Set[PointInTime] = set().union(*from_all_workers(own))
    first_error: Optional[Exception] = None
    for point in sorted(points - _skipped(checkpointer), reverse=True):
        checkpoint = None
        try:
            checkpoint = _read(checkpointer, point)
        except Exception as error:
            first_error = first_error or error
            _skip(checkpointer, point, "cannot be read", error)
        if all(from_all_workers(checkpoint is not None)):
            vars(checkpointer)["_loaded"] = point
            return checkpoint
        _skipped(checkpointer).add(point)
    if points:
        raise ConfigurationError(
            f"None of the {len(points)} checkpoints in {checkpointer._serialization_dir} can be "
            f"used: {first_error or 'another worker cannot read them, see its log'}. To start "
            "over, empty the directory and leave out --recover"
        )
    return None


def skip_loaded(checkpointer: Checkpointer, error: Optional[Exception]) -> bool:
    """
    From now on skips the checkpoint that `load_newest_checkpoint` returned last. The training could
    not continue from it because of `error`, which is `None` if only another worker had an error.

    # Returns

    `bool`
        Whether there was such a checkpoint.
    """
    point = vars(checkpointer).pop("_loaded", None)
    if point is not None:
        _skip(checkpointer, point, "is not of this training", error)
    return point is not None


def from_all_workers(value: Any) -> List[Any]:
    """The `value` of each worker. All workers have to call it together."""
    if not is_distributed():
        return [value]
    values: List[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def _read(checkpointer: Checkpointer, point: PointInTime) -> TrainerCheckpoint:
    if not checkpointer.state_is_sharded:
        return _read_files(checkpointer, point)
    if not is_distributed():
        # Without a process group a shard is returned as it was written.
        return _read_files(checkpointer, point, checkpointer._rank)
    return load_for_this_worker(functools.partial(_read_files, checkpointer, point))


def _read_files(
    checkpointer: Checkpointer,
    point: PointInTime,
    worker: Optional[int] = None,
    is_mapped: bool = False,
) -> TrainerCheckpoint:
    """The files of one worker, with the raw weights in the model state."""
    states = []
    for own in (checkpointer._model_state_path(*point), checkpointer._training_state_path(*point)):
        path = own if worker is None else re.sub(r"_w\d+\.th$", f"_w{worker}.th", own)
        states.append(load_dictionary(Path(path), is_mapped))
    model_state, training_state = states
    raw = training_state.pop(RAW_MODEL_STATE, {})
    (model_state if worker is None else model_state["weights"]).update(raw)
    return TrainerCheckpoint(model_state, training_state)


def _skip(
    checkpointer: Checkpointer, point: PointInTime, what: str, error: Optional[Exception]
) -> None:
    _skipped(checkpointer).add(point)
    logger.warning(
        "The checkpoint of %s and %s %s and is skipped: %s",
        checkpointer._model_state_path(*point),
        checkpointer._training_state_path(*point),
        what,
        "see the log of another worker" if error is None else f"{type(error).__name__}: {error}",
    )


def _remove_shards_of_more_workers(checkpointer: Checkpointer, point: PointInTime) -> None:
    # A run with more workers, which was killed later, has left them.
    if checkpointer._is_primary:
        pattern = "*_state_e{}_b{}_w*.th".format(*point)
        for path in Path(checkpointer._serialization_dir).glob(pattern):
            if int(path.stem.rpartition("_w")[2]) >= dist.get_world_size():
                path.unlink()


def _skipped(checkpointer: Checkpointer) -> Set[PointInTime]:
    return vars(checkpointer).setdefault("_skipped", set())


def _points(checkpointer: Checkpointer, what: str) -> Set[PointInTime]:
    """The points in time of which there is a file `{what}_state_*.th` of this worker."""
    worker = f"_w{checkpointer._rank}" if checkpointer.state_is_sharded else ""
    pattern = re.compile(rf"{what}_state_e(\d+)_b(\d+){worker}\.th")
    folder = checkpointer._serialization_dir
    names = os.listdir(folder) if os.path.isdir(folder) else []
    matches = [match for match in map(pattern.fullmatch, names) if match]
    return {(int(match[1]), int(match[2])) for match in matches}


def _remove_partial_files(directory: Path) -> None:
    for pattern in _WRITTEN:
        for partial in directory.glob(pattern + PARTIAL):
            partial.unlink()
