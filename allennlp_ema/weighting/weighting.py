"""
Weightings: which updates an average samples, and with which weights. Numbers only, no tensors.
"""

import inspect
from numbers import Real
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Tuple, Union

import numpy
from allennlp.common.checks import ConfigurationError
from numpy import ndarray

from allennlp_ema.common.terminal import progress
from allennlp_ema.weighting.duration import Duration

Number = Union[int, float]


class AveragingCounts(NamedTuple):
    """
    The numbers that an average carries from one update to the next. They are plain Python numbers,
    so that reading them never waits for a device.

    # Parameters

    num_updates : `int`, optional (default = `0`)
        The number of the latest update, whether it was sampled or not.
    num_averaged : `int`, optional (default = `0`)
        The number of samples averaged since `start_step`.
    sampled_share : `float`, optional (default = `0.0`)
        The share of the average that comes from samples. The rest comes from the initial value.
    sum_of_squares : `float`, optional (default = `1.0`)
        The sum of the squared shares of all values in the average.
    last_weight : `float`, optional (default = `0.0`)
        The weight of the latest sample.
    """

    num_updates: int = 0
    num_averaged: int = 0
    sampled_share: float = 0.0
    sum_of_squares: float = 1.0
    last_weight: float = 0.0

    def skip(self, num_updates: int) -> "AveragingCounts":
        """The counts after an update that was not sampled."""
        return self._replace(num_updates=num_updates)

    def sample(
        self, num_updates: int, weight: float, zero_debias: bool = False
    ) -> "AveragingCounts":
        """
        The counts after an update whose sample has the given weight. With `zero_debias` the weight
        is first divided by the share that comes from samples: for decays it becomes
        `(1 - decay) / (1 - product of all decays)`.
        """
        # A sum, because 1 minus the product of decays loses digits for decays close to 1.
        sampled_share = self.sampled_share + weight * (1.0 - self.sampled_share)
        if zero_debias and weight:
            weight /= sampled_share
        return AveragingCounts(
            num_updates,
            self.num_averaged + 1,
            sampled_share,
            (1.0 - weight) ** 2 * self.sum_of_squares + weight**2,
            weight,
        )

    def as_dict(self) -> Dict[str, Number]:
        return dict(self._asdict())


class Update(NamedTuple):
    """
    The effect of one update on an average.

    # Parameters

    counts : `AveragingCounts`
        The counts after the update.
    weight : `float`
        The weight of the parameters, within [0, 1].
    is_sample : `bool`
        Whether the update takes a sample. An update without a sample may still copy the
        parameters (weight 1), before `start_step` and until the first sample.
    """

    counts: AveragingCounts
    weight: float
    is_sample: bool


class Weighting:
    """
    Decides which updates an average samples, and with which weights. Training asks for one update
    after the other; tools that run after training ask for a whole run.

    ```python
    >>> mean = Weighting(lambda num_averaged, num_updates: 1.0 / (num_averaged + 1), update_every=2)
    >>> mean.update_weights(6).round(2).tolist()
    [1.0, 1.0, 0.0, 0.5, 0.0, 0.33]

    ```

    # Parameters

    rule : `Callable[..., float]`
        Gives the weight of a sample, see `MovingAverage.averaging_weight`.
    start_step : `Union[int, Duration]`, optional (default = `0`)
        While `num_updates < start_step` the average equals the parameters.
    update_every : `Union[int, Duration]`, optional (default = `1`)
        A sample is taken at the updates where `(num_updates - start_step) % update_every == 0`.
    zero_debias : `bool`, optional (default = `False`)
        Divide each weight by the share of the average that comes from samples.
    """

    def __init__(
        self,
        rule: Callable[..., float],
        start_step: Any = 0,
        update_every: Any = 1,
        zero_debias: bool = False,
    ) -> None:
        self.start_step = start_step
        self.update_every = update_every
        self.zero_debias = zero_debias
        #: Whether a duration is unresolved until the end of its epochs.
        self.is_waiting = False
        self._rule = rule
        self._takes_interval = "interval" in inspect.signature(rule).parameters
        # A cache for `_forgets_initial_value`, because the rule may loop over the whole interval.
        self._forgets: Dict[bool, bool] = {}

    def next(self, counts: AveragingCounts, num_updates: Optional[int] = None) -> Update:
        """
        # Parameters

        counts : `AveragingCounts`
            The counts before the update.
        num_updates : `int`, optional (default = `None`)
            The number of the update. `None` means the number after that of the last update.

        # Raises

        `ConfigurationError` : if the rule gives a weight that is not within [0, 1].
        """
        number = counts.num_updates + 1 if num_updates is None else int(num_updates)
        is_numbered = num_updates is not None
        if self.is_waiting:
            return self._next_while_waiting(counts, number, is_numbered)
        since_start = number - self.start_step
        if since_start < 0:
            return Update(AveragingCounts(number), 1.0, False)
        if since_start % self.update_every:
            copies = not counts.num_averaged and self._forgets_initial_value(is_numbered)
            return Update(counts.skip(number), 1.0 if copies else 0.0, False)
        return self._sample(counts, number, is_numbered)

    def _next_while_waiting(
        self, counts: AveragingCounts, number: int, is_numbered: bool
    ) -> Update:
        if isinstance(self.start_step, Duration) or number < self.start_step:
            return Update(AveragingCounts(number), 1.0, False)
        if number == self.start_step:
            # Whatever the interval is, `start_step` is sampled.
            return self._sample(counts, number, is_numbered)
        # The interval is unknown until the first epoch ends, so the weight for interval 1 decides.
        copies = not counts.num_averaged and self._is_forgetting(
            self._rule_weight(0, 1, is_numbered, 1)
        )
        return Update(counts.skip(number), 1.0 if copies else 0.0, False)

    def _sample(self, counts: AveragingCounts, number: int, is_numbered: bool) -> Update:
        weight = self._weight(counts.num_averaged, number - self.start_step, is_numbered)
        sampled = counts.sample(number, weight, self.zero_debias)
        return Update(sampled, sampled.last_weight, True)

    def updates_since_start(self, num_averaged: int) -> int:
        """
        The number of the sampled update that follows after `num_averaged` samples, counted from
        `start_step`.
        """
        # Updates count from 1, so update 0 since the start exists only for a `start_step` above 0.
        first = 0 if self.start_step else self.update_every
        return first + num_averaged * self.update_every

    def effective_window(self, counts: AveragingCounts) -> Optional[float]:
        """
        # Returns

        window : `Optional[float]`
            The length, in updates, of the uniform average that reduces noise as much:
            `update_every / sum of squared shares`. `None` before the first sample, and while a
            duration is unresolved.
        """
        if self.is_waiting or not counts.num_averaged:
            return None
        return self.update_every / counts.sum_of_squares

    def sampled_updates(self, num_updates: int) -> ndarray:
        """
        # Returns

        numbers : `ndarray`
            The numbers of the sampled updates, up to `num_updates`, `(num_averaged,)`.
        """
        first = self.start_step + self.updates_since_start(0)
        return numpy.arange(first, num_updates + 1, self.update_every)

    def update_weights(self, num_updates: int) -> ndarray:
        """
        # Parameters

        num_updates : `int`
            The number of updates of the run. They count from 1, as in the trainer.

        # Returns

        weights : `ndarray`
            The weight of each update in `average += weight * (parameters - average)`,
            `(num_updates,)`.

        # Raises

        `ConfigurationError` : if a weight is not within [0, 1].
        """
        weights = numpy.zeros(num_updates)
        sampled = self.sampled_updates(num_updates)
        copied = self.start_step - 1
        if self._forgets_initial_value(True):
            copied = self.start_step + self.updates_since_start(0) - 1
        weights[: max(copied, 0)] = 1.0
        weights[sampled - 1] = numpy.fromiter(self._sample_weights(sampled), float, len(sampled))
        return weights

    def recursion_weights(self, num_updates: int) -> ndarray:
        """
        The weights of the recursion `state += weight * (parameters - state)` whose states `terms`
        combines, `(num_updates,)`.
        """
        return self.update_weights(num_updates)

    def terms(self, num_updates: int) -> List[Tuple[float, int]]:
        """
        The average after `num_updates` as a combination of states of the recursion. Each term is a
        coefficient and the number of updates of the state.
        """
        return [(1.0, num_updates)]

    def _sample_weights(self, sampled: ndarray) -> Iterator[float]:
        counts = AveragingCounts()
        since_starts = progress((sampled - self.start_step).tolist(), desc="weights", leave=False)
        for num_averaged, since_start in enumerate(since_starts):
            weight = self._weight(num_averaged, since_start, True)
            if self.zero_debias:
                counts = counts.sample(since_start, weight, zero_debias=True)
                weight = counts.last_weight
            yield weight

    def _forgets_initial_value(self, is_numbered: bool) -> bool:
        """Whether the first sample replaces the initial value."""
        if is_numbered not in self._forgets:
            first = self._weight(0, self.updates_since_start(0), is_numbered)
            self._forgets[is_numbered] = self._is_forgetting(first)
        return self._forgets[is_numbered]

    def _is_forgetting(self, first_weight: float) -> bool:
        return first_weight == 1.0 or (self.zero_debias and first_weight > 0.0)

    def _weight(self, num_averaged: int, since_start: int, is_numbered: bool) -> float:
        # At `start_step` itself the average equals the parameters of the previous update.
        interval = self.update_every if since_start else 1
        return self._rule_weight(num_averaged, since_start, is_numbered, interval)

    def _rule_weight(
        self, num_averaged: int, since_start: int, is_numbered: bool, interval: int
    ) -> float:
        arguments = {"interval": interval} if self._takes_interval else {}
        weight = self._rule(num_averaged, since_start if is_numbered else None, **arguments)
        # Negated, so that NaN is refused. `float` comes first, because its check is faster.
        if not (isinstance(weight, (float, Real)) and 0.0 <= weight <= 1.0):
            raise ConfigurationError(
                f"{self._rule.__qualname__} gives {weight!r} for num_averaged = {num_averaged}, "
                f"num_updates = {since_start}, but a weight has to be within [0, 1]"
            )
        return float(weight)
