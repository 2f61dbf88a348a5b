"""
The numbers that whoever takes the steps gives to an average's updates.
"""

from typing import Callable

from allennlp_ema.averages.moving_average import MovingAverage


class UpdateNumbers:
    """
    Numbers the updates of an average by what it has counted itself. The `apply` of a user's own
    average may leave updates out. They have their numbers too.

    # Parameters

    moving_average : `MovingAverage`
    """

    def __init__(self, moving_average: MovingAverage) -> None:
        self._average = moving_average
        # The number of the latest update, if the average did not count it.
        self._left_out = 0

    def apply(self, apply: Callable[[int], None], before: int = 0) -> None:
        """
        Calls `apply` with the number of the next update.

        # Parameters

        apply : `Callable[[int], None]`
        before : `int`, optional (default = `0`)
            The number of updates before the first one of the average.
        """
        counted = self._average.num_updates
        number = (max(counted, self._left_out) or before) + 1
        apply(number)
        self._left_out = number if self._average.num_updates == counted else 0
