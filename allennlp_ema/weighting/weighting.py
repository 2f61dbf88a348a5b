"""
What an average is in numbers alone: which updates it sampled, with which weights. No tensors here.
"""

from typing import Dict, NamedTuple, Union

Number = Union[int, float]


class AveragingCounts(NamedTuple):
    """
    The numbers that an average carries from one update to the next, all of them Python's own, so
    that no device is ever asked for them.

    # Parameters

    num_updates : `int`, optional (default = `0`)
        The number of the latest update, sampled or not.
    num_averaged : `int`, optional (default = `0`)
        How many samples were averaged since `start_step`.
    sampled_share : `float`, optional (default = `0.0`)
        The share of the average that comes from samples. The rest is still the initial value.
    sum_of_squares : `float`, optional (default = `1.0`)
        The sum of the squares of the weights that all values in the average have in it.
    last_weight : `float`, optional (default = `0.0`)
        The weight that the latest sample got.
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
        The counts after an update whose sample got `weight`, or with `zero_debias` its share of
        what comes from samples: with decays that is `(1 - decay) / (1 - product of all decays)`.
        """
        # Summed up, because 1 minus the product itself loses its digits for decays close to 1.
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
