"""
The durations in the configuration of an average, and the numbers of updates that they come to.
"""

import logging
from typing import Any, Dict, Iterable, List, Optional, Tuple

from allennlp.common.checks import ConfigurationError

from allennlp_ema.averages.contract import TrainerContract
from allennlp_ema.weighting.duration import Duration, TrainingLength
from allennlp_ema.weighting.weighting import Weighting

logger = logging.getLogger(__name__)

# By key, the least that a number may be. Other durations are 1 update long at least.
_LEAST = {"start_step": 0}

# What need not be a whole number of updates.
_FRACTIONAL = ("half_life",)

# What may wait for its epochs to end where nobody knows how many updates an epoch has.
_MAY_WAIT = ("start_step", "update_every")


class Durations:
    """
    # Parameters

    owners : `Iterable[Tuple[str, Any]]`
        What has durations among its attributes, each with what stands before their keys:
        `("decay.", schedule)`.
    """

    def __init__(self, owners: Iterable[Tuple[str, Any]]) -> None:
        self._places: Dict[str, Tuple[Any, str]] = {
            prefix + attribute: (owner, attribute)
            for prefix, owner in owners
            for attribute, value in vars(owner).items()
            if isinstance(value, Duration)
        }
        #: What they came to, by key, in updates.
        self.resolved: Dict[str, float] = {}

    @property
    def unresolved(self) -> Dict[str, Duration]:
        return {
            key: getattr(*place) for key, place in self._places.items() if key not in self.resolved
        }

    def resolve(self, length: TrainingLength) -> None:
        """
        Puts numbers in the place of durations. Where nobody knows how many updates an epoch has,
        `start_step` and `update_every` may be whole epochs, and wait for `epoch_ended`.

        # Raises

        `ConfigurationError` : naming a duration for which the length is not known.
        """
        for key, duration in self.unresolved.items():
            waits = length.num_updates_per_epoch is None and duration.is_of_whole_epochs
            if not (waits and key in _MAY_WAIT):
                self.put(key, duration.resolve(key, length))

    def put(self, key: str, value: float) -> None:
        """Puts a number of updates in the place of the duration under `key`."""
        owner, attribute = self._places[key]
        if attribute not in _FRACTIONAL:
            value = max(_LEAST.get(attribute, 1), round(value))
        setattr(owner, attribute, value)
        self.resolved[key] = value

    def load(self, saved: Dict[str, float]) -> None:
        """Keeps what was resolved before a `--recover`, whatever the configuration says now."""
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

    def ended_with(self, num_epochs: int) -> Iterable[str]:
        """The keys of what waited for this many epochs to end."""
        return [key for key, each in self.unresolved.items() if each.epochs == num_epochs]

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
    """The part of an average that waits for durations to become numbers."""

    #: Those in its configuration.
    durations: Durations
    #: Which updates it samples, and with which weights.
    weighting: Weighting
    start_step: Any
    update_every: Any

    def _owners_of_durations(self) -> List[Tuple[str, Any]]:
        """What has durations among its attributes, with what stands before their keys."""
        return [("", self)]

    def resolve(
        self, num_updates_per_epoch: Optional[float], num_epochs: Optional[float] = None
    ) -> None:
        """
        Puts numbers of updates in the place of durations. The trainer does this when it is built.

        # Parameters

        num_updates_per_epoch : `Optional[float]`
            `None` if nobody knows: `start_step` and `update_every` may then be whole epochs, and
            the average waits for `epoch_ended`.
        num_epochs : `float`, optional (default = `None`)
            Of the training.

        # Raises

        `ConfigurationError` : naming a duration for which the length is not known.
        """
        had_durations = bool(self.durations.unresolved)
        self.durations.resolve(TrainingLength(num_updates_per_epoch, num_epochs))
        if had_durations:
            self._take_over_durations()

    @property
    def has_unresolved_durations(self) -> bool:
        """Whether `resolve` has something to do."""
        return bool(self.durations.unresolved)

    def epoch_ended(self, num_epochs: int) -> None:
        """Resolves what waits for so many epochs to end, and takes the sample that is due then."""
        counts = self.counts
        ended = self.durations.ended_with(num_epochs)
        if "start_step" in ended:
            # The parameters of this update are in the average already, and are no sample.
            self.durations.put("start_step", counts.num_updates + 1)
        if "update_every" in ended:
            self.durations.put("update_every", counts.num_updates)
        if ended:
            self._take_over_durations()
        if "update_every" in ended and not self.weighting.is_waiting:
            self.running.commit(counts.skip(counts.num_updates - 1))
            self.update_members(counts.num_updates)

    def check_resolved(self) -> None:
        if not self.weighting.is_waiting:
            self.durations.check_resolved()

    def _take_over_durations(self) -> None:
        self.weighting.start_step = self.start_step
        self.weighting.update_every = self.update_every
        self.weighting.is_waiting = self.has_unresolved_durations
        # A weighting alone averages nothing that the log could tell of.
        if hasattr(self, "running") and not self.weighting.is_waiting:
            self._log_construction()

    def _log_construction(self) -> None:
        raise NotImplementedError
