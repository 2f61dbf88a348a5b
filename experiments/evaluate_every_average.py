import os
import random
import time
from typing import Any, Dict, List

from allennlp.common.util import dump_metrics
from allennlp.training import GradientDescentTrainer
from allennlp.training.callbacks import TrainerCallback
from allennlp.training.util import evaluate

from allennlp_ema import BankMovingAverage

RAW = "raw"
METRICS = ("accuracy", "LAS", "UAS", "loss")


@TrainerCallback.register("evaluate_every_average")
class EvaluateEveryAverage(TrainerCallback):
    """
    Evaluates the raw weights and every average of the trainer's `moving_average` (all of a "bank")
    on the validation data, by AllenNLP's own evaluation, into `evaluations.json` in the
    serialization directory. Training is left as it is, bit for bit, so that what one run gives is
    exactly paired.

    After the last epoch each is also evaluated on two halves of the validation data (every second
    batch each), so that a choice made on one half can be tried on the other.

    Registered as a `TrainerCallback` with name "evaluate_every_average".

    # Parameters

    serialization_dir : `str`
        The trainer gives it.
    every_num_epochs : `int`, optional (default = `1`)
        In epochs.
    """

    def __init__(self, serialization_dir: str, every_num_epochs: int = 1) -> None:
        super().__init__(serialization_dir)
        self.every_num_epochs = every_num_epochs
        self._results: Dict[str, List[Any]] = {
            "wall_seconds": [],
            "cpu_seconds": [],
            "evaluations": [],
        }

    def on_start(
        self, trainer: GradientDescentTrainer, is_primary: bool = True, **kwargs: Any
    ) -> None:
        super().on_start(trainer, is_primary, **kwargs)
        # Bucketing draws random numbers even where it does not shuffle, and the order of the
        # training data must not depend on them.
        random_state = random.getstate()
        self._batches = _Batches(trainer._validation_data_loader)
        random.setstate(random_state)
        self._start_clocks()

    def on_epoch(
        self,
        trainer: GradientDescentTrainer,
        metrics: Dict[str, Any],
        epoch: int,
        is_primary: bool = True,
        **kwargs: Any,
    ) -> None:
        self._results["wall_seconds"].append(time.perf_counter() - self._wall_start)
        self._results["cpu_seconds"].append(time.process_time() - self._cpu_start)
        is_last = epoch + 1 == trainer._num_epochs
        if (epoch + 1) % self.every_num_epochs == 0 or is_last:
            self._evaluate(trainer, epoch, RAW, is_last)
            for name, average in _averages(trainer._moving_average).items():
                average.assign_average_value()
                try:
                    self._evaluate(trainer, epoch, name, is_last)
                finally:
                    average.restore()
        dump_metrics(os.path.join(self.serialization_dir, "evaluations.json"), self._results)
        self._start_clocks()

    def _evaluate(
        self, trainer: GradientDescentTrainer, epoch: int, average: str, is_last: bool
    ) -> None:
        evaluation = {"epoch": epoch + 1, "average": average, **_metrics(trainer, self._batches)}
        if is_last:
            evaluation["halves"] = [
                _metrics(trainer, _Batches(self._batches[start::2])) for start in (0, 1)
            ]
        self._results["evaluations"].append(evaluation)

    def _start_clocks(self) -> None:
        self._wall_start = time.perf_counter()
        self._cpu_start = time.process_time()

    def state_dict(self) -> Dict[str, Any]:
        return self._results

    def load_state_dict(self, state_dict: Dict[str, Any]) -> None:
        self._results = state_dict


class _Batches(list):
    """Batches that are made once: a dozen evaluations an epoch would make them anew each time."""

    def set_target_device(self, device: Any) -> None:
        pass


def _metrics(trainer: GradientDescentTrainer, batches: "_Batches") -> Dict[str, float]:
    metrics = evaluate(trainer.model, batches)
    return {name: metrics[name] for name in METRICS if name in metrics}


def _averages(moving_average: Any) -> Dict[str, Any]:
    if isinstance(moving_average, BankMovingAverage):
        return moving_average.averages
    return {} if moving_average is None else {"average": moving_average}
