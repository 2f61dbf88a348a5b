"""
A real training of 320 updates. It took 16 snapshots of each of two power functions, and recorded
every parameter vector.
"""

from pathlib import Path
from typing import Any, List, NamedTuple

import torch
from allennlp.training.callbacks import TrainerCallback
from torch import Tensor

from tests.support.training_runs import tagger_config, train_here

NUM_UPDATES = 320


class RecordedTraining(NamedTuple):
    """
    # Parameters

    directory : `Path`
        The serialization directory.
    names : `List[str]`
        Of the parameters.
    trajectory : `Tensor`
        The initial parameters and those after each update, `(NUM_UPDATES + 1, num_values)`.
    """

    directory: Path
    names: List[str]
    trajectory: Tensor

    def flat(self, weights: Any) -> Tensor:
        """The parameters in a model's state, as in the trajectory."""
        return _flat(weights[name] for name in self.names)


@TrainerCallback.register("recording")
class RecordingCallback(TrainerCallback):
    def on_start(self, trainer: Any, is_primary: bool = True, **kwargs: Any) -> None:
        self.names = [name for name, _ in trainer.model.named_parameters()]
        self.vectors = [_flat(trainer.model.parameters())]

    def on_batch(self, trainer: Any, *args: Any, is_training: bool, **kwargs: Any) -> None:
        if is_training:
            self.vectors.append(_flat(trainer.model.parameters()))

    def on_end(self, trainer: Any, *args: Any, **kwargs: Any) -> None:
        recorded = {"names": self.names, "trajectory": torch.stack(self.vectors)}
        torch.save(recorded, str(Path(self.serialization_dir) / "recorded.pt"))


def train_recorded(directory: Path) -> RecordedTraining:
    """Trains in `directory`."""
    config = tagger_config(
        num_epochs=40,
        moving_average={
            "type": "bank",
            "active": "long",
            "averages": {
                "short": {"type": "power_function", "sigma_rel": 0.05},
                "long": {"type": "power_function", "sigma_rel": 0.10},
            },
        },
        callbacks=[
            {"type": "moving_average_snapshots", "every_num_updates": NUM_UPDATES // 16},
            {"type": "recording"},
        ],
        validation_metric="+accuracy",
        checkpointer={"keep_most_recent_by_count": 3},
    )
    # It shuffles its list of instances in place.
    config["data_loader"] = {"type": "simple", "batch_size": 3, "shuffle": True}
    train_here(config, directory)
    recorded = torch.load(str(directory / "recorded.pt"))
    return RecordedTraining(directory, recorded["names"], recorded["trajectory"])


def _flat(tensors: Any) -> Tensor:
    return torch.cat([tensor.detach().double().reshape(-1) for tensor in tensors])
