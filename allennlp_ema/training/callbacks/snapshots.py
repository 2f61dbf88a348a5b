"""
The callback that writes snapshots of the averages during training, for averages made after it.
"""

import logging
from pathlib import Path
from typing import Any, Dict, Optional, Union
from weakref import WeakValueDictionary

from allennlp.common.checks import ConfigurationError
from allennlp.training import GradientDescentTrainer
from allennlp.training.callbacks import TrainerCallback

from allennlp_ema.averages.snapshot_files import (
    TakenSnapshot,
    check_writable,
    snapshot_path,
    snapshot_paths,
    take_snapshot,
    write_snapshot,
)
from allennlp_ema.common.background import Background
from allennlp_ema.common.checks import check_integer
from allennlp_ema.common.files import PARTIAL
from allennlp_ema.common.from_params import ExplainedFromParams
from allennlp_ema.shadow_weights.sharded import is_sharded
from allennlp_ema.training.callbacks.trainer_average import average_of
from allennlp_ema.training.checkpoint_files import from_all_workers
from allennlp_ema.training.training_length import training_length
from allennlp_ema.weighting.duration import Duration, check_updates

logger = logging.getLogger(__name__)

# Callbacks with the same directory share one, so that they do not write a file at the same time.
_WRITING: "WeakValueDictionary[Path, Background]" = WeakValueDictionary()


@TrainerCallback.register("moving_average_snapshots")
class MovingAverageSnapshotsCallback(ExplainedFromParams, TrainerCallback):
    """
    Writes snapshots of the trainer's average, or of each average in a bank, at regular intervals
    and at the end. `allennlp average synthesize` and `allennlp average sweep` combine them into
    averages of other lengths and types, as if this training had taken those. The usual set-up is a
    bank of two power functions:

    ```jsonnet
    "moving_average": {
        "type": "bank",
        "active": "long",
        "averages": {
            "short": {"type": "power_function", "sigma_rel": 0.05},
            "long": {"type": "power_function", "sigma_rel": 0.10},
        },
    },
    "callbacks": [{"type": "moving_average_snapshots"}],
    ```

    A snapshot takes 4 bytes per averaged value. It is copied to host memory between two steps, and
    then written in the background, whole or not at all. The next snapshot waits until it is written
    and uses the same memory. An error in writing ends the training at its next step.

    `--recover` removes the snapshots of later updates than the checkpoint's. No earlier ones are
    missing, because a checkpoint is saved only when the snapshots of earlier updates are written. A
    missing snapshot of the checkpoint's own update is written from the checkpoint's averages. In a
    distributed training the primary process writes.

    ```python
    >>> from allennlp.training.callbacks import TrainerCallback
    >>> params = Params({"type": "moving_average_snapshots", "every_num_updates": {"epochs": 0.5}})
    >>> TrainerCallback.from_params(params, serialization_dir="run").every_num_updates
    {"epochs": 0.5}

    ```

    Registered as a `TrainerCallback` with name "moving_average_snapshots".

    # Parameters

    serialization_dir : `str`
        The trainer gives it.
    every_num_epochs : `int`, optional (default = `1`)
        The number of epochs between two snapshots.
    every_num_updates : `Union[int, Duration]`, optional (default = `None`)
        The number of updates between two snapshots, or a duration, instead of epochs.
    keep : `int`, optional (default = `None`)
        How many of the latest snapshots of each average are kept. `None` keeps all.
    directory : `str`, optional (default = `"averages"`)
        The directory of the snapshots, within the serialization directory.
    """

    def __init__(
        self,
        serialization_dir: str,
        every_num_epochs: Optional[int] = None,
        every_num_updates: Optional[Union[int, Duration]] = None,
        keep: Optional[int] = None,
        directory: str = "averages",
    ) -> None:
        super().__init__(serialization_dir)
        if every_num_epochs is not None and every_num_updates is not None:
            raise ConfigurationError(
                '"every_num_epochs" and "every_num_updates" cannot both be given, but are '
                f"{every_num_epochs!r} and {every_num_updates!r}"
            )
        if every_num_updates is not None:
            check_updates("every_num_updates", every_num_updates, minimum=1)
        elif every_num_epochs is None:
            every_num_epochs = 1
        else:
            check_integer("every_num_epochs", every_num_epochs, minimum=1)
        if keep is not None:
            check_integer("keep", keep, minimum=1)
        # Two trainings would remove each other's snapshots in a directory that both have.
        if Path(directory).is_absolute() or ".." in Path(directory).parts:
            raise ConfigurationError(
                f'"directory" is {directory!r}, but has to be a path within the serialization '
                "directory"
            )
        self.every_num_epochs = every_num_epochs
        self.every_num_updates: Any = every_num_updates
        self.keep = keep
        self.directory = directory
        self._path = Path(serialization_dir) / directory
        self._writing = _WRITING.setdefault(self._path, Background())
        self._num_updates_taken = 0
        self._latest: Dict[str, TakenSnapshot] = {}
        # Whether a snapshot is gathered from the shards of all workers.
        self._is_gathered = False

    def on_start(
        self, trainer: GradientDescentTrainer, is_primary: bool = True, **kwargs: Any
    ) -> None:
        super().on_start(trainer, is_primary, **kwargs)
        self._average = average_of(trainer, "moving_average_snapshots")
        if isinstance(self.every_num_updates, Duration):
            every = self.every_num_updates.resolve("every_num_updates", training_length(trainer))
            self.every_num_updates = max(1, round(every))
        wrapped = trainer._ddp_wrapped_model
        if wrapped is not None and wrapped.is_sharded:
            self._is_gathered = any(
                is_sharded(value) for _, value in self._average.named_averages()
            )
            if not self._is_gathered:
                raise ConfigurationError(
                    'the callback "moving_average_snapshots" cannot write the averages of a model '
                    f"that {type(wrapped).__name__} shards, because they cannot be gathered into "
                    'whole parameters: use the accelerator "torch_fsdp"'
                )
        for average in self._average.members():
            check_writable(average)
        self._writing.wait()
        if is_primary:
            for path, num_updates in snapshot_paths(self._path).items():
                if num_updates > self._average.num_updates or path.suffix == PARTIAL:
                    logger.info("Removing %s, which is partial or later than the checkpoint", path)
                    path.unlink()
            # safetensors leaves such files when the process is killed.
            for temporary in self._path.glob(".tmp*"):
                temporary.unlink()
        if self._average.num_updates and self._is_due_at_checkpoint(trainer):
            self._take(is_primary)

    def _is_due_at_checkpoint(self, trainer: GradientDescentTrainer) -> bool:
        if self.every_num_updates is not None:
            return self._average.num_updates % self.every_num_updates == 0
        assert self.every_num_epochs is not None
        num_epochs = trainer._start_after_epochs_completed
        is_at_end = trainer._start_after_batches_in_epoch_completed == 0
        return is_at_end and num_epochs % self.every_num_epochs == 0

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
        self._writing.check()
        every = self.every_num_updates
        if is_training and every is not None:
            if self._average.num_updates % every == 0:
                self._take(is_primary)

    def on_epoch(
        self,
        trainer: GradientDescentTrainer,
        metrics: Dict[str, Any],
        epoch: int,
        is_primary: bool = True,
        **kwargs: Any,
    ) -> None:
        every = self.every_num_epochs
        if every is not None and (epoch + 1) % every == 0:
            self._take(is_primary)

    def on_end(
        self,
        trainer: GradientDescentTrainer,
        metrics: Optional[Dict[str, Any]] = None,
        epoch: Optional[int] = None,
        is_primary: bool = True,
        **kwargs: Any,
    ) -> None:
        # There are no metrics if the training failed.
        if metrics is not None:
            self._take(is_primary)
            self._writing.wait()
            return
        try:
            self._writing.wait()
        except Exception as error:
            # The exception that ended the training is raised instead of this one.
            logger.error("The last snapshot was not written: %s", error)

    def state_dict(self) -> Dict[str, Any]:
        if self._num_updates_taken < self._average.num_updates:
            self._writing.wait()
        return {}

    def _take(self, is_primary: bool) -> None:
        # A snapshot that is not yet written would seem to be missing.
        self._writing.wait()
        if self._average.num_updates == 0 or not (is_primary or self._is_gathered):
            return
        assert self.trainer is not None
        own_names = dict(self.trainer.model.named_parameters())

        def own_name(name: str) -> str:
            # `DistributedDataParallel` puts a prefix before the names.
            return name if name in own_names else name[len("module.") :]

        taken = {}
        for name, average in self._average.named_members().items():
            path = snapshot_path(self._path, average.num_updates, name)
            if self._is_missing(path, is_primary):
                latest = self._latest.get(name)
                taken[path] = take_snapshot(name, average, own_name, latest, is_primary)
                self._latest[name] = taken[path]
        self._num_updates_taken = self._average.num_updates
        if is_primary:
            self._writing.run(self._write, taken)

    def _is_missing(self, path: Path, is_primary: bool) -> bool:
        is_missing = is_primary and not path.exists()
        # All workers gather together, so every node writes if one of them lacks the snapshot.
        return any(from_all_workers(is_missing)) if self._is_gathered else is_missing

    def _write(self, taken: Dict[Path, TakenSnapshot]) -> None:
        for path, snapshot in taken.items():
            write_snapshot(path, snapshot)
            logger.info("Wrote a snapshot of the average to %s", path)
        if self.keep is not None:
            paths = snapshot_paths(self._path)
            kept = sorted(set(paths.values()))[-self.keep :]
            for path, num_updates in paths.items():
                if num_updates not in kept:
                    path.unlink()
