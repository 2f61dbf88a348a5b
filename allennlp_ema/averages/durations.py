"""
Durations in the configuration of an average, and how they are resolved to numbers of updates.
"""

import logging
from typing import Any, Dict, Iterable, List, Optional, Tuple

from allennlp.common.checks import ConfigurationError

from allennlp_ema.averages.contract import TrainerContract
from allennlp_ema.weighting.duration import Duration, TrainingLength
from allennlp_ema.weighting.weighting import Weighting

logger = logging.getLogger(__name__)

# The smallest number of updates by attribute. Durations of other attributes have at least 1.
_MINIMUM = {"start_step": 0}

# Durations that are not rounded to whole updates.
_FRACTIONAL = ("half_life",)

# Durations that can wait for the end of their epochs if the data loader has no length.
_MAY_WAIT = ("start_step", "update_every")


class Durations:
    """
    # Parameters

    owners : `Iterable[Tuple[str, Any]]`
        The objects with durations among their attributes, each with the prefix of its keys in the
        configuration: `("decay.", schedule)`.
    """

    def __init__(self, owners: Iterable[Tuple[str, Any]]) -> None:
        self._places: Dict[str, Tuple[Any, str]] = {
            prefix + attribute: (owner, attribute)
            for prefix, owner in owners
            for attribute, value in vars(owner).items()
            if isinstance(value, Duration)
        }
        #: The numbers of updates of the resolved durations, by key.
        self.resolved: Dict[str, float] = {}

    @property
    def unresolved(self) -> Dict[str, Duration]:
        present = {key: getattr(*place) for key, place in self._places.items()}
        # Two averages may share a schedule, which the first resolves.
        return {key: value for key, value in present.items() if isinstance(value, Duration)}

    def resolve(self, length: TrainingLength) -> None:
        """
        Replaces durations by numbers of updates. If the number of updates per epoch is not known,
        `start_step` and `update_every` in whole epochs stay unresolved until `epoch_ended`.

        # Raises

        `ConfigurationError` : naming a duration for which the length is not known.
        """
        for key, duration in self.unresolved.items():
            waits = length.num_updates_per_epoch is None and duration.is_of_whole_epochs
            if not (waits and key in _MAY_WAIT):
                self.put(key, duration.resolve(key, length))

    def put(self, key: str, value: float) -> None:
        """Replaces the duration under `key` by a number of updates."""
        owner, attribute = self._places[key]
        if attribute not in _FRACTIONAL:
            value = max(_MINIMUM.get(attribute, 1), round(value))
        setattr(owner, attribute, value)
        self.resolved[key] = value

    def load(self, saved: Dict[str, float]) -> None:
        """Takes the numbers of a saved state, so that `--recover` does not change a duration."""
        for key in self._places:
            if key not in saved:
                continue
            if self.resolved.get(key, saved[key]) != saved[key]:
                logger.warning(
                    '"%s" stays at %s updates, to which it was resolved when the training began; '
                    "by the length that the training has now it would be %s",
                    key,
                    saved[key],
                    self.resolved[key],
                )
            self.put(key, saved[key])

    def ended_with(self, num_epochs: int) -> Dict[str, float]:
        """The unresolved durations of at most `num_epochs` epochs, by key in epochs."""
        # A shorter one is unresolved if its epochs had ended before averaging began.
        return {
            key: each.epochs
            for key, each in self.unresolved.items()
            if each.epochs is not None and each.epochs <= num_epochs
        }

    def check_resolved(self) -> None:
        """
        # Raises

        `ConfigurationError` : naming a duration that is not resolved.
        """
        for key, duration in self.unresolved.items():
            raise ConfigurationError(
                f'"{key}" is {duration}, and nobody has said how long the training is: call '
                "resolve(num_updates_per_epoch=..., num_epochs=...) of the average first, or give "
                "a number of updates"
            )


class WithDurations(TrainerContract):
    """The part of an average that resolves its durations."""

    #: The durations in its configuration.
    durations: Durations
    #: Decides which updates the average samples, and with which weights.
    weighting: Weighting
    start_step: Any
    update_every: Any

    def _owners_of_durations(self) -> List[Tuple[str, Any]]:
        """The argument of `Durations`."""
        return [("", self)]

    def resolve(
        self, num_updates_per_epoch: Optional[float], num_epochs: Optional[float] = None
    ) -> None:
        """
        Replaces durations by numbers of updates. It is called when the trainer is built.

        # Parameters

        num_updates_per_epoch : `Optional[float]`
            `None` if it is not known. Then `start_step` and `update_every` in whole epochs stay
            unresolved until `epoch_ended`.
        num_epochs : `float`, optional (default = `None`)
            The number of epochs of the training.

        # Raises

        `ConfigurationError` : naming a duration for which the length is not known.
        """
        had_durations = bool(self.durations.unresolved)
        self.durations.resolve(TrainingLength(num_updates_per_epoch, num_epochs))
        if had_durations:
            self._update_weighting()

    @property
    def has_unresolved_durations(self) -> bool:
        """Whether a duration is still unresolved."""
        return bool(self.durations.unresolved)

    def epoch_ended(self, num_epochs: int) -> None:
        """
        Resolves the durations of up to `num_epochs` epochs, and takes the sample that is due then.
        """
        number = self.counts.num_updates
        ended = self.durations.ended_with(num_epochs)
        is_sampled = number == self.start_step
        for key, epochs in ended.items():
            self.durations.put(key, number * epochs / num_epochs)
        if ended:
            self._update_weighting()
        if ended and not is_sampled:
            self.running.commit(self.counts.skip(number - 1))
            self.update_members(number)

    def check_resolved(self) -> None:
        if not self.weighting.is_waiting:
            self.durations.check_resolved()

    def _update_weighting(self) -> None:
        self.weighting.start_step = self.start_step
        self.weighting.update_every = self.update_every
        self.weighting.is_waiting = self.has_unresolved_durations
        # An average without parameters (`WEIGHTING_ALONE`) is not logged.
        if hasattr(self, "running") and not self.weighting.is_waiting:
            self._log_construction()

    def _log_construction(self) -> None:
        raise NotImplementedError
