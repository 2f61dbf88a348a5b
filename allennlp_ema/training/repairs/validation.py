"""
What AllenNLP's `ShouldValidateCallback` needs for the best epoch to be the best.
"""

import functools
from typing import Any, Dict

from allennlp.training.callbacks.should_validate import ShouldValidateCallback


def decide_on_validation_when_the_epoch_begins() -> None:
    """
    `ShouldValidateCallback` decided on the next epoch at the end of each, before the trainer asks
    whether to save the best model: an epoch that was not validated was saved as `best.th`, and one
    that was the best was not. After `--recover` it decided for the first epoch anew, and the number
    of the best epoch was how many validations came before it. And where the last epochs were not
    validated, the model at the end was theirs instead of the best.

    A subclass that decides by itself is left alone.
    """
    callback: Any = ShouldValidateCallback
    stock_on_start, stock_on_epoch = callback.on_start, callback.on_epoch

    @functools.wraps(stock_on_start)
    def on_start(self: Any, trainer: Any, is_primary: bool = True, **kwargs: Any) -> None:
        stock_on_start(self, trainer, is_primary=is_primary, **kwargs)
        if decides_as_the_class_does(self):
            first_epoch = trainer._start_after_epochs_completed
            trainer._should_validate_this_epoch = self._should_validate(first_epoch)

    def on_batch(
        self: Any,
        trainer: Any,
        batch_inputs: Any,
        batch_outputs: Any,
        batch_metrics: Any,
        epoch: int,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        if decides_as_the_class_does(self):
            trainer._should_validate_this_epoch = self._should_validate(epoch)

    @functools.wraps(stock_on_epoch)
    def on_epoch(
        self: Any, trainer: Any, metrics: Dict[str, Any], epoch: int, *args: Any, **kwargs: Any
    ) -> None:
        # Who calls it beside the training asks for the decision on the next epoch.
        if epoch != trainer._epochs_completed or not decides_as_the_class_does(self):
            stock_on_epoch(self, trainer, metrics, epoch, *args, **kwargs)
            return
        has_validation = trainer._validation_data_loader is not None
        if has_validation and not trainer._should_validate_this_epoch:
            trainer._metric_tracker._is_best_so_far = False
            trainer._metric_tracker._epoch_number += 1

    repaired = {"on_start": on_start, "on_batch": on_batch, "on_epoch": on_epoch}
    own = {**repaired, "_should_validate": callback._should_validate}

    def decides_as_the_class_does(self: Any) -> bool:
        return all(getattr(type(self), name) is method for name, method in own.items())

    for name, method in repaired.items():
        setattr(callback, name, method)
