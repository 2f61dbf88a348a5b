"""
A user's schedule. `allennlp train --include-package tests.support.custom_schedule` needs no more.
"""

import math

from allennlp_ema import DecaySchedule


@DecaySchedule.register("square_root")
class SquareRootDecay(DecaySchedule):
    def __call__(self, num_updates: int) -> float:
        return 1.0 - 1.0 / math.sqrt(max(num_updates, 1))
