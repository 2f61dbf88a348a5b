"""
The contract with the trainer: what it and people call, over the averages that are members of one.
"""

import contextlib
from typing import Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

from allennlp.common.checks import ConfigurationError
from allennlp.training.moving_average import MovingAverage as AllenNLPMovingAverage
from torch import Tensor

from allennlp_ema.averages.attachment import Attachment
from allennlp_ema.averages.parameters import without_prefixes
from allennlp_ema.averages.running_average import RunningAverage, own_attachments
from allennlp_ema.common.checks import check_choice
from allennlp_ema.shadow_weights.shadow_weights import ShadowWeights, update
from allennlp_ema.weighting.weighting import AveragingCounts

#: The name under which the raw weights can be selected.
RAW = "raw"


class TrainerContract(AllenNLPMovingAverage):
    """
    What can be asked of an average, whether it is one or a bank of several. An average is a member
    of its own; a bank has others.
    """

    #: The weighting, the counts and the shadow weights. A bank has none of its own.
    running: RunningAverage

    #: What is assigned when the raw weights are selected: an average of no parameters.
    raw: RunningAverage

    _selected: Optional[str] = None

    def apply(self, num_updates: Optional[int] = None) -> None:
        """
        One update from the parameters' present values.

        # Parameters

        num_updates : `int`, optional (default = `None`)
            The number of this update. The trainer counts from 1. `None` means one more than the
            last one's.

        # Raises

        `RuntimeError` : while averages are assigned, or if a parameter was resized.
        `ConfigurationError` : if a duration in the configuration is not resolved.
        Nothing is changed then.
        """
        if self.is_assigned:
            raise RuntimeError(
                "the parameters hold their averages at present, so there is nothing to average: "
                "call restore() before apply()"
            )
        for member in self.members():
            member.check_resolved()
        self.update_members(num_updates)

    def update_members(self, num_updates: Optional[int]) -> None:
        """The update of `apply`, which checks before whether there can be one."""
        # Each call counts in small models, where all of them take longer than the kernel.
        running = [member.running for member in self.members()]
        updates = [each.weighting.next(each.counts, num_updates) for each in running]
        for attachment in own_attachments(running):
            if any(coming.is_sample for coming in updates):
                attachment.before_sample()
        moved: List[ShadowWeights] = []
        weights: List[float] = []
        for each, coming in zip(running, updates):
            for shadow_weights, weight in each.moves(coming):
                moved.append(shadow_weights)
                weights.append(weight)
        if moved:
            update(moved, weights)
        for each, coming in zip(running, updates):
            each.commit(coming.counts)

    def wait(self) -> None:
        """
        Waits for an update that runs beside the training, see `sequential_update`: to be called
        before anything but an optimizer writes to the parameters. What was raised in the update is
        raised here.
        """
        for member in self.members():
            for shadow_weights in member.running.all_shadow_weights():
                shadow_weights.wait()

    @property
    def counts(self) -> AveragingCounts:
        """The numbers that the average carries from one update to the next."""
        return self.active_member().running.counts

    @property
    def num_updates(self) -> int:
        """The number of the latest update."""
        return self.counts.num_updates

    @property
    def num_averaged(self) -> int:
        """How many samples were averaged since `start_step`."""
        return self.counts.num_averaged

    @property
    def decay_in_force(self) -> Optional[float]:
        """
        What the latest sample left of the average before it, `None` before the first sample.
        """
        return 1.0 - self.counts.last_weight if self.num_averaged else None

    def effective_window(self) -> Optional[float]:
        """
        # Returns

        window : `Optional[float]`
            The length in updates of the uniform average with as much averaging in it:
            `update_every / sum of squared weights`. For a constant decay `d` this tends to
            `(1 + d) / (1 - d)`. `None` before the first sample.
        """
        return self.active_member().running.weighting.effective_window(self.counts)

    def assign_average_value(
        self, parameters: Optional[Iterable[Union[Tensor, str]]] = None
    ) -> None:
        """
        Gives the parameters their averages, or those that were selected: see `select`. Calls nest:
        the parameters get their own values again with the last `restore`. If anything is raised,
        they have their own values.

        # Parameters

        parameters : `Iterable[Union[Tensor, str]]`, optional (default = `None`)
            Only these, or those of these names. What goes with the averages (buffers, say) stays as
            it is then. `None` means all.

        # Raises

        `RuntimeError` : while another average of the same bank is assigned, or to other parameters,
        or if a parameter was resized.
        `ConfigurationError` : if one of `parameters` is not averaged.
        Nothing is changed then.
        """
        member = self.active_member()
        if self._selected not in (None, RAW):
            member = self.named_members()[self._selected]
        names = None if parameters is None else {member.checked_name(each) for each in parameters}
        if self._selected == RAW:
            member.raw.assign()
        else:
            member.running.assign(names)

    def restore(self) -> None:
        """
        Gives the parameters their own values again, bit for bit.

        # Raises

        `RuntimeError` : if no averages are assigned. Nothing is changed then.
        """
        self._assigned_to("restore").restore()

    def keep_average_value(self) -> None:
        """
        Makes the assigned averages the parameters' own values: what they were before is dropped,
        and nothing is left to restore.

        # Raises

        `RuntimeError` : if no averages are assigned. Nothing is changed then.
        """
        self._assigned_to("keep").keep()

    def _assigned_to(self, purpose: str) -> RunningAverage:
        if self.assigned is None:
            raise RuntimeError(f"there is nothing to {purpose}: no averages are assigned")
        return self.assigned

    @property
    def assigned(self) -> Optional[RunningAverage]:
        """What the parameters hold at present, `None` if it is their own values."""
        for running in self.assignable():
            if running.num_assigned:
                return running
        return None

    @property
    def is_assigned(self) -> bool:
        """Whether the parameters hold their averages at present."""
        return self.assigned is not None

    @property
    def selected(self) -> Optional[str]:
        """What was selected: see `select`. `None` if nothing was."""
        return self._selected

    def select(self, name: Optional[str]) -> None:
        """
        Says what `assign_average_value`, and with it `average_values`, assigns from now on. It is
        in the state. All else that can be asked stays that of the average, or of a bank's `active`.

        # Parameters

        name : `Optional[str]`
            One of `named_members`; or `"raw"`, with which the parameters keep their own values, for
            as long as these are assigned; or `None`, which is the average or a bank's `active`.

        # Raises

        `ConfigurationError` : if there is none of this name. Nothing is changed then.
        `RuntimeError` : while averages are assigned. Nothing is changed then.
        """
        self.check_selected(name)
        if self.is_assigned:
            raise RuntimeError(
                "the parameters hold their averages at present: call restore() before select()"
            )
        self._selected = name

    def check_selected(self, name: Optional[str]) -> None:
        """
        # Raises

        `ConfigurationError` : if `name` cannot be selected.
        """
        if name is not None:
            check_choice("selected", name, [RAW, *self.named_members()])

    @contextlib.contextmanager
    def average_values(self) -> Iterator[None]:
        """
        A context in which the parameters hold their averages. They get their own values again
        whatever is raised in it.
        """
        self.assign_average_value()
        try:
            yield
        finally:
            self.restore()

    def members(self) -> Sequence["TrainerContract"]:
        """
        # Returns

        members : `Sequence[TrainerContract]`
            The averages in it: itself alone, unless it is a bank.
        """
        raise NotImplementedError

    def active_member(self) -> "TrainerContract":
        """
        # Returns

        member : `MovingAverage`
            The one of `members` that is assigned if nothing else is selected.
        """
        raise NotImplementedError

    def named_members(self) -> Mapping[str, "TrainerContract"]:
        """
        # Returns

        members : `Mapping[str, TrainerContract]`
            The averages in it by name: that in the bank, or else that of the type.
        """
        raise NotImplementedError

    def check_resolved(self) -> None:
        """
        # Raises

        `ConfigurationError` : naming a duration in the configuration that nobody has resolved.
        """
        raise NotImplementedError

    def assignable(self) -> List[RunningAverage]:
        """All that its methods, and those of its members, assign."""
        raise NotImplementedError

    def attach(self, attachment: Attachment) -> None:
        """
        Lets something go with the average: see `Attachment`.

        # Raises

        `ConfigurationError` : if it has an attachment of this name.
        """
        for member in self.members():
            member.running.attach(attachment)

    def average(self, parameter_or_name: Union[Tensor, str]) -> Optional[Tensor]:
        """
        # Returns

        average : `Optional[Tensor]`
            The average of a parameter, of its shape, never a copy; `None` if it is not averaged.
        """
        name = self._name_of(parameter_or_name)
        return None if name is None else dict(self.named_averages())[name]

    def _name_of(self, parameter_or_name: Union[Tensor, str]) -> Optional[str]:
        """The name under which it is averaged, `None` if it is not."""
        shadow_weights = self.active_member().running.shadow_weights
        if not isinstance(parameter_or_name, str):
            return shadow_weights.name_of(parameter_or_name)
        names = shadow_weights.names
        if parameter_or_name in names:
            return parameter_or_name
        plain = {without_prefixes(name): name for name in names}
        return plain.get(without_prefixes(parameter_or_name))

    def checked_name(self, parameter_or_name: Union[Tensor, str]) -> str:
        """
        The name under which a parameter is averaged.

        # Raises

        `ConfigurationError` : if it is not.
        """
        name = self._name_of(parameter_or_name)
        if name is None:
            what = parameter_or_name
            what = f'"{what}"' if isinstance(what, str) else f"a tensor {list(what.shape)}"
            raise ConfigurationError(f"{what} is not averaged, so it cannot be assigned")
        return name

    def named_averages(self) -> Iterable[Tuple[str, Tensor]]:
        """
        # Returns

        averages : `Iterable[Tuple[str, Tensor]]`
            Names and averages, never copies, of what is averaged.
        """
        return self.active_member().running.values().items()

    def named_raw_values(self) -> Iterable[Tuple[str, Tensor]]:
        """
        # Returns

        values : `Iterable[Tuple[str, Tensor]]`
            Names and raw values, never copies, of what is averaged, of a bank by any of its
            averages, also while averages are assigned.
        """
        values: Dict[str, Tensor] = {}
        # To the others what is assigned is the parameters' own.
        for member in sorted(self.members(), key=lambda each: each.is_assigned):
            values.update(member.running.shadow_weights.raw_values())
        return values.items()
