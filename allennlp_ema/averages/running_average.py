"""
One average as it runs: its weighting, its counts and its shadow weights, swapped with what goes
with them.
"""

from typing import Any, Callable, Collection, Dict, Iterable, List, Optional, Tuple

from allennlp.common.checks import ConfigurationError
from torch import Tensor

from allennlp_ema.averages.attachment import Attachment
from allennlp_ema.averages.states import check_entries, matched
from allennlp_ema.common.terminal import in_bytes
from allennlp_ema.shadow_weights.shadow_weights import ShadowWeights
from allennlp_ema.weighting.weighting import AveragingCounts, Update, Weighting

# Shadow weights and the weight with which an update moves them.
Move = Tuple[ShadowWeights, float]


class _Occupancy:
    """Which average the parameters hold. Averages of the same parameters share one."""

    def __init__(self) -> None:
        self.holder: Any = None


class RunningAverage:
    """
    # Parameters

    average : `MovingAverage`
        Whose it is, for its attachments.
    weighting : `Weighting`
    shadow_weights : `ShadowWeights`
        Where the average is.
    """

    #: What its state has in any case.
    entries = ["counts", "averages"]

    def __init__(self, average: Any, weighting: Weighting, shadow_weights: ShadowWeights) -> None:
        self.average = average
        self.weighting = weighting
        self.shadow_weights = shadow_weights
        self.counts = AveragingCounts()
        self.num_assigned = 0
        self._occupancy = _Occupancy()
        self.attachments: List[Attachment] = []
        self._followers: Dict[str, List[ShadowWeights]] = {}
        # Of the parameters that hold their averages, if not all do.
        self.assigned_names: Optional[Collection[str]] = None
        # Those that have been told that the averages are assigned.
        self._swapped: List[Attachment] = []
        # Of attachments that were not there when a state was loaded.
        self._waiting_states: Dict[str, Any] = {}

    def moves(self, update: Update) -> List[Move]:
        """What an update moves."""
        return [(self.shadow_weights, update.weight)] if update.weight else []

    def commit(self, counts: AveragingCounts) -> None:
        """Takes over the counts after an update."""
        self.counts = counts

    def refresh(self) -> None:
        """Brings `shadow_weights` up to date, where this is not done at each update."""

    def all_shadow_weights(self) -> List[ShadowWeights]:
        """All that an update moves and all that is made from it."""
        return [self.shadow_weights]

    def values(self) -> Dict[str, Tensor]:
        """The averages by name, never copies."""
        self.refresh()
        return self.shadow_weights.values()

    def attach(self, attachment: Attachment) -> None:
        if attachment.name in [each.name for each in self.attachments]:
            raise ConfigurationError(
                f'the average has an attachment "{attachment.name}" already, and it can have one'
            )
        tensors = attachment.tensors()
        self._followers[attachment.name] = [
            shadow_weights.add_follower(tensors.items())
            for shadow_weights in (self.all_shadow_weights() if tensors else [])
        ]
        self.attachments.append(attachment)
        state = self._waiting_states.pop(attachment.name, None)
        if state is not None:
            self.load_attachment(attachment.name, state)

    def assign(self, names: Optional[Collection[str]] = None) -> None:
        """
        Of the parameters of these names alone, without attachments, or of all. Whole or undone,
        whatever is raised.
        """
        if self._occupancy.holder not in (None, self):
            raise RuntimeError(
                "the parameters hold the values of another average of the bank at present: call "
                "its restore() before this assign_average_value()"
            )
        if self.num_assigned:
            if names != self.assigned_names:
                raise RuntimeError(
                    "averages are assigned at present to other parameters than these: call "
                    "restore() before this assign_average_value()"
                )
            self.num_assigned += 1
            return
        self.refresh()
        try:
            self._occupancy.holder = self
            self.assigned_names = names
            self.shadow_weights.assign(names)
            for attachment in self.attachments if names is None else []:
                self._swapped.append(attachment)
                attachment.assign(self.average)
            self.num_assigned = 1
        except BaseException:
            self._give_back()
            raise

    def restore(self) -> None:
        if self.num_assigned == 0:
            raise RuntimeError("there is nothing to restore: no averages are assigned")
        if self.num_assigned > 1:
            self.num_assigned -= 1
            return
        try:
            self._give_back()
        except BaseException:
            self._give_back()
            raise

    def _give_back(self) -> None:
        while self._swapped:
            self._swapped[-1].restore(self.average)
            self._swapped.pop()
        if self.shadow_weights.is_assigned:
            self.shadow_weights.restore()
        self._release()

    def keep(self) -> None:
        """Makes what is assigned the parameters' own values."""
        for attachment in self._swapped:
            attachment.keep(self.average)
        self._swapped.clear()
        self.shadow_weights.keep_assigned()
        self._release()

    def _release(self) -> None:
        self.num_assigned = 0
        self._occupancy.holder = None

    def memory_in_words(self) -> str:
        shadows = self.shadow_weights.shadows
        dtypes = sorted({str(shadow.dtype).replace("torch.", "") for shadow in shadows})
        return (
            f"{len(shadows):,} parameters with {self.shadow_weights.num_values:,} values, "
            f"{in_bytes(self.shadow_weights.num_bytes)} of {' and '.join(dtypes)}"
        )

    def state_dict(self) -> Dict[str, Any]:
        """The counts, the averages, and the states of attachments if there are any."""
        state: Dict[str, Any] = {"counts": self.counts.as_dict(), "averages": self.values()}
        attachments = {**self._waiting_states}
        for attachment in self.attachments:
            attachments[attachment.name] = {
                "averages": [each.values() for each in self._followers[attachment.name]],
                "own": attachment.state_dict(self.average),
            }
        return {**state, **({"attachments": attachments} if attachments else {})}

    def prepare_load(self, state: Dict[str, Any]) -> Callable[[], None]:
        """Checks the whole state and returns what then loads it, which cannot fail halfway."""
        averages = matched("averages", state["averages"], self.shadow_weights.values())
        check_entries("counts", state["counts"], AveragingCounts._fields)
        counts = AveragingCounts(**state["counts"])

        def load() -> None:
            self.load(averages, counts)
            self._waiting_states = dict(state.get("attachments", {}))
            for attachment in self.attachments:
                if attachment.name in self._waiting_states:
                    self.load_attachment(attachment.name, self._waiting_states.pop(attachment.name))

        return load

    def load(self, averages: Dict[str, Tensor], counts: AveragingCounts) -> None:
        self.shadow_weights.load(averages)
        self.commit(counts)

    def load_attachment(self, name: str, state: Dict[str, Any]) -> None:
        """Loads the part of a state that is of the attachment of this name."""
        for follower, averages in zip(self._followers[name], state["averages"]):
            follower.load(matched(name, averages, follower.values()))
        (attachment,) = (each for each in self.attachments if each.name == name)
        attachment.load_state_dict(self.average, state["own"])


def own_attachments(running_averages: Iterable[RunningAverage]) -> List[Attachment]:
    """The attachments of several averages, each once."""
    found = {id(each): each for running in running_averages for each in running.attachments}
    return list(found.values())


def share_parameters(running_averages: Iterable[RunningAverage]) -> None:
    """Lets no more than one of several averages be assigned at a time."""
    occupancy = _Occupancy()
    for running in running_averages:
        running._occupancy = occupancy
