"""
The running part of an average: its weighting, counts, shadow weights and attachments.
"""

from typing import Any, Callable, Collection, Dict, Iterable, List, Optional, Tuple

from allennlp.common.checks import ConfigurationError
from torch import Tensor

from allennlp_ema.averages.attachment import Attachment
from allennlp_ema.averages.states import check_entries, matched
from allennlp_ema.common.terminal import in_bytes
from allennlp_ema.shadow_weights.shadow_weights import ShadowWeights
from allennlp_ema.shadow_weights.sharded import is_sharded
from allennlp_ema.weighting.weighting import AveragingCounts, Update, Weighting

# Shadow weights, and the weight with which an update moves them.
Move = Tuple[ShadowWeights, float]


class _AssignmentLock:
    """Records the assigned average. Averages of the same parameters share one lock."""

    def __init__(self) -> None:
        self.holder: Optional[RunningAverage] = None


class RunningAverage:
    """
    # Parameters

    average : `MovingAverage`
        The average of which this is a part. The attachments get it as an argument.
    weighting : `Weighting`
    shadow_weights : `ShadowWeights`
        They hold the average's values.
    """

    #: The entries that its state always has.
    entries = ["counts", "averages"]

    def __init__(self, average: Any, weighting: Weighting, shadow_weights: ShadowWeights) -> None:
        self.average = average
        self.weighting = weighting
        self.shadow_weights = shadow_weights
        self.counts = AveragingCounts()
        self.num_assigned = 0
        self._lock = _AssignmentLock()
        self.attachments: List[Attachment] = []
        self._followers: Dict[str, List[ShadowWeights]] = {}
        # The names of the parameters that averages are assigned to. `None` if it is all of them.
        self.assigned_names: Optional[Collection[str]] = None
        # The attachments whose `assign` was called and whose `restore` is still due.
        self._assigned_attachments: List[Attachment] = []
        # Loaded states of attachments that are not attached yet.
        self._pending_states: Dict[str, Any] = {}

    @property
    def assigned(self) -> Optional["RunningAverage"]:
        """The average that is assigned: this one, or another one of the same parameters."""
        return self._lock.holder

    def moves(self, update: Update) -> List[Move]:
        """The shadow weights that an update moves, each with its weight."""
        return [(self.shadow_weights, update.weight)] if update.weight else []

    def commit(self, counts: AveragingCounts) -> None:
        """Takes over the counts after an update."""
        self.counts = counts

    def refresh(self) -> None:
        """Brings `shadow_weights` up to date, for subclasses that do not update them each time."""

    def all_shadow_weights(self) -> List[ShadowWeights]:
        """All shadow weights of the average, those of kept samples included."""
        return [self.shadow_weights]

    def values(self) -> Dict[str, Tensor]:
        """The averages by name, without copies."""
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
        state = self._pending_states.pop(attachment.name, None)
        if state is not None:
            self.prepare_attachment(attachment, state)()

    def assign(self, names: Optional[Collection[str]] = None) -> None:
        """
        Assigns the averages to the parameters of these names, without attachments, or to all
        parameters and attachments. An exception undoes the whole assignment.
        """
        if self._lock.holder not in (None, self):
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
        for attachment in self.attachments:
            attachment.follow()
        try:
            self._lock.holder = self
            self.assigned_names = names
            self.shadow_weights.assign(names)
            for attachment in self.attachments if names is None else []:
                self._assigned_attachments.append(attachment)
                attachment.assign(self.average)
            self.num_assigned = 1
        except BaseException:
            self._restore()
            raise

    def restore(self) -> None:
        """Undoes one `assign`, which has to have been called before."""
        if self.num_assigned > 1:
            self.num_assigned -= 1
            return
        try:
            self._restore()
        except BaseException:
            self._restore()
            raise

    def _restore(self) -> None:
        while self._assigned_attachments:
            self._assigned_attachments[-1].restore(self.average)
            self._assigned_attachments.pop()
        if self.shadow_weights.is_assigned:
            self.shadow_weights.restore()
        self._release()

    def keep(self) -> None:
        """Makes the assigned values the parameters' raw values."""
        for attachment in self._assigned_attachments:
            attachment.keep(self.average)
        self._assigned_attachments.clear()
        self.shadow_weights.keep_assigned()
        self._release()

    def _release(self) -> None:
        self.num_assigned = 0
        self._lock.holder = None

    def memory_in_words(self) -> str:
        shadows = self.shadow_weights.shadows
        in_part = " in this process" if any(map(is_sharded, self.shadow_weights.parameters)) else ""
        dtypes = sorted({str(shadow.dtype).replace("torch.", "") for shadow in shadows})
        return (
            f"{len(shadows):,} parameters with {self.shadow_weights.num_values:,} values{in_part}, "
            f"{in_bytes(self.shadow_weights.num_bytes)} of {' and '.join(dtypes)}"
        )

    def state_dict(self) -> Dict[str, Any]:
        """The counts, the averages, and the states of the attachments, if there are attachments."""
        state: Dict[str, Any] = {"counts": self.counts.as_dict(), "averages": self.values()}
        attachments = {**self._pending_states}
        for attachment in self.attachments:
            attachments[attachment.name] = {
                "averages": [each.values() for each in self._followers[attachment.name]],
                "own": attachment.state_dict(self.average),
            }
        return {**state, **({"attachments": attachments} if attachments else {})}

    def prepare_load(self, state: Dict[str, Any]) -> Callable[[], None]:
        """Checks the whole state, and returns a function that loads it and cannot fail."""
        averages = matched("averages", state["averages"], self.shadow_weights.values())
        check_entries("counts", state["counts"], AveragingCounts._fields)
        counts = AveragingCounts(**state["counts"])
        pending = dict(state.get("attachments", {}))
        loads = [
            self.prepare_attachment(attachment, pending.pop(attachment.name))
            for attachment in self.attachments
            if attachment.name in pending
        ]

        def load() -> None:
            self.load(averages, counts)
            self._pending_states = pending
            for load_attachment in loads:
                load_attachment()

        return load

    def load(self, averages: Dict[str, Tensor], counts: AveragingCounts) -> None:
        self.shadow_weights.load(averages)
        self.commit(counts)

    def prepare_attachment(
        self, attachment: Attachment, state: Dict[str, Any]
    ) -> Callable[[], None]:
        """As `prepare_load`, for the part of a state that belongs to an attachment."""
        followers = self._followers[attachment.name]
        averages = [
            matched(attachment.name, values, follower.values())
            for follower, values in zip(followers, state["averages"])
        ]

        def load() -> None:
            for follower, values in zip(followers, averages):
                follower.load(values)
            attachment.load_state_dict(self.average, state["own"])

        return load


def distinct_attachments(running_averages: Iterable[RunningAverage]) -> List[Attachment]:
    """The attachments of several averages, without duplicates."""
    found = {id(each): each for running in running_averages for each in running.attachments}
    return list(found.values())


def share_assignment_lock(running_averages: Iterable[RunningAverage]) -> None:
    """Makes averages share a lock, so that only one of them can be assigned at a time."""
    lock = _AssignmentLock()
    for running in running_averages:
        running._lock = lock
