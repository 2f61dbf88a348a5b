import os
import signal
from typing import Any

from allennlp.training import GradientDescentTrainer
from allennlp.training.callbacks import TrainerCallback


@TrainerCallback.register("kill_once")
class KillOnce(TrainerCallback):
    """
    Kills the process (SIGKILL) at the first update after `after_num_epochs` epochs, once: not again
    when the run is recovered.

    Registered as a `TrainerCallback` with name "kill_once".

    # Parameters

    serialization_dir : `str`
        The trainer gives it.
    after_num_epochs : `int`
        In epochs.
    """

    def __init__(self, serialization_dir: str, after_num_epochs: int) -> None:
        super().__init__(serialization_dir)
        self.after_num_epochs = after_num_epochs

    def on_batch(
        self, trainer: GradientDescentTrainer, *args: Any, is_training: bool = True, **kwargs: Any
    ) -> None:
        marker = os.path.join(self.serialization_dir, "killed")
        if trainer._epochs_completed == self.after_num_epochs and not os.path.exists(marker):
            open(marker, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
