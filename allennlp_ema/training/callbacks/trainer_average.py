"""
Finds the average of a trainer, for callbacks.
"""

from allennlp.common.checks import ConfigurationError
from allennlp.training import GradientDescentTrainer

from allennlp_ema.averages.moving_average import MovingAverage


def average_of(trainer: GradientDescentTrainer, callback: str) -> MovingAverage:
    """
    Returns the average of `trainer`. `callback` is the name of the callback that needs it, for
    messages.

    # Raises

    `ConfigurationError` : if the trainer has no average, or one that is no
    `allennlp_ema.MovingAverage`.
    """
    average = trainer._moving_average
    if average is None:
        raise ConfigurationError(
            f'the callback "{callback}" needs an average, but the trainer has no "moving_average" '
            'and its optimizer is not of type "moving_average"'
        )
    if not isinstance(average, MovingAverage):
        cls = type(average)
        raise ConfigurationError(
            f'the callback "{callback}" needs an allennlp_ema.MovingAverage, but "moving_average" '
            f"is a {cls.__module__}.{cls.__qualname__}"
        )
    return average
