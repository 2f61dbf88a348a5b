"""
A callback that gathers the weights, averages and optimizer state of all workers of a training.
"""

import json
from pathlib import Path
from typing import Any

import torch
from allennlp.training import GradientDescentTrainer
from allennlp.training.callbacks import TrainerCallback

from allennlp_ema.averages.parameters import without_prefixes
from allennlp_ema.shadow_weights.sharded import whole


class WholeStates(TrainerCallback):
    """
    Leaves in the serialization directory `start.th`, of where a training goes on, and of the end of
    each epoch an `epoch*.th`. `sharding.json` has the names of the units and the dtypes of outputs.
    """

    def on_start(
        self, trainer: GradientDescentTrainer, is_primary: bool = True, **kwargs: Any
    ) -> None:
        self.write(trainer, "start.th")

    def on_batch(
        self,
        trainer: GradientDescentTrainer,
        batch_inputs: Any,
        batch_outputs: Any,
        *args: Any,
        **_: Any,
    ) -> None:
        if trainer._primary:
            modules = trainer.model.named_modules()
            outputs = [each for each in batch_outputs[0].values() if isinstance(each, torch.Tensor)]
            sharding = {
                "units": [name for name, module in modules if hasattr(module, "reshard")],
                "outputs": sorted({str(each.dtype) for each in outputs}),
            }
            (Path(self.serialization_dir) / "sharding.json").write_text(json.dumps(sharding))

    def on_epoch(
        self, trainer: GradientDescentTrainer, metrics: Any, epoch: int, *args: Any, **kwargs: Any
    ) -> None:
        self.write(trainer, f"epoch{epoch}.th")

    def write(self, trainer: Any, name: str) -> None:
        average: Any = trainer._moving_average
        members = {} if average is None else average.named_members()
        state = {
            "weights": {n: whole(p).detach().clone() for n, p in trainer.model.named_parameters()},
            "averages": {
                member: {without_prefixes(n): whole(v).clone() for n, v in each.named_averages()}
                for member, each in members.items()
            },
            "optimizer": whole_of(trainer.optimizer.state_dict()["state"]),
        }
        if trainer._primary:
            torch.save(state, str(Path(self.serialization_dir) / name))


def whole_of(state: Any) -> Any:
    if isinstance(state, dict):
        return {key: whole_of(value) for key, value in state.items()}
    return whole(state).clone() if isinstance(state, torch.Tensor) else state
