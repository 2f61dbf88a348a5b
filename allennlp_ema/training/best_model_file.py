"""
The file of the best model so far, and the previous one while a checkpoint may need it.
"""

import contextlib
import itertools
import logging
import os
import shutil
from pathlib import Path
from typing import Any, Dict, Iterator, Optional

import torch
import torch.distributed as dist
from allennlp.common.checks import ConfigurationError
from allennlp.common.util import is_distributed

from allennlp_ema.common.files import whole_file, written_whole
from allennlp_ema.common.torch_files import load_dictionary
from allennlp_ema.training.checkpoint_files import PointInTime, from_all_workers
from allennlp_ema.training.sharded_states import reshard_model_state

logger = logging.getLogger(__name__)


class BestModelFile:
    """
    The file `best.th`, or `best_w*.th` with the shard of one worker. While there are checkpoints
    older than this file, the previous best model is kept as `best_of_epoch_*.th`. It is the best
    model of a training that continues from such a checkpoint.

    # Parameters

    trainer : `GradientDescentTrainer`
        The trainer of the model. `best_model_file_of` returns the file of a trainer.
    """

    def __init__(self, trainer: Any) -> None:
        self._trainer = trainer
        wrapped = trainer._ddp_wrapped_model
        is_sharded = wrapped is not None and wrapped.is_sharded
        self._worker = f"_w{trainer._rank}" if is_sharded else ""
        self._directory = Path(trainer._serialization_dir)
        self.path = self._directory / f"best{self._worker}.th"
        # Whether this worker writes the file.
        self.is_own = is_sharded or trainer._primary
        self._epoch: Optional[int] = None
        self._written_at: PointInTime = (0, 0)

    @contextlib.contextmanager
    def written(self) -> Iterator[Any]:
        """A context in which a new best model is written to the file that it yields."""
        self._written_at = self._current_point()
        self.remove_previous()
        if self._epoch is not None and self.path.exists() and self._has_older_checkpoints():
            previous = self._directory / f"best_of_epoch_{self._epoch}{self._worker}.th"
            with written_whole(previous) as partial:
                _link_or_copy(self.path, partial)
        with whole_file(self.path) as file:
            yield file
        # Without an average the trainer may replace the file by a link to a checkpoint.
        self._epoch = None if self._trainer._moving_average is None else self.best_epoch()

    def best_epoch(self) -> Optional[int]:
        """The best epoch so far by the metrics, or the latest epoch if there is no validation."""
        if self._trainer._validation_data_loader is not None:
            return self._trainer._metric_tracker.best_epoch
        num_epochs, _ = self._current_point()
        return num_epochs - 1 if num_epochs else None

    def put_in_place(self) -> bool:
        """
        Puts the best model of the checkpoint that the training continues from into the file.

        # Returns

        `bool`
            Whether that model was found.
        """
        epoch, previous = self.best_epoch(), self._previous()
        is_found = epoch is not None and max(previous, default=epoch) <= epoch
        if epoch in previous:
            os.replace(str(previous[epoch]), str(self.path))
            is_found = True
        self.remove_previous()
        self._epoch = epoch
        if is_found:
            try:
                self._check_shard(load_dictionary(self.path))
            except ConfigurationError as error:
                logger.warning("%s", error)
                is_found = False
        if not is_found:
            # A wrong model would be archived at the end.
            with contextlib.suppress(FileNotFoundError):
                self.path.unlink()
        return is_found

    def reshard(self) -> None:
        """
        Reshards files that more or fewer workers wrote. All workers have to call it together.
        """
        paths = list(self._directory.glob("best*_w*.th")) if self._worker else []
        names = from_all_workers({path.stem.rpartition("_w")[0] for path in paths})
        for name in sorted(set().union(*names)):
            own = self._resharded(name)
            # All workers have to read before one writes.
            from_all_workers(None)
            if own is not None:
                with whole_file(self._directory / f"{name}{self._worker}.th") as file:
                    torch.save(own, file)
        if self._trainer._primary and is_distributed():
            for path in paths:
                if int(path.stem.rpartition("_w")[2]) >= dist.get_world_size():
                    path.unlink()

    def _resharded(self, name: str) -> Optional[Dict[str, Any]]:
        """This worker's shard, if another number of workers wrote the files."""
        paths = (self._directory / f"{name}_w{worker}.th" for worker in itertools.count())
        # `put_in_place` warns of a file that cannot be read.
        with contextlib.suppress(ConfigurationError):
            shards = [load_dictionary(next(paths), is_mapped=True)]
            num_workers = _other_num_workers(shards[0])
            if num_workers is not None:
                shards += [load_dictionary(next(paths), True) for _ in range(num_workers - 1)]
                return reshard_model_state(shards)
        return None

    def _check_shard(self, state: Dict[str, Any]) -> None:
        # A worker that was killed while it resharded has left a shard from before.
        num_workers = _other_num_workers(state) if self._worker else None
        if num_workers is not None:
            raise ConfigurationError(f"{self.path} is a shard of a run with {num_workers} workers")

    def remove_previous(self, if_unneeded: bool = False) -> None:
        if not (if_unneeded and self._has_older_checkpoints()):
            for path in self._previous().values():
                path.unlink()

    def _previous(self) -> Dict[int, Path]:
        paths = self._directory.glob(f"best_of_epoch_*{self._worker}.th")
        return {int(path.stem.split("_")[3]): path for path in paths}

    def _current_point(self) -> PointInTime:
        trainer = self._trainer
        return max(
            (trainer._epochs_completed, trainer._batches_in_epoch_completed),
            # The point of the checkpoint, to which the trainer first catches up.
            (
                trainer._start_after_epochs_completed,
                trainer._start_after_batches_in_epoch_completed,
            ),
        )

    def _has_older_checkpoints(self) -> bool:
        checkpointer = self._trainer._checkpointer
        points = set() if checkpointer is None else checkpointer._find_all_checkpoints()
        return any(point < self._written_at for point in points)


def best_model_file_of(trainer: Any) -> BestModelFile:
    """The `BestModelFile` of `trainer`: always the same object."""
    if "_best_model_file" not in vars(trainer):
        trainer._best_model_file = BestModelFile(trainer)
    return trainer._best_model_file


def _other_num_workers(state: Dict[str, Any]) -> Optional[int]:
    """How many workers wrote a shard, if more or fewer than now. FairScale's do not hold it."""
    num_workers = state.get("metadata", {}).get("num_workers")
    is_other = num_workers is not None and num_workers != dist.get_world_size()
    return num_workers if is_other else None


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(str(source), str(target))
    except OSError:
        # Not every file system has hard links.
        shutil.copyfile(str(source), str(target))
