"""
A user's average. `allennlp train --include-package tests.support.custom_average` needs no more.
"""

import math
from typing import Optional

from allennlp_ema import MovingAverage


@MovingAverage.register("inverse_square_root")
class InverseSquareRootMovingAverage(MovingAverage):
    def averaging_weight(self, num_averaged: int, num_updates: Optional[int]) -> float:
        return 1.0 / math.sqrt(num_averaged + 1)
