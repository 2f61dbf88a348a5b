from typing import List, Optional

import torch
from allennlp.training.learning_rate_schedulers import LearningRateScheduler


@LearningRateScheduler.register("late_decay")
class LateDecay(LearningRateScheduler):
    """
    The learning rate rises linearly at first, is constant then, and falls linearly to zero in the
    last part of the training.

    Registered as a `LearningRateScheduler` with name "late_decay".

    # Parameters

    optimizer : `torch.optim.Optimizer`
        The trainer gives it, and the next two.
    num_epochs : `int`
    num_steps_per_epoch : `int`
    fraction : `float`, optional (default = `0.0`)
        For how much of the training it falls. 1 is linear decay.
    warmup_steps : `int`, optional (default = `0`)
        For how many updates it rises.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        num_epochs: int,
        num_steps_per_epoch: int,
        fraction: float = 0.0,
        warmup_steps: int = 0,
    ) -> None:
        super().__init__(optimizer)
        self.num_steps = num_epochs * num_steps_per_epoch
        self.fraction = fraction
        self.warmup_steps = warmup_steps
        self.step_batch(0)

    def step_batch(self, batch_num_total: Optional[int] = None) -> None:
        assert batch_num_total is not None
        self.num_done = batch_num_total
        for group, learning_rate in zip(self.optimizer.param_groups, self.get_values()):
            group["lr"] = learning_rate

    def step(self, metric: Optional[float] = None) -> None:
        """The learning rate changes with updates alone."""

    def get_values(self) -> List[float]:
        factor = 1.0
        if self.fraction:
            left = (self.num_steps - self.num_done) / (self.fraction * self.num_steps)
            factor = min(factor, left)
        if self.num_done < self.warmup_steps:
            factor = min(factor, (self.num_done + 1) / self.warmup_steps)
        return [factor * value for value in self.base_values]
