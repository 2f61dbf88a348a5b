"""
The mean of the last samples.
"""

from typing import Any, Callable, Dict, Iterable, List, Optional, Tuple

import numpy
from allennlp.common.checks import ConfigurationError
from numpy import ndarray

from allennlp_ema.averages.moving_average import MovingAverage
from allennlp_ema.averages.parameters import NamedParameter
from allennlp_ema.averages.running_average import Move, RunningAverage
from allennlp_ema.averages.states import matched
from allennlp_ema.common.checks import check_integer
from allennlp_ema.common.terminal import in_bytes
from allennlp_ema.shadow_weights.shadow_weights import ShadowWeights
from allennlp_ema.weighting.weighting import AveragingCounts, Update, Weighting


# States use the name that is registered first, which is that of the last decorator.
@MovingAverage.register("lawa")
@MovingAverage.register("window")
class WindowMovingAverage(MovingAverage):
    """
    The mean of the last `window_size` samples, which are taken every `update_every` updates (LAWA,
    Kaddour 2022, "Stop Wasting My Time!"). The samples are kept, and their mean is computed on
    demand, so that rounding errors do not accumulate.

    ```python
    >>> parameter = torch.zeros(1)
    >>> average = WindowMovingAverage([("p", parameter)], window_size=2)
    >>> for value in (1.0, 2.0, 6.0):
    ...     _ = parameter.fill_(value)
    ...     average.apply()
    >>> average.average("p")
    tensor([4.])

    ```

    Registered as a `MovingAverage` with names "window" and "lawa".

    # Parameters

    parameters : `Iterable[Tuple[str, Tensor]]`
        The named parameters to average. The trainer gives them.
    window_size : `int`, optional (default = `10`)
        In samples, at least 1. Each sample takes as much memory as the averaged parameters.
    **kwargs
        The keys that every average takes, see `MovingAverage`.
    """

    def __init__(
        self, parameters: Iterable[NamedParameter], window_size: int = 10, **kwargs: Any
    ) -> None:
        self.window_size = check_integer("window_size", window_size, minimum=1)
        super().__init__(parameters, **kwargs)

    def averaging_weight(self, num_averaged: int, num_updates: Optional[int]) -> float:
        return 1.0 / min(num_averaged + 1, self.window_size)

    def _make_weighting(self) -> Weighting:
        return _WindowWeighting(
            self.averaging_weight, self.window_size, self.start_step, self.update_every
        )

    def _make_running_average(self, parameters: List[NamedParameter]) -> RunningAverage:
        parameters = self.averaged_parameters(parameters)
        samples = [self.new_shadow_weights(parameters, True) for _ in range(self.window_size)]
        return _RunningWindow(self, self.weighting, self.new_shadow_weights(parameters), samples)


class _WindowWeighting(Weighting):
    """
    The weighting of a window. The sum over a window is the sum of all samples minus the sum of the
    samples before the window. So the average is a combination of two states of the plain mean.
    """

    def __init__(
        self, rule: Callable[..., float], window_size: int, start_step: int, update_every: int
    ) -> None:
        super().__init__(rule, start_step, update_every)
        self._window_size = window_size

    def effective_window(self, counts: AveragingCounts) -> Optional[float]:
        num_samples = min(counts.num_averaged, self._window_size)
        return float(self.update_every * num_samples) if num_samples else None

    def recursion_weights(self, num_updates: int) -> ndarray:
        weights = self.update_weights(num_updates)
        sampled = self.sampled_updates(num_updates)
        weights[sampled - 1] = 1.0 / numpy.arange(1, len(sampled) + 1)
        return weights

    def terms(self, num_updates: int) -> List[Tuple[float, int]]:
        sampled = self.sampled_updates(num_updates)
        before = len(sampled) - self._window_size
        if before <= 0:
            return super().terms(num_updates)
        return [
            (len(sampled) / self._window_size, num_updates),
            (-before / self._window_size, int(sampled[before - 1])),
        ]


class _RunningWindow(RunningAverage):
    """Keeps the samples, and computes their mean on demand."""

    entries = [*RunningAverage.entries, "samples"]

    def __init__(
        self,
        average: MovingAverage,
        weighting: Weighting,
        shadow_weights: ShadowWeights,
        samples: List[ShadowWeights],
    ) -> None:
        super().__init__(average, weighting, shadow_weights)
        self._samples = samples
        self._is_fresh = True

    def moves(self, update: Update) -> List[Move]:
        if not update.is_sample:
            return super().moves(update)
        return [(self._samples[self.counts.num_averaged % len(self._samples)], 1.0)]

    def commit(self, counts: AveragingCounts) -> None:
        super().commit(counts)
        self._is_fresh = not counts.num_averaged

    def refresh(self) -> None:
        if not self._is_fresh:
            for number, sample in enumerate(self._samples_in_order()):
                self.shadow_weights.lerp(sample, 1.0 / (number + 1))
            self._is_fresh = True

    def all_shadow_weights(self) -> List[ShadowWeights]:
        return [*super().all_shadow_weights(), *self._samples]

    def memory_in_words(self) -> str:
        size = sum(sample.num_bytes for sample in self._samples)
        return (
            f"{super().memory_in_words()}, and {in_bytes(size)} for a window of "
            f"{len(self._samples)} samples"
        )

    def state_dict(self) -> Dict[str, Any]:
        samples = [sample.values() for sample in self._samples_in_order()]
        return {**super().state_dict(), "samples": samples}

    def prepare_load(self, state: Dict[str, Any]) -> Callable[[], None]:
        load_rest = super().prepare_load(state)
        expected = self.shadow_weights.values()
        samples = [matched("samples", sample, expected) for sample in state["samples"]]
        num_averaged = state["counts"]["num_averaged"]
        if len(samples) != min(num_averaged, len(self._samples)):
            raise ConfigurationError(
                f'"window_size" is {len(self._samples)}, but the state has {len(samples)} samples '
                f"of {num_averaged} taken"
            )

        def load() -> None:
            load_rest()
            for sample, values in zip(self._samples_in_order(), samples):
                sample.load(values)
            self._is_fresh = True

        return load

    def _samples_in_order(self) -> List[ShadowWeights]:
        """The samples in the window at present, the oldest first."""
        newest, size = self.counts.num_averaged, len(self._samples)
        return [self._samples[number % size] for number in range(max(0, newest - size), newest)]
