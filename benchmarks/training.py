"""
How much longer a step of `allennlp train` takes with an average than without, and with one that is
updated beside the step.
"""

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple

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


class OverlapSpeed(NamedTuple):
    """
    # Parameters

    beside_against_sequential : `float`
        The time on the wall of an epoch's steps with `"sequential_update": false` divided by that
        with true.
    share_beside, share_sequential : `float`
        Of averaging in the CPU time that a step takes on the main thread.
    """

    beside_against_sequential: float
    share_beside: float
    share_sequential: float


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
    return _finished(Params.from_file(str(config)), num_epochs, stretch).speed()


def overlap_speed(
    config: Path,
    num_epochs: int,
    num_values: Optional[int] = None,
    max_instances: Optional[int] = None,
    stretch: int = 7,
) -> OverlapSpeed:
    """
    The same with an average that is updated beside the steps, by turns with one that is not.

    # Parameters

    num_values : `int`, optional (default = `None`)
        In the place of the model of `config` one of an embedding with so many values and a small
        encoder, trained by SGD: an update is a visible share of its step.
    max_instances : `int`, optional (default = `None`)
        To train on.
    """
    params = Params.from_file(str(config))
    params["dataset_reader"]["max_instances"] = max_instances
    if num_values is not None:
        params["dataset_reader"]["token_indexers"] = {"tokens": {"type": "single_id"}}
        embedding = {"type": "embedding", "embedding_dim": 100, "num_embeddings": num_values // 100}
        params["model"] = {
            "type": "simple_tagger",
            "text_field_embedder": {"token_embedders": {"tokens": embedding}},
            "encoder": {"type": "gru", "input_size": 100, "hidden_size": 25},
        }
        params["trainer"]["optimizer"] = {"type": "sgd", "lr": 0.1}
    return _finished(params, num_epochs, stretch, overlaps=True).overlap()


def _finished(params: Params, num_epochs: int, stretch: int, overlaps: bool = False) -> "Stopwatch":
    """The stopwatch of a whole training."""
    for key in ("validation_data_path", "test_data_path"):
        params.pop(key, None)
    params["data_loader"]["shuffle"] = False
    trainer = params["trainer"]
    trainer["num_epochs"] = num_epochs
    trainer["cuda_device"] = -1
    trainer["callbacks"] = [{"type": "stopwatch", "stretch": stretch, "overlaps": overlaps}]
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory() as directory:
            train_model(params, serialization_dir=directory, force=True, return_model=False)
    finally:
        torch.set_num_threads(num_threads)
    return Stopwatch.finished


@TrainerCallback.register("stopwatch")
class Stopwatch(TrainerCallback):
    """
    Switches something on and off and takes the time of each step and of averaging in it.

    Registered as a `TrainerCallback` with name "stopwatch".

    # Parameters

    serialization_dir : `str`
        The trainer gives it.
    stretch : `int`
        In steps.
    overlaps : `bool`, optional (default = `False`)
        What is switched: whether the average is updated beside the steps, or whether it is at all.
    """

    finished: "Stopwatch"

    def __init__(self, serialization_dir: str, stretch: int, overlaps: bool = False) -> None:
        super().__init__(serialization_dir)
        self._stretch = stretch
        self._overlaps = overlaps
        # By whether it is on, by the number of the batch: seconds of CPU and on the wall, one pair
        # for each epoch.
        self._steps: Dict[bool, Dict[int, List[Tuple[float, float]]]] = {True: {}, False: {}}
        # Of CPU, one for each step.
        self._averaging: Dict[bool, List[float]] = {True: [], False: []}
        self._averaging_in_step = 0.0
        self._epoch = 0
        self._batch = 0

    def on_start(
        self, trainer: GradientDescentTrainer, is_primary: bool = True, **kwargs: Any
    ) -> None:
        super().on_start(trainer, is_primary, **kwargs)
        average: Any = trainer._moving_average
        optimizer: Any = trainer.optimizer
        average.apply = self._switched(average)
        optimizer.step = self._waiting(average, optimizer.step)
        self._last = _now()

    def on_batch(self, *args: Any, is_training: bool, **kwargs: Any) -> None:
        now = _now()
        if self._epoch:
            step = (now[0] - self._last[0], now[1] - self._last[1])
            self._steps[self._is_on].setdefault(self._batch, []).append(step)
            self._averaging[self._is_on].append(self._averaging_in_step)
        self._averaging_in_step = 0.0
        self._batch += 1
        self._last = _now()

    def on_epoch(self, *args: Any, **kwargs: Any) -> None:
        self._epoch += 1
        self._batch = 0
        self._last = _now()

    def on_end(self, *args: Any, **kwargs: Any) -> None:
        Stopwatch.finished = self

    @property
    def _is_on(self) -> bool:
        return (self._batch // self._stretch + self._epoch) % 2 == 0

    def _switched(self, average: Any) -> Callable[..., None]:
        apply = average.apply

        def switched(num_updates: Optional[int] = None) -> None:
            if self._overlaps:
                average.running.shadow_weights.overlaps = self._is_on
            elif not self._is_on:
                return
            start = time.thread_time()
            apply(num_updates)
            self._averaging_in_step += time.thread_time() - start

        return switched

    def _waiting(self, average: Any, take_step: Callable[..., Any]) -> Callable[..., Any]:
        def wait_and_take_step(*args: Any, **kwargs: Any) -> Any:
            # As the step itself would do.
            start = time.thread_time()
            average.wait()
            self._averaging_in_step += time.thread_time() - start
            return take_step(*args, **kwargs)

        return wait_and_take_step

    def _batches(self) -> List[int]:
        return [batch for batch in self._steps[True] if batch in self._steps[False]]

    def _seconds(self, clock: int) -> Dict[bool, float]:
        """Of an epoch's steps: of CPU for 0, on the wall for 1."""
        return {
            is_on: sum(median(step[clock] for step in steps[batch]) for batch in self._batches())
            for is_on, steps in self._steps.items()
        }

    def _share(self, is_on: bool) -> float:
        averaging = median(self._averaging[is_on]) * len(self._batches())
        return averaging / self._seconds(0)[is_on]

    def speed(self) -> TrainingSpeed:
        seconds, num_batches = self._seconds(0), len(self._batches())
        return TrainingSpeed(
            on_against_off=seconds[True] / seconds[False],
            share=self._share(True),
            updates_per_second_on=num_batches / seconds[True],
            updates_per_second_off=num_batches / seconds[False],
        )

    def overlap(self) -> OverlapSpeed:
        seconds = self._seconds(1)
        return OverlapSpeed(seconds[True] / seconds[False], self._share(True), self._share(False))


def _now() -> Tuple[float, float]:
    return time.thread_time(), time.perf_counter()
