"""
A repair of AllenNLP's `TrackEpochCallback`, without which a recovered model counts epochs anew.
"""

import functools
from typing import Any

from allennlp.training.callbacks.track_epoch import TrackEpochCallback


def count_the_epochs_of_the_checkpoint() -> None:
    """
    `TrackEpochCallback` tells the model the number of completed epochs. After `--recover` it said 0
    until the end of the first epoch, so that a model that depends on it trained another way.
    """
    callback: Any = TrackEpochCallback
    stock = callback.on_start

    @functools.wraps(stock)
    def on_start(self: Any, trainer: Any, is_primary: bool = True, **kwargs: Any) -> None:
        stock(self, trainer, is_primary=is_primary, **kwargs)
        trainer.model.epoch = trainer._start_after_epochs_completed

    callback.on_start = on_start
