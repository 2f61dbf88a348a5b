"""
Repairs of AllenNLP that keep `best.th`, the metrics and the archive at the same epoch.
"""

import contextlib
import functools
import json
import logging
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import torch
from allennlp import models
from allennlp.commands import train as train_command
from allennlp.common import util as common_util
from allennlp.models import archival
from allennlp.training.checkpointer import Checkpointer
from allennlp.training.gradient_descent_trainer import GradientDescentTrainer

from allennlp_ema.common.files import whole_file, written_whole
from allennlp_ema.training.best_model_file import best_model_file_of
from allennlp_ema.training.checkpoint_files import PointInTime, from_all_workers
from allennlp_ema.training.checkpointer import average_values_of

logger = logging.getLogger(__name__)


def write_whole_best_models() -> None:
    """
    A process that was killed while it wrote `best.th` left a partial file, and then every
    `--recover` failed at its end. The previous best model was lost too. But it may be the best
    model of the checkpoint from which a training continues.
    """
    trainer: Any = GradientDescentTrainer
    save_model_state, finalize = trainer._save_model_state, trainer._finalize_best_model_state
    checkpointer: Any = Checkpointer
    save_checkpoint = checkpointer.save_checkpoint

    @functools.wraps(save_model_state)
    def save_whole(self: Any, path: Any) -> None:
        best = best_model_file_of(self)
        is_best = Path(path) == best.path
        with best.written() if is_best else whole_file(path) as file:
            save_model_state(self, file)

    @functools.wraps(finalize)
    def consolidate(self: Any) -> None:
        wrapped = self._ddp_wrapped_model
        if hasattr(wrapped, "whole_state_dict"):
            _warn_that_shards_remain(self)
        elif wrapped is not None and wrapped.is_sharded:
            logger.info("Consolidating sharded model states")
            directory = Path(self._serialization_dir)
            shards = [str(path) for path in directory.glob("best_w*.th")]
            whole = wrapped.consolidate_sharded_state(shards)
            self._best_model_filename = str(directory / "best.th")
            with whole_file(self._best_model_filename) as file:
                torch.save(whole, file)

    @functools.wraps(save_checkpoint)
    def save_and_tidy(self: Any, trainer: Any) -> None:
        save_checkpoint(self, trainer)
        if isinstance(trainer, GradientDescentTrainer):
            best_model_file_of(trainer).remove_previous(if_unneeded=True)

    trainer._save_model_state = save_whole
    trainer._finalize_best_model_state = consolidate
    checkpointer.save_checkpoint = save_and_tidy


def continue_with_the_best_model_of_the_checkpoint() -> None:
    """
    The trainer writes `best.th` after the checkpoint that names its epoch as the best one. After a
    kill between the two, `--recover` ended with the model of another epoch. And `--recover` of a
    finished training lost the metrics of the last epoch, and trained on after an early stop.
    """
    trainer: Any = GradientDescentTrainer
    try_train = trainer._try_train

    @functools.wraps(try_train)
    def continue_with_the_best_model(self: Any) -> Any:
        epochs, batches = _restored_point(self)
        last_metrics = _metrics_of(self, epochs - 1) if batches == 0 else {}
        if (epochs, batches) > (0, 0):
            _find_best_model(self, is_newest=last_metrics.get("best_epoch") == epochs - 1)
        num_epochs = self._num_epochs
        if last_metrics and self._metric_tracker.should_stop_early():
            self._num_epochs = epochs
        try:
            metrics, epoch = try_train(self)
        finally:
            self._num_epochs = num_epochs
        if (epochs, batches) > (0, 0) and self._best_model_filename is None:
            last_metrics = _save_last_model(self, last_metrics)
        _write_whole_best_model(self)
        if best_model_file_of(self).is_own:
            best_model_file_of(self).remove_previous()
        # Without another epoch the trainer returns no metrics of an epoch.
        return metrics if "epoch" in metrics else {**metrics, **last_metrics}, epoch

    trainer._try_train = continue_with_the_best_model


def _save_last_model(trainer: Any, metrics: Dict[str, Any]) -> Dict[str, Any]:
    """Writes the model of the last checkpoint, and returns its metrics without the best ones."""
    best = best_model_file_of(trainer)
    trainer._best_model_filename = str(best.path)
    # The model holds its averages by now.
    if best.is_own:
        trainer._save_model_state(best.path)
    logger.warning("No other model was validated, so best.th has the averages of the last epoch")
    return {key: value for key, value in metrics.items() if not key.startswith("best_")}


def _write_whole_best_model(trainer: Any) -> None:
    """Writes the whole best model of `fully_shard`. All workers hold their shards of it by now."""
    wrapped = trainer._ddp_wrapped_model
    if hasattr(wrapped, "whole_state_dict") and trainer._best_model_filename is not None:
        whole = wrapped.whole_state_dict()
        trainer._best_model_filename = str(Path(trainer._serialization_dir) / "best.th")
        if trainer._primary:
            with whole_file(trainer._best_model_filename) as file:
                torch.save(whole, file)


def _warn_that_shards_remain(trainer: Any) -> None:
    if Path(trainer._best_model_filename or "").name.startswith("best_w"):
        logger.warning(
            "The training did not finish, so the workers have not written best.th together: the "
            "best model so far is in the shards best_w*.th, and --recover continues with them"
        )
        # Otherwise AllenNLP would archive a shard when a training is interrupted by Ctrl-C.
        trainer._best_model_filename = None


def _restored_point(trainer: Any) -> PointInTime:
    return (
        trainer._start_after_epochs_completed,
        trainer._start_after_batches_in_epoch_completed,
    )


def _metrics_of(trainer: Any, epoch: int) -> Dict[str, Any]:
    """The metrics that the trainer wrote after `epoch`. Empty if there are none."""
    for name in ("metrics.json", f"metrics_epoch_{epoch}.json"):
        with contextlib.suppress(OSError, ValueError):
            metrics = json.loads((Path(trainer._serialization_dir) / name).read_text())
            if metrics.get("epoch") == epoch:
                return metrics
    return {}


def _find_best_model(trainer: Any, is_newest: bool) -> None:
    best, average = best_model_file_of(trainer), trainer._moving_average
    best.reshard()
    trainer._best_model_filename = str(best.path)
    if is_newest:
        # The checkpoint's model is the best. All workers may be needed to compute its statistics.
        with average_values_of(average):
            if best.is_own:
                trainer._save_model_state(best.path)
        return
    is_found = best.put_in_place() if best.is_own else True
    if not all(from_all_workers(is_found)):
        trainer._best_model_filename = None
        tracker = trainer._metric_tracker
        if tracker.best_epoch is not None:
            logger.warning(
                "The best model so far, of epoch %s, is lost: the next validated model counts as "
                "the best",
                tracker.best_epoch,
            )
        tracker._best_so_far, tracker.best_epoch, tracker.best_epoch_metrics = None, None, {}


def write_whole_metrics_and_archives() -> None:
    """
    A process that was killed while it wrote `metrics.json` or `model.tar.gz` left a partial file,
    even if there was a whole one before.
    """
    dump_metrics, archive_model = common_util.dump_metrics, archival.archive_model

    @functools.wraps(dump_metrics)
    def dump_whole(file_path: Optional[str], metrics: Dict[str, Any], log: bool = False) -> None:
        dump_metrics(None, metrics, log)
        if file_path:
            with whole_file(file_path) as file:
                file.write(json.dumps(metrics, indent=2).encode())

    @functools.wraps(archive_model)
    def archive_whole(
        serialization_dir: Any,
        weights: str = "best.th",
        archive_path: Any = None,
        include_in_archive: Optional[List[str]] = None,
    ) -> str:
        path = Path(serialization_dir if archive_path is None else archive_path)
        if path.is_dir():
            path = path / "model.tar.gz"
        with written_whole(path) as partial:
            archive_model(serialization_dir, weights, str(partial), include_in_archive)
        return str(path)

    common_util.dump_metrics = dump_whole
    modules: Tuple[Any, ...] = (archival, models, train_command)
    for module in modules:
        module.archive_model = archive_whole
