from typing import Any, Dict, Optional

import torch
from allennlp.training import GradientDescentTrainer
from allennlp.training.callbacks import TrainerCallback


@TrainerCallback.register("feedback")
class Feedback(TrainerCallback):
    """
    Sets the raw weights to the averages after each epoch (Switch EMA, Li et al. 2024), or after
    every few updates (Lookahead, Zhang et al. 2019). The optimizer keeps its state.

    Registered as a `TrainerCallback` with name "feedback".

    # Parameters

    serialization_dir : `str`
        The trainer gives it.
    every_num_updates : `int`, optional (default = `None`)
        `None` means after each epoch.
    """

    def __init__(self, serialization_dir: str, every_num_updates: Optional[int] = None) -> None:
        super().__init__(serialization_dir)
        self.every_num_updates = every_num_updates

    def on_batch(
        self, trainer: GradientDescentTrainer, *args: Any, is_training: bool = True, **kwargs: Any
    ) -> None:
        if is_training and self.every_num_updates:
            if trainer._total_batches_completed % self.every_num_updates == 0:
                _set_to_averages(trainer)

    def on_epoch(
        self, trainer: GradientDescentTrainer, metrics: Dict[str, Any], epoch: int, **kwargs: Any
    ) -> None:
        if not self.every_num_updates:
            _set_to_averages(trainer)


def _set_to_averages(trainer: GradientDescentTrainer) -> None:
    with torch.no_grad():
        for name, parameter in trainer.model.named_parameters():
            average = trainer._moving_average.average(name)
            if average is not None:
                parameter.copy_(average)
