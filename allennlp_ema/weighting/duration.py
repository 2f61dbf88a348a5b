"""
Durations: epochs or a fraction of a training, given instead of a number of updates.
"""

from typing import Any, Dict, NamedTuple, Optional

from allennlp.common.checks import ConfigurationError

from allennlp_ema.common.checks import check_integer, check_number
from allennlp_ema.common.from_params import ExplainedFromParams


class TrainingLength(NamedTuple):
    """
    The length of a training, as far as it is known.

    # Parameters

    num_updates_per_epoch : `Optional[float]`
        `None` if the data loader has no length.
    num_epochs : `Optional[float]`
        `None` if it is not known.
    """

    num_updates_per_epoch: Optional[float]
    num_epochs: Optional[float]


class Duration(ExplainedFromParams):
    """
    A number of updates that depends on the length of the training: `{"epochs": 2}` or
    `{"fraction": 0.5}` of the whole training.

    ```python
    >>> Duration(fraction=0.5).resolve("start_step", TrainingLength(100, 8))
    400.0

    ```

    # Parameters

    epochs : `float`, optional (default = `None`)
        Above 0. Exactly one of `epochs` and `fraction` is given.
    fraction : `float`, optional (default = `None`)
        Above 0, at most 1.
    """

    in_words = 'a duration: {"epochs": 2} or {"fraction": 0.5}'

    #: What may stand in its place.
    number_in_words = "a number of updates"

    def __init__(self, epochs: Optional[float] = None, fraction: Optional[float] = None) -> None:
        if (epochs is None) == (fraction is None):
            raise ConfigurationError(
                'exactly one of "epochs" and "fraction" has to be given, but "epochs" is '
                f'{epochs!r} and "fraction" is {fraction!r}'
            )
        self.epochs = None if epochs is None else check_number("epochs", epochs, above=0)
        self.fraction = (
            None if fraction is None else check_number("fraction", fraction, above=0, maximum=1)
        )

    @property
    def is_of_whole_epochs(self) -> bool:
        """Whether the duration ends at the end of an epoch, so that it can be resolved there."""
        return self.epochs is not None and self.epochs == int(self.epochs)

    def resolve(self, key: str, length: TrainingLength) -> float:
        """
        # Parameters

        key : `str`
            The key in the configuration, for error messages.
        length : `TrainingLength`

        # Returns

        num_updates : `float`

        # Raises

        `ConfigurationError` : if the necessary length is not known.
        """
        if length.num_updates_per_epoch is None:
            raise ConfigurationError(
                f'"{key}" is {self}, but the data loader has no length, so that nobody knows how '
                "many updates that is: give a number of updates"
            )
        if self.epochs is not None:
            return self.epochs * length.num_updates_per_epoch
        assert self.fraction is not None
        if length.num_epochs is None:
            raise ConfigurationError(
                f'"{key}" is {self}, but nobody knows how many epochs the training has: give '
                "num_epochs, or a number of updates"
            )
        return self.fraction * length.num_epochs * length.num_updates_per_epoch

    def _to_params(self) -> Dict[str, Any]:
        if self.epochs is not None:
            return {"epochs": self.epochs}
        return {"fraction": self.fraction}

    def __eq__(self, other: Any) -> bool:
        return isinstance(other, Duration) and vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((self.epochs, self.fraction))

    def __str__(self) -> str:
        ((key, value),) = self._to_params().items()
        return f'{{"{key}": {value:g}}}'

    __repr__ = __str__


def check_updates(key: str, value: Any, minimum: int) -> Any:
    """
    Returns `value` if it is an integer of at least `minimum`, or a `Duration`.

    # Raises

    `ConfigurationError` : if `value` is neither.
    """
    if isinstance(value, Duration):
        return value
    try:
        return check_integer(key, value, minimum)
    except ConfigurationError as error:
        raise ConfigurationError(f"{error.message}, or {Duration.in_words}") from None
