"""
The contract with the trainer: the methods that the trainer and users call on an average or bank.
"""

import contextlib
from typing import Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

from allennlp.common.checks import ConfigurationError
from allennlp.training.moving_average import MovingAverage as AllenNLPMovingAverage
from torch import Tensor

from allennlp_ema.averages.attachment import Attachment
from allennlp_ema.averages.parameters import without_prefixes
from allennlp_ema.averages.running_average import RunningAverage, distinct_attachments
from allennlp_ema.common.checks import check_choice
from allennlp_ema.common.nearest_names import did_you_mean
from allennlp_ema.shadow_weights.shadow_weights import update
from allennlp_ema.weighting.weighting import AveragingCounts

#: The name under which the raw weights can be selected.
RAW = "raw"


class TrainerContract(AllenNLPMovingAverage):
    """
    The methods that a single average and a bank have in common. They act on the members: a single
    average is its own only member, and a bank has several.
    """

    #: The weighting, the counts and the shadow weights. A bank has none of its own.
    running: RunningAverage

    #: Assigned when the raw weights are selected: a running average of no parameters.
    raw: RunningAverage

    _selected: Optional[str] = None

    def apply(self, num_updates: Optional[int] = None) -> None:
        """
        One update from the parameters' present values.

        # Parameters

        num_updates : `int`, optional (default = `None`)
            The number of this update. The trainer counts from 1. `None` means the number after
            that of the last update.

        # Raises

        `RuntimeError` : while averages are assigned, or if a parameter was resized.
        `ConfigurationError` : if a duration in the configuration is not resolved.
        Nothing is changed then.
        """
        if any(member.running.assigned is not None for member in self.members()):
            raise RuntimeError(
                "the parameters hold their averages at present, so there is nothing to average: "
                "call restore() before apply()"
            )
        for member in self.members():
            member.check_resolved()
        self.update_members(num_updates)

    def update_members(self, num_updates: Optional[int]) -> None:
        """Makes the update of `apply`, without its checks."""
        running = [member.running for member in self.members()]
        updates = [each.weighting.next(each.counts, num_updates) for each in running]
        moves = [move for each, coming in zip(running, updates) for move in each.moves(coming)]
        for attachment in distinct_attachments(running):
            attachment.follow()
            if any(coming.is_sample for coming in updates):
                attachment.before_sample()
        if moves:
            update(*zip(*moves))
        for each, coming in zip(running, updates):
            each.commit(coming.counts)

    def wait(self) -> None:
        """
        Waits for an update in the background, see `sequential_update`. Call it before anything but
        an optimizer writes to the parameters. An exception from the update is raised here.
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
        """The number of samples averaged since `start_step`."""
        return self.counts.num_averaged

    @property
    def decay_in_force(self) -> Optional[float]:
        """
        1 minus the weight of the latest sample. `None` before the first sample.
        """
        return 1.0 - self.counts.last_weight if self.num_averaged else None

    def effective_window(self) -> Optional[float]:
        """
        # Returns

        window : `Optional[float]`
            The length, in updates, of the uniform average that reduces noise as much:
            `update_every / sum of squared shares`. For a constant decay `d` it tends to
            `(1 + d) / (1 - d)`. `None` before the first sample.
        """
        return self.active_member().running.weighting.effective_window(self.counts)

    def assign_average_value(
        self, parameters: Optional[Iterable[Union[Tensor, str]]] = None
    ) -> None:
        """
        Assigns the averages, or the selected values (see `select`), to the parameters. Calls nest:
        the last `restore` gives the parameters their raw values again. If an exception is raised,
        the parameters have their raw values.

        # Parameters

        parameters : `Iterable[Union[Tensor, str]]`, optional (default = `None`)
            The parameters to assign to, or their names. Attachments (buffers, for example) are then
            left alone. `None` means all parameters and attachments.

        # Raises

        `RuntimeError` : while another average of the same bank is assigned, while averages are
        assigned to other parameters than these, or if a parameter was resized.
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
        Gives the parameters their raw values again, bit for bit.

        # Raises

        `RuntimeError` : if no averages are assigned. Nothing is changed then.
        """
        self._assigned_to("restore").restore()

    def keep_average_value(self) -> None:
        """
        Makes the assigned averages the parameters' raw values. Their former raw values are dropped,
        so nothing is left to restore.

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
        """The running average that is assigned at present. `None` if none is."""
        return next((each for each in self.assignable() if each.num_assigned), None)

    @property
    def is_assigned(self) -> bool:
        """Whether the parameters hold their averages at present."""
        return self.assigned is not None

    @property
    def selected(self) -> Optional[str]:
        """The name that was selected, see `select`. `None` if none was."""
        return self._selected

    def select(self, name: Optional[str]) -> None:
        """
        Selects the values that `assign_average_value` and `average_values` assign from now on. The
        selection is part of the state. All other methods still ask the average itself, or the
        `active` average of a bank.

        # Parameters

        name : `Optional[str]`
            A name in `named_members`; or `"raw"`, so that the parameters keep their raw values when
            they are assigned; or `None` for the average itself, or the `active` one of a bank.

        # Raises

        `ConfigurationError` : if no member has this name. Nothing is changed then.
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
        A context in which the parameters hold their averages. At its end they get their raw values
        again, even after an exception.
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
            The average itself, or the averages of a bank, including those of banks in it.
        """
        raise NotImplementedError

    def active_member(self) -> "TrainerContract":
        """
        # Returns

        member : `MovingAverage`
            The member that is assigned if no other is selected.
        """
        raise NotImplementedError

    def named_members(self) -> Mapping[str, "TrainerContract"]:
        """
        # Returns

        members : `Mapping[str, TrainerContract]`
            The members by name. In a bank it is the name in `averages`, for a single average its
            type.
        """
        raise NotImplementedError

    def check_resolved(self) -> None:
        """
        # Raises

        `ConfigurationError` : naming a duration in the configuration that is not resolved.
        """
        raise NotImplementedError

    def assignable(self) -> List[RunningAverage]:
        """All running averages that can be assigned, the raw weights included."""
        raise NotImplementedError

    def attach(self, attachment: Attachment) -> None:
        """
        Adds an attachment to the average, or to each average of a bank.

        # Raises

        `ConfigurationError` : if the average has an attachment of the same name.
        """
        for member in self.members():
            member.running.attach(attachment)

    def average(self, parameter_or_name: Union[Tensor, str]) -> Optional[Tensor]:
        """
        # Returns

        average : `Optional[Tensor]`
            The average of the parameter, with its shape and without a copy. `None` if the parameter
            is not averaged.
        """
        name = self._name_of(parameter_or_name)
        return None if name is None else dict(self.named_averages())[name]

    def _name_of(self, parameter_or_name: Union[Tensor, str]) -> Optional[str]:
        """The name under which the parameter is averaged. `None` if it is not averaged."""
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
        The name under which the parameter is averaged.

        # Raises

        `ConfigurationError` : if the parameter is not averaged.
        """
        name = self._name_of(parameter_or_name)
        if name is None:
            what = parameter_or_name
            what = f'"{what}"' if isinstance(what, str) else f"a tensor {list(what.shape)}"
            names = self.active_member().running.shadow_weights.names
            raise ConfigurationError(
                f"{what} is not averaged, so it cannot be assigned"
                f"{did_you_mean(parameter_or_name, names)}"
            )
        return name

    def named_averages(self) -> Iterable[Tuple[str, Tensor]]:
        """
        # Returns

        averages : `Iterable[Tuple[str, Tensor]]`
            The names of the averaged parameters, each with its average, without copies.
        """
        return self.active_member().running.values().items()

    def named_raw_values(self) -> Iterable[Tuple[str, Tensor]]:
        """
        # Returns

        values : `Iterable[Tuple[str, Tensor]]`
            The names of the averaged parameters, each with its raw value, without copies. In a bank
            these are the parameters of all members. They are raw also while averages are assigned.
        """
        values: Dict[str, Tensor] = {}
        for member in self.members():
            values.update(member.running.shadow_weights.raw_values())
        # Only the assigned average knows the raw values of its parameters.
        assigned = self.active_member().running.assigned
        raw = {} if assigned is None else assigned.shadow_weights.raw_values()
        return {name: raw.get(name, value) for name, value in values.items()}.items()
