"""
A `GradScaler` under a training on CPUs, and a gradient that overflows on one worker.
"""

from typing import Any

import torch
from allennlp.training import GradientDescentTrainer
from allennlp.training.callbacks import TrainerCallback

from allennlp_ema.shadow_weights.sharded import is_sharded, local_part
from tests.support.grad_scaler import grad_scaler_on_cpu

OVERFLOWS_AT = 3


class ScaledTraining(TrainerCallback):
    def on_start(
        self, trainer: GradientDescentTrainer, is_primary: bool = True, **kwargs: Any
    ) -> None:
        trainer._scaler = grad_scaler_on_cpu()

    def on_backward(
        self, trainer: GradientDescentTrainer, batch_outputs: Any, backward_called: bool, **kw: Any
    ) -> bool:
        assert trainer._scaler is not None
        trainer._scaler.scale(batch_outputs["loss"]).backward()
        if trainer._total_batches_completed == OVERFLOWS_AT:
            gradient: Any = next(trainer.model.parameters()).grad
            # Of shards the other worker's are finite.
            if trainer._rank == 1 or not is_sharded(gradient):
                with torch.no_grad():
                    local_part(gradient).fill_(float("inf"))
        return True
