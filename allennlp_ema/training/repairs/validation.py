"""
A repair of AllenNLP's `ShouldValidateCallback`, without which the best epoch may be a wrong one.
"""

import functools
from typing import Any, Dict

from allennlp.training.callbacks.should_validate import ShouldValidateCallback


def decide_on_validation_when_the_epoch_begins() -> None:
    """
    At the end of each epoch `ShouldValidateCallback` decided whether to validate the next one. The
    trainer asks only afterwards whether to save the best model. So an epoch that was not validated
    was saved as `best.th`, and the best epoch was not. After `--recover` the callback decided anew
    for the first epoch, and the number of the best epoch was the number of validations before it.
    If the last epochs were not validated, the model at the end was theirs and not the best one.

    A subclass that decides by itself is not repaired.
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
        # A caller outside the training asks for the decision on the next epoch.
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
