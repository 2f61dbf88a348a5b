"""
How much longer a step of `allennlp train` takes with an average than without.
"""

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, Callable, Dict, List, NamedTuple, Optional

import torch
from allennlp.commands.train import train_model
from allennlp.common import Params
from allennlp.training.callbacks import TrainerCallback
from allennlp.training.gradient_descent_trainer import GradientDescentTrainer

REPOSITORY = Path(__file__).parent.parent


class TrainingSpeed(NamedTuple):
    """
    # Parameters

    on_against_off : `float`
        The CPU time of an epoch's steps with the average divided by that without.
    share : `float`
        The share of the updates of the average in the steps that have them.
    updates_per_second_on, updates_per_second_off : `float`
        Of one thread's CPU time.
    """

    on_against_off: float
    share: float
    updates_per_second_on: float
    updates_per_second_off: float


def training_speed(config: Path, num_epochs: int, stretch: int = 14) -> TrainingSpeed:
    """
    One `allennlp train` of `config`, whose steps are by turns with and without the average. Each
    batch comes as often with as without, in the same place of its epoch.

    # Parameters

    config : `Path`
    num_epochs : `int`
        At least 3: the first does not count.
    stretch : `int`, optional (default = `14`)
        So many steps in a row are with the average, then as many without: what an update leaves in
        the cache, or drives out of it, is paid for by the steps that have it.
    """
    params = Params.from_file(str(config))
    for key in ("validation_data_path", "test_data_path"):
        params.pop(key, None)
    params["data_loader"]["shuffle"] = False
    trainer = params["trainer"]
    trainer["num_epochs"] = num_epochs
    trainer["cuda_device"] = -1
    trainer["callbacks"] = [{"type": "stopwatch", "stretch": stretch}]
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as directory:
            train_model(params, serialization_dir=directory, force=True, return_model=False)
    finally:
        torch.set_num_threads(num_threads)
    return Stopwatch.finished.speed()


@TrainerCallback.register("stopwatch")
class Stopwatch(TrainerCallback):
    """
    Switches the average on and off and takes the time of each step and of its update.

    Registered as a `TrainerCallback` with name "stopwatch".

    # Parameters

    serialization_dir : `str`
        The trainer gives it.
    stretch : `int`
        In steps.
    """

    finished: "Stopwatch"

    def __init__(self, serialization_dir: str, stretch: int) -> None:
        super().__init__(serialization_dir)
        self._stretch = stretch
        # By whether the average is on, by the number of the batch: seconds, one for each epoch.
        self._steps: Dict[bool, Dict[int, List[float]]] = {True: {}, False: {}}
        self._updates: List[float] = []
        self._epoch = 0
        self._batch = 0
        self._last = 0.0

    def on_start(
        self, trainer: GradientDescentTrainer, is_primary: bool = True, **kwargs: Any
    ) -> None:
        super().on_start(trainer, is_primary, **kwargs)
        average = trainer._moving_average
        assert average is not None
        average.apply = self._switched(average.apply)
        self._last = time.thread_time()

    def on_batch(self, *args: Any, is_training: bool, **kwargs: Any) -> None:
        now = time.thread_time()
        if self._epoch:
            self._steps[self._is_on].setdefault(self._batch, []).append(now - self._last)
        self._batch += 1
        self._last = time.thread_time()

    def on_epoch(self, *args: Any, **kwargs: Any) -> None:
        self._epoch += 1
        self._batch = 0
        self._last = time.thread_time()

    def on_end(self, *args: Any, **kwargs: Any) -> None:
        Stopwatch.finished = self

    @property
    def _is_on(self) -> bool:
        return (self._batch // self._stretch + self._epoch) % 2 == 0

    def _switched(self, apply: Callable[..., None]) -> Callable[..., None]:
        def switched(num_updates: Optional[int] = None) -> None:
            if self._is_on:
                start = time.thread_time()
                apply(num_updates)
                self._updates.append(time.thread_time() - start)

        return switched

    def speed(self) -> TrainingSpeed:
        batches = [batch for batch in self._steps[True] if batch in self._steps[False]]
        seconds = {
            is_on: sum(median(steps[batch]) for batch in batches)
            for is_on, steps in self._steps.items()
        }
        return TrainingSpeed(
            on_against_off=seconds[True] / seconds[False],
            share=median(self._updates) * len(batches) / seconds[True],
            updates_per_second_on=len(batches) / seconds[True],
            updates_per_second_off=len(batches) / seconds[False],
        )
