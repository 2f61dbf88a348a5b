"""
The power function average.
"""

from typing import Any, Iterable, Optional

from allennlp_ema.averages.moving_average import MovingAverage
from allennlp_ema.averages.parameters import NamedParameter
from allennlp_ema.weighting.decay_schedules import PowerFunctionDecay


@MovingAverage.register("power_function")
class PowerFunctionMovingAverage(MovingAverage):
    """
    The power function average: the share of update `t` of `T` is proportional to `(t / T)^gamma`,
    so the effective window grows with the training (Karras et al. 2023, eq. 127). At update `n`,
    the weight of a sample `k` updates after the previous one is `1 - (1 - k/n)^(gamma + 1)`.

    ```python
    >>> average = PowerFunctionMovingAverage([("p", torch.zeros(1))], gamma=1.0)
    >>> average.averaging_weight(num_averaged=3, num_updates=4)
    0.4375

    ```

    Registered as a `MovingAverage` with name "power_function".

    # Parameters

    parameters : `Iterable[Tuple[str, Tensor]]`
        The named parameters to average. The trainer gives them.
    sigma_rel : `float`, optional (default = `None`)
        The profile's standard deviation relative to the length of training, above 0 and below
        `12^-0.5 = 0.28868` (eq. 126). Exactly one of `sigma_rel` and `gamma` is given.
    gamma : `float`, optional (default = `None`)
        The profile's exponent, 0 or more.
    **kwargs
        The keys that every average takes, see `MovingAverage`.
    """

    def __init__(
        self,
        parameters: Iterable[NamedParameter],
        sigma_rel: Optional[float] = None,
        gamma: Optional[float] = None,
        **kwargs: Any,
    ) -> None:
        self._schedule = PowerFunctionDecay(sigma_rel, gamma)
        self.sigma_rel = sigma_rel
        self.gamma = gamma
        super().__init__(parameters, **kwargs)

    def averaging_weight(
        self, num_averaged: int, num_updates: Optional[int], interval: int = 1
    ) -> float:
        updates = self.updates_since_start(num_averaged, num_updates)
        return 1.0 - self._schedule.over(updates, interval)
