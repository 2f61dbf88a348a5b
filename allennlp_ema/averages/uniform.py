"""
The plain mean of all samples.
"""

from typing import Optional

from allennlp_ema.averages.moving_average import MovingAverage


# States use the name that is registered first, which is that of the last decorator.
@MovingAverage.register("swa")
@MovingAverage.register("uniform")
class UniformMovingAverage(MovingAverage):
    """
    The plain mean of all samples: stochastic weight averaging (Izmailov et al. 2018,
    algorithm 1) with `start_step` and `update_every`.

    ```python
    >>> parameter = torch.zeros(1)
    >>> average = UniformMovingAverage([("p", parameter)])
    >>> for value in (1.0, 2.0, 6.0):
    ...     _ = parameter.fill_(value)
    ...     average.apply()
    >>> average.average("p")
    tensor([3.])

    ```

    Registered as a `MovingAverage` with names "uniform" and "swa".
    """

    def averaging_weight(self, num_averaged: int, num_updates: Optional[int]) -> float:
        return 1.0 / (num_averaged + 1)
