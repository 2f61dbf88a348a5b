"""
The exponential moving average.
"""

import logging
from typing import Any, Callable, Dict, Iterable, List, Optional, Tuple, Union

from allennlp.training.moving_average import MovingAverage as AllenNLPMovingAverage

from allennlp_ema.averages.moving_average import MovingAverage
from allennlp_ema.averages.parameters import NamedParameter
from allennlp_ema.common.checks import check_choice, check_number
from allennlp_ema.weighting.decay_schedules import ConstantDecay, DecaySchedule, WarmupDecay
from allennlp_ema.weighting.duration import Duration

logger = logging.getLogger(__name__)


# It replaces AllenNLP's own average and takes the same arguments.
@AllenNLPMovingAverage.register("exponential", exist_ok=True)
class ExponentialMovingAverage(MovingAverage):
    """
    The exponential moving average, `average = decay * average + (1 - decay) * parameter`.

    If `decay` is a number, the decay at update `n` is
    `min(decay, (numerator + n) / (denominator + n))`. Without a number of updates in `apply` it is
    `decay` itself. The trainer gives the number. This is the rule of
    `tf.train.ExponentialMovingAverage`. A number may be changed between two updates:
    `average.decay = 0.99`. It may also be a tensor of one value, which is read once.

    ```python
    >>> parameter = torch.zeros(1)
    >>> average = ExponentialMovingAverage([("p", parameter)], decay=0.75)
    >>> for value in (4.0, 8.0):
    ...     _ = parameter.fill_(value)
    ...     average.apply()
    >>> average.average("p")
    tensor([2.7500])

    ```

    Registered as a `MovingAverage` with name "exponential", the default.

    # Parameters

    parameters : `Iterable[Tuple[str, Tensor]]`
        The named parameters to average. The trainer gives them.
    decay : `Union[float, DecaySchedule]`, optional (default = `0.9999`)
        A number within [0, 1] or a schedule.
    numerator : `float`, optional (default = `1.0`)
        For the warm-up of a number, 0 or more.
    denominator : `float`, optional (default = `10.0`)
        For the warm-up of a number, above 0.
    zero_debias : `bool`, optional (default = `False`)
        Whether the average forgets its initial value: the weight `1 - decay` is divided by
        `1 - (the product of all decays so far)` (Kingma and Ba 2015, section 3).
    **kwargs
        The keys that every average takes, see `MovingAverage`.
    """

    continues_allennlp_state = True

    def __init__(
        self,
        parameters: Iterable[NamedParameter],
        decay: Union[float, DecaySchedule] = 0.9999,
        numerator: float = 1.0,
        denominator: float = 10.0,
        zero_debias: bool = False,
        **kwargs: Any,
    ) -> None:
        self.numerator = check_number("numerator", numerator, minimum=0)
        self.denominator = check_number("denominator", denominator, above=0)
        self.zero_debias = check_choice("zero_debias", zero_debias, [True, False])
        self.decay = decay
        super().__init__(parameters, **kwargs)

    @property
    def decay(self) -> Union[float, DecaySchedule]:
        return self._decay

    @decay.setter
    def decay(self, decay: Union[float, DecaySchedule]) -> None:
        if hasattr(decay, "tolist"):
            # A tensor is read here, so that no update has to wait for its device.
            values = decay.tolist()
            decay = values[0] if isinstance(values, list) and len(values) == 1 else values
        if not isinstance(decay, DecaySchedule):
            decay = check_number("decay", decay, minimum=0, maximum=1)
            self._constant = ConstantDecay(decay)
            self._warmup = WarmupDecay(decay, self.numerator, self.denominator)
        elif not any(isinstance(value, Duration) for value in vars(decay).values()):
            # An invalid schedule should raise its error before the training begins.
            decay.over(1, 1)
        self._decay = decay

    def averaging_weight(
        self, num_averaged: int, num_updates: Optional[int], interval: int = 1
    ) -> float:
        is_without_warmup = num_updates is None and not self._has_schedule
        schedule = self._constant if is_without_warmup else self.schedule
        return 1.0 - schedule.over(self.updates_since_start(num_averaged, num_updates), interval)

    def _owners_of_durations(self) -> List[Tuple[str, Any]]:
        owners = super()._owners_of_durations()
        return [*owners, ("decay.", self._decay)] if self._has_schedule else owners

    @property
    def schedule(self) -> DecaySchedule:
        """The schedule of numbered updates: `decay` itself, or the warm-up of a number."""
        return self._decay if isinstance(self._decay, DecaySchedule) else self._warmup

    @property
    def _has_schedule(self) -> bool:
        return isinstance(self._decay, DecaySchedule)

    def prepare_load(self, state_dict: Dict[str, Any]) -> Callable[[], None]:
        load = super().prepare_load(state_dict)

        def load_and_compare() -> None:
            configured = self._decay
            load()
            if self._decay != configured:
                logger.warning(
                    "The decay in force is %s, from the state that was loaded, and not %s as "
                    "configured, because a number may be changed during a training. To use the "
                    'configured decay, make it a schedule, which a state does not change: "decay": '
                    '{"type": "warmup", "decay": %s, "numerator": %g, "denominator": %g}',
                    self._decay,
                    configured,
                    configured,
                    self.numerator,
                    self.denominator,
                )

        return load_and_compare

    def _changeable_settings(self) -> Dict[str, Any]:
        return {} if self._has_schedule else {"decay": self._decay}

    def _weighting_in_words(self) -> str:
        words = f"decay {self._decay}"
        if not self._has_schedule:
            binds_from = self._warmup.binds_from()
            warmup = f"({self.numerator:g} + n) / ({self.denominator:g} + n)"
            if binds_from is None:
                words += f", which the warm-up {warmup} holds below at every update n"
            elif binds_from:
                words += (
                    f" in force from update {self.start_step + binds_from:,} on, below it the "
                    f"warm-up {warmup} at update n"
                )
        return words + (", zero-debiased" if self.zero_debias else "")
