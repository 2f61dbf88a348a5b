from typing import Any, Callable, Dict, Iterable, List, Optional, Tuple

from allennlp.common.checks import ConfigurationError

from allennlp_ema.averages.moving_average import MovingAverage, NamedParameter, in_bytes
from allennlp_ema.common.checks import check_integer
from allennlp_ema.shadow_weights.shadow_weights import ShadowWeights


# The name that a state carries is registered first, so it stands last.
@MovingAverage.register("lawa")
@MovingAverage.register("window")
class WindowMovingAverage(MovingAverage):
    """
    The mean of the last `window_size` samples, taken every `update_every` updates (LAWA, Kaddour
    2022, "Stop Wasting My Time!"). The samples are kept, and their mean is made when it is asked
    for, so nothing can drift.

    Registered as a `MovingAverage` with names "window" and "lawa".

    # Parameters

    parameters : `Iterable[Tuple[str, Tensor]]`
        The named parameters to average. The trainer gives them.
    window_size : `int`, optional (default = `10`)
        In samples, at least 1. Each takes as much memory as the averaged parameters.
    **kwargs
        The keys that every average takes, see `MovingAverage`.
    """

    def __init__(
        self, parameters: Iterable[NamedParameter], window_size: int = 10, **kwargs: Any
    ) -> None:
        self.window_size = check_integer("window_size", window_size, minimum=1)
        self._samples: List[ShadowWeights] = []
        self._is_fresh = True
        super().__init__(parameters, **kwargs)
        self._samples = [self._new_shadow_weights(keep_dtype=True) for _ in range(self.window_size)]

    def averaging_weight(self, num_averaged: int, num_updates: Optional[int]) -> float:
        return 1.0 / min(num_averaged + 1, self.window_size)

    def effective_window(self) -> float:
        return float(self.update_every * max(1, min(self.num_averaged, self.window_size)))

    def _sample(self, num_averaged: int, weight: float) -> Tuple[ShadowWeights, float]:
        return self._samples[num_averaged % self.window_size], 1.0

    def _set_counts(self, counts: Any) -> None:
        super()._set_counts(counts)
        self._is_fresh = not self.num_averaged

    def _all_shadow_weights(self) -> List[ShadowWeights]:
        return [*super()._all_shadow_weights(), *self._samples]

    def _samples_in_order(self) -> List[ShadowWeights]:
        """What the window holds at present, the oldest sample first."""
        newest = self.num_averaged
        oldest = max(0, newest - self.window_size)
        return [self._samples[number % self.window_size] for number in range(oldest, newest)]

    def _refresh(self) -> None:
        if not self._is_fresh:
            for number, sample in enumerate(self._samples_in_order()):
                self._shadow_weights.lerp(sample, 1.0 / (number + 1))
            self._is_fresh = True

    def state_dict(self) -> Dict[str, Any]:
        state = super().state_dict()
        state["samples"] = [sample.values() for sample in self._samples_in_order()]
        return state

    def _prepared_load(self, state_dict: Dict[str, Any]) -> Callable[[], None]:
        load_rest = super()._prepared_load(state_dict)
        samples = [self._matched("samples", sample) for sample in state_dict["samples"]]
        num_averaged = state_dict["counts"]["num_averaged"]
        if len(samples) != min(num_averaged, self.window_size):
            raise ConfigurationError(
                f'"window_size" is {self.window_size}, but the state has {len(samples)} samples of '
                f"{num_averaged} taken"
            )

        def load() -> None:
            load_rest()
            for sample, values in zip(self._samples_in_order(), samples):
                sample.load(values)
            self._is_fresh = True

        return load

    def _memory_in_words(self) -> str:
        sample_bytes = sum(p.numel() * p.element_size() for p in self._shadow_weights.parameters)
        return (
            f"{super()._memory_in_words()}, and {in_bytes(self.window_size * sample_bytes)} for a "
            f"window of {self.window_size} samples"
        )
