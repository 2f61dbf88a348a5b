"""
The polynomial-decay average.
"""

from typing import Any, Iterable, Optional

from allennlp_ema.averages.moving_average import MovingAverage
from allennlp_ema.averages.parameters import NamedParameter
from allennlp_ema.common.checks import check_number


@MovingAverage.register("polynomial")
class PolynomialMovingAverage(MovingAverage):
    """
    Polynomial-decay averaging: the weight of update `n` is `(eta + 1) / (n + eta)` (Shamir and
    Zhang 2013, "Stochastic Gradient Descent for Non-smooth Optimization", section 4). `eta` 0 gives
    the plain mean. A larger `eta` forgets the beginning faster.

    ```python
    >>> average = PolynomialMovingAverage([("p", torch.zeros(1))], eta=1.0)
    >>> average.averaging_weight(num_averaged=3, num_updates=4)
    0.4

    ```

    Registered as a `MovingAverage` with name "polynomial".

    # Parameters

    parameters : `Iterable[Tuple[str, Tensor]]`
        The named parameters to average. The trainer gives them.
    eta : `float`, optional (default = `8.0`)
        0 or more.
    **kwargs
        The keys that every average takes, see `MovingAverage`.
    """

    def __init__(
        self, parameters: Iterable[NamedParameter], eta: float = 8.0, **kwargs: Any
    ) -> None:
        self.eta = check_number("eta", eta, minimum=0)
        super().__init__(parameters, **kwargs)

    def averaging_weight(
        self, num_averaged: int, num_updates: Optional[int], interval: int = 1
    ) -> float:
        updates = self.updates_since_start(num_averaged, num_updates)
        # The first sample replaces the initial value.
        if updates <= interval:
            return 1.0
        remaining = 1.0
        for update in range(updates - interval + 1, updates + 1):
            remaining *= (update - 1) / (update + self.eta)
        return 1.0 - remaining
