"""
Repairs of AllenNLP 2.10.1, for current versions of torch and for right averages. The docstring of
each repair gives the reason. A repair is made once, and only if it is needed.
"""

import os
import warnings
from typing import Any, Callable, NamedTuple

import torch
from allennlp.common import Params
from allennlp.models import archival
from allennlp.nn import util as nn_util
from allennlp.training import util as training_util
from allennlp.training.callbacks.should_validate import ShouldValidateCallback
from allennlp.training.callbacks.track_epoch import TrackEpochCallback
from allennlp.training.checkpointer import Checkpointer
from allennlp.training.gradient_descent_trainer import GradientDescentTrainer
from allennlp.training.learning_rate_schedulers import (
    CombinedLearningRateScheduler,
    ReduceOnPlateauLearningRateScheduler,
    SlantedTriangular,
)
from allennlp.training.moving_average import MovingAverage as AllenNLPMovingAverage

from allennlp_ema.training.repairs.averages import load_states_into_the_live_tensors
from allennlp_ema.training.repairs.best_model import (
    continue_with_the_best_model_of_the_checkpoint,
    write_whole_best_models,
    write_whole_metrics_and_archives,
)
from allennlp_ema.training.repairs.checkpoints import (
    read_the_newest_whole_checkpoint,
    record_checkpoints_on_every_worker,
    remove_old_checkpoints_alone,
    save_raw_weights_during_validation,
    skip_foreign_checkpoints,
    write_whole_checkpoints,
)
from allennlp_ema.training.repairs.messages import (
    explain_a_wrong_moving_average,
    ignore_deprecation_warnings_of_the_trainer,
    suggest_the_nearest_type,
)
from allennlp_ema.training.repairs.schedulers import (
    keep_what_combined_had_set,
    restore_gradual_unfreezing,
)
from allennlp_ema.training.repairs.several_nodes import (
    continue_with_other_workers,
    remove_old_checkpoints_on_each_node,
)
from allennlp_ema.training.repairs.torch_versions import (
    allow_losses_in_bfloat16,
    allow_numpy_numbers_in_checkpoints,
    leave_verbose_out_of_reduce_on_plateau,
    reduce_on_plateau_takes_no_verbose,
    torch_load_is_strict,
)
from allennlp_ema.training.repairs.track_epoch import count_the_epochs_of_the_checkpoint
from allennlp_ema.training.repairs.trainer import (
    average_real_steps_only,
    begin_an_average_that_the_checkpoint_lacks,
    count_the_batches_of_every_worker,
    start_from_what_the_model_holds,
    take_the_average_of_the_optimizer,
    wait_for_the_average_before_the_best_model_is_loaded,
    warn_that_repairs_are_left_out,
)
from allennlp_ema.training.repairs.validation import decide_on_validation_when_the_epoch_begins


def always() -> bool:
    return True


def are_left_out() -> bool:
    """Whether to leave out the repairs that only a training with an average needs."""
    return os.environ.get("ALLENNLP_EMA_REPAIRS") == "0"


class Repair(NamedTuple):
    """
    # Parameters

    make : `Callable[[], None]`
        Makes the repair. Its name is the repair's name, and its docstring is the reason.
    of : `Any`
        The class or module that is repaired. It is marked as repaired, because it stays the same
        when this package is imported a second time.
    is_needed : `Callable[[], bool]`, optional (default = `always`)
        Whether the repair is needed, for example with the installed torch.
    without_averages : `bool`, optional (default = `False`)
        Whether a training without an average needs the repair too.
    """

    make: Callable[[], None]
    of: Any
    is_needed: Callable[[], bool] = always
    without_averages: bool = False


REPAIRS = [
    Repair(
        allow_numpy_numbers_in_checkpoints,
        of=torch.serialization,
        is_needed=torch_load_is_strict,
        without_averages=True,
    ),
    Repair(
        leave_verbose_out_of_reduce_on_plateau,
        of=ReduceOnPlateauLearningRateScheduler,
        is_needed=reduce_on_plateau_takes_no_verbose,
        without_averages=True,
    ),
    Repair(ignore_deprecation_warnings_of_the_trainer, of=warnings, without_averages=True),
    Repair(suggest_the_nearest_type, of=Params, without_averages=True),
    Repair(explain_a_wrong_moving_average, of=AllenNLPMovingAverage, without_averages=True),
    Repair(
        warn_that_repairs_are_left_out,
        of=GradientDescentTrainer,
        is_needed=are_left_out,
        without_averages=True,
    ),
    Repair(allow_losses_in_bfloat16, of=nn_util, without_averages=True),
    Repair(take_the_average_of_the_optimizer, of=GradientDescentTrainer),
    Repair(start_from_what_the_model_holds, of=GradientDescentTrainer),
    Repair(begin_an_average_that_the_checkpoint_lacks, of=GradientDescentTrainer),
    Repair(average_real_steps_only, of=GradientDescentTrainer),
    Repair(count_the_batches_of_every_worker, of=GradientDescentTrainer),
    Repair(wait_for_the_average_before_the_best_model_is_loaded, of=GradientDescentTrainer),
    Repair(decide_on_validation_when_the_epoch_begins, of=ShouldValidateCallback),
    Repair(record_checkpoints_on_every_worker, of=Checkpointer),
    Repair(write_whole_checkpoints, of=Checkpointer),
    Repair(save_raw_weights_during_validation, of=Checkpointer),
    Repair(read_the_newest_whole_checkpoint, of=Checkpointer),
    Repair(skip_foreign_checkpoints, of=GradientDescentTrainer),
    Repair(write_whole_best_models, of=GradientDescentTrainer),
    Repair(continue_with_the_best_model_of_the_checkpoint, of=GradientDescentTrainer),
    Repair(write_whole_metrics_and_archives, of=archival),
    Repair(remove_old_checkpoints_alone, of=Checkpointer),
    Repair(remove_old_checkpoints_on_each_node, of=Checkpointer),
    Repair(count_the_epochs_of_the_checkpoint, of=TrackEpochCallback),
    Repair(continue_with_other_workers, of=training_util),
    Repair(restore_gradual_unfreezing, of=SlantedTriangular),
    Repair(keep_what_combined_had_set, of=CombinedLearningRateScheduler),
    Repair(load_states_into_the_live_tensors, of=AllenNLPMovingAverage),
]

_MARK = "_repaired_by_allennlp_ema"


def repair_allennlp() -> None:
    """
    Makes every repair that is needed and was not made yet. `ALLENNLP_EMA_REPAIRS=0` in the
    environment leaves out the repairs that a training without an average does not need.
    """
    for repair in REPAIRS:
        name = repair.make.__name__
        made = vars(repair.of).get(_MARK, [])
        is_wanted = repair.without_averages or not are_left_out()
        if is_wanted and name not in made and repair.is_needed():
            repair.make()
            setattr(repair.of, _MARK, [*made, name])
