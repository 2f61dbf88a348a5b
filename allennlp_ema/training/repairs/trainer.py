"""
What AllenNLP's trainer needs for averages that are right.
"""

import contextlib
import functools
from typing import Any, Iterator, Optional

from allennlp.common.checks import ConfigurationError
from allennlp.training.gradient_descent_trainer import GradientDescentTrainer


def take_the_average_of_the_optimizer() -> None:
    """
    The trainer validates and writes `best.th` with averages only if they are its own
    `moving_average`. With an optimizer that keeps an average both would be of raw weights.
    """
    trainer: Any = GradientDescentTrainer
    init = trainer.__init__

    @functools.wraps(init)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        for name, part in getattr(self.optimizer, "optimizers", {}).items():
            if hasattr(part, "hand_over_average"):
                raise ConfigurationError(
                    f'the optimizer "{name}" of a "multi" keeps a moving average, which nobody '
                    'looks for there: put "moving_average" around "multi", or into the trainer'
                )
        if hasattr(self.optimizer, "hand_over_average"):
            if self._moving_average is not None:
                raise ConfigurationError(
                    'the trainer has a "moving_average" and an "optimizer" that keeps one as well, '
                    "but only one of them can be swapped in: take out either"
                )
            self._moving_average = self.optimizer.hand_over_average()

    trainer.__init__ = __init__


def average_real_steps_only() -> None:
    """
    With `use_amp` the trainer averages after every batch, also where `GradScaler` skipped the step
    because a gradient overflowed: parameters that did not move were averaged once more, and the
    decay's warm-up and `update_every` counted them.
    """
    trainer: Any = GradientDescentTrainer
    train = trainer.train

    @functools.wraps(train)
    def train_averaging_real_steps(self: Any) -> Any:
        with _real_steps_only(self):
            return train(self)

    trainer.train = train_averaging_real_steps


@contextlib.contextmanager
def _real_steps_only(trainer: Any) -> Iterator[None]:
    optimizer, average = trainer.optimizer, trainer._moving_average
    if trainer._scaler is None or average is None:
        yield
        return
    optimizer_step, apply = optimizer.step, average.apply
    took_a_step = False

    @functools.wraps(optimizer_step)
    def step(*args: Any, **kwargs: Any) -> Any:
        nonlocal took_a_step
        loss = optimizer_step(*args, **kwargs)
        # A fused optimizer is called after an overflow too, and told by this to do nothing.
        took_a_step = not getattr(optimizer, "found_inf", False)
        return loss

    def apply_after_a_step(num_updates: Optional[int] = None) -> None:
        nonlocal took_a_step
        if took_a_step:
            # The trainer's own number counts the skipped steps too.
            apply(average.num_updates + 1 if hasattr(average, "num_updates") else num_updates)
        took_a_step = False

    optimizer.step, average.apply = step, apply_after_a_step
    try:
        yield
    finally:
        optimizer.step, average.apply = optimizer_step, apply
