"""
What AllenNLP's `ShouldValidateCallback` needs for the best epoch to be the best.
"""

from typing import Any

from allennlp.training.callbacks.should_validate import ShouldValidateCallback


def decide_on_validation_when_the_epoch_begins() -> None:
    """
    `ShouldValidateCallback` decided on the next epoch at the end of each, before the trainer asks
    whether to save the best model: an epoch that was not validated was saved as `best.th`, and one
    that was the best was not. After `--recover` it decided for the first epoch anew, and the number
    of the best epoch was how many validations came before it. And where the last epochs were not
    validated, the model at the end was theirs instead of the best.
    """

    def on_start(self: Any, trainer: Any, is_primary: bool = True, **kwargs: Any) -> None:
        first_epoch = trainer._start_after_epochs_completed
        trainer._should_validate_this_epoch = self._should_validate(first_epoch)

    def on_batch(self: Any, trainer: Any, *args: Any, **kwargs: Any) -> None:
        trainer._should_validate_this_epoch = self._should_validate(trainer._epochs_completed)

    def on_epoch(self: Any, trainer: Any, *args: Any, **kwargs: Any) -> None:
        has_validation = trainer._validation_data_loader is not None
        if has_validation and not trainer._should_validate_this_epoch:
            trainer._metric_tracker._is_best_so_far = False
            trainer._metric_tracker._epoch_number += 1

    callback: Any = ShouldValidateCallback
    callback.on_start = on_start
    callback.on_batch = on_batch
    callback.on_epoch = on_epoch
