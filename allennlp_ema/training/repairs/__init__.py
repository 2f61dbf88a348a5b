"""
What AllenNLP 2.10.1 needs on a current torch, and for averages that are right. Each repair says
why, and is made only where it is needed.
"""

from allennlp_ema.training.repairs.best_model import (
    go_on_with_the_best_model_of_the_checkpoint,
    write_whole_best_models,
    write_whole_metrics_and_archives,
)
from allennlp_ema.training.repairs.checkpoints import (
    let_every_worker_note_a_checkpoint,
    pass_over_foreign_checkpoints,
    read_the_newest_whole_checkpoint,
    save_raw_weights_during_validation,
    write_whole_checkpoints,
)
from allennlp_ema.training.repairs.torch_versions import (
    leave_verbose_out_of_reduce_on_plateau,
    let_checkpoints_hold_numpy_numbers,
)
from allennlp_ema.training.repairs.trainer import (
    average_real_steps_only,
    take_the_average_of_the_optimizer,
)
from allennlp_ema.training.repairs.validation import decide_on_validation_when_the_epoch_begins

REPAIRS = [
    let_checkpoints_hold_numpy_numbers,
    leave_verbose_out_of_reduce_on_plateau,
    take_the_average_of_the_optimizer,
    average_real_steps_only,
    decide_on_validation_when_the_epoch_begins,
    let_every_worker_note_a_checkpoint,
    write_whole_checkpoints,
    save_raw_weights_during_validation,
    read_the_newest_whole_checkpoint,
    pass_over_foreign_checkpoints,
    write_whole_best_models,
    go_on_with_the_best_model_of_the_checkpoint,
    write_whole_metrics_and_archives,
]


def repair_allennlp() -> None:
    """Makes every repair that the installed torch calls for."""
    for repair in REPAIRS:
        repair()
