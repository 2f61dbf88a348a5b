"""
The bank: several averages of the same parameters, updated in one pass.
"""

import logging
from typing import Any, Callable, Dict, Iterable, List, Optional, Tuple, Union

from allennlp.common import Lazy
from allennlp.common.checks import ConfigurationError
from torch import Tensor

from allennlp_ema.averages.moving_average import WEIGHTING_ALONE, MovingAverage
from allennlp_ema.averages.parameters import NamedParameter
from allennlp_ema.averages.running_average import RunningAverage, share_assignment_lock
from allennlp_ema.averages.states import STATE_VERSION, check_entries, check_header
from allennlp_ema.common.checks import check_choice

logger = logging.getLogger(__name__)


@MovingAverage.register("bank")
class BankMovingAverage(MovingAverage):
    """
    Several averages of the same parameters. Each update reads the parameters once for all of them.
    `assign_average_value` assigns the average `active`, unless another is selected. Each average is
    a `MovingAverage` in `averages` and has all its methods:
    `bank.averages["slow"].average_values()`. Only one average can be assigned at a time; another
    `assign_average_value` meanwhile raises a `RuntimeError`.

    ```python
    >>> averages = {"mean": {"type": "uniform"}, "last": {"type": "window", "window_size": 1}}
    >>> params = Params({"type": "bank", "averages": averages, "active": "mean"})
    >>> parameter = torch.zeros(1)
    >>> bank = MovingAverage.from_params(params, parameters=[("p", parameter)])
    >>> for value in (1.0, 3.0):
    ...     _ = parameter.fill_(value)
    ...     bank.apply()
    >>> bank.average("p"), bank.average("p", of="last")
    (tensor([2.]), tensor([3.]))

    ```

    Registered as a `MovingAverage` with name "bank".

    # Parameters

    parameters : `Iterable[Tuple[str, Tensor]]`
        The named parameters to average. The trainer gives them.
    averages : `Dict[str, Lazy[MovingAverage]]`
        The averages by name. From Python they may also be constructed averages of the same
        parameters.
    active : `str`
        The name of the average that is assigned.
    **kwargs
        The keys that every average takes, see `MovingAverage`. They are the defaults for each of
        `averages`.
    """

    def __init__(
        self,
        parameters: Iterable[NamedParameter],
        averages: Dict[str, Lazy[MovingAverage]],
        active: str,
        **kwargs: Any,
    ) -> None:
        if not averages:
            raise ConfigurationError('"averages" is empty, but a bank needs at least one average')
        self.active = check_choice("active", active, list(averages))
        if parameters is not WEIGHTING_ALONE:
            parameters = list(parameters)
        self.averages = {
            name: _constructed(name, average, parameters, kwargs)
            for name, average in averages.items()
        }
        super().__init__(parameters, **kwargs)

    def _set_up(self, parameters: Iterable[NamedParameter]) -> None:
        # A bank has no running average of its own; each of its averages has one.
        if parameters is not WEIGHTING_ALONE:
            share_assignment_lock(self.assignable())
            self._log_construction()

    def resolve(
        self, num_updates_per_epoch: Optional[float], num_epochs: Optional[float] = None
    ) -> None:
        for average in self.averages.values():
            average.resolve(num_updates_per_epoch, num_epochs)

    @property
    def has_unresolved_durations(self) -> bool:
        return any(average.has_unresolved_durations for average in self.averages.values())

    def epoch_ended(self, num_epochs: int) -> None:
        for average in self.averages.values():
            average.epoch_ended(num_epochs)

    def members(self) -> List[MovingAverage]:
        return [member for average in self.averages.values() for member in average.members()]

    def active_member(self) -> MovingAverage:
        return self.averages[self.active].active_member()

    def assignable(self) -> List[RunningAverage]:
        return [each for average in self.averages.values() for each in average.assignable()]

    def named_members(self) -> Dict[str, MovingAverage]:
        return {
            f"{name}.{key}" if isinstance(average, BankMovingAverage) else name: member
            for name, average in self.averages.items()
            for key, member in average.named_members().items()
        }

    def average(
        self, parameter_or_name: Union[Tensor, str], of: Optional[str] = None
    ) -> Optional[Tensor]:
        """
        # Parameters

        parameter_or_name : `Union[Tensor, str]`
        of : `str`, optional (default = `None`)
            The name of one of the bank's averages. `None` means the active one.

        # Returns

        average : `Optional[Tensor]`
            The average of the parameter, with its shape and without a copy. `None` if the parameter
            is not averaged.
        """
        return self._member(of).average(parameter_or_name)

    def named_averages(self, of: Optional[str] = None) -> Iterable[Tuple[str, Tensor]]:
        """
        # Parameters

        of : `str`, optional (default = `None`)
            The name of one of the bank's averages. `None` means the active one.

        # Returns

        averages : `Iterable[Tuple[str, Tensor]]`
            The names of the averaged parameters, each with its average, without copies.
        """
        return self._member(of).named_averages()

    def state_dict(self, copy: bool = False) -> Dict[str, Any]:
        # The averages share parameters, so all are copied while any of them is assigned.
        copy = copy or self.is_assigned
        state = {
            "version": STATE_VERSION,
            "type": self.type_name,
            "averages": {name: each.state_dict(copy) for name, each in self.averages.items()},
        }
        return state if self.selected is None else {**state, "selected": self.selected}

    def prepare_load(self, state_dict: Dict[str, Any]) -> Callable[[], None]:
        check_header(state_dict, self.type_name)
        check_entries("state", state_dict, ["version", "type", "averages"], optional=["selected"])
        states = state_dict["averages"]
        if not isinstance(states, dict) or set(states) != set(self.averages):
            raise ConfigurationError(
                f"the state is that of a bank of {', '.join(map(str, states))}, not of "
                f"{', '.join(self.averages)}"
            )
        self.check_selected(state_dict.get("selected"))
        loads = [average.prepare_load(states[n]) for n, average in self.averages.items()]

        def load() -> None:
            for load_average in loads:
                load_average()
            self._selected = state_dict.get("selected")

        return load

    def _member(self, of: Optional[str]) -> MovingAverage:
        name = self.active if of is None else check_choice("of", of, list(self.averages))
        return self.averages[name]

    def _log_construction(self) -> None:
        logger.info(
            'A bank (allennlp_ema) holds the averages %s, of which "%s" is assigned',
            ", ".join(f'"{name}"' for name in self.averages),
            self.active,
        )


def _constructed(
    name: str, average: Any, parameters: Iterable[NamedParameter], shared: Dict[str, Any]
) -> MovingAverage:
    others: Dict[str, Any] = {}
    if isinstance(average, Lazy):
        own_keys = {*average._params, *average._constructor_extras}
        others = {key: value for key, value in shared.items() if key not in own_keys}
        average = average.construct(parameters=parameters, **others)
    what = f'"averages.{name}" is a {type(average).__name__}'
    if not isinstance(average, MovingAverage):
        raise ConfigurationError(f"{what}, but has to be an allennlp_ema.MovingAverage")
    for key, value in others.items():
        # AllenNLP leaves out what a constructor does not take.
        if getattr(average, key, value) != value:
            raise ConfigurationError(f'{what}, which does not take the "{key}" of the bank')
    if type(average).apply is not MovingAverage.apply:
        raise ConfigurationError(
            f"{what} with an apply() of its own, but a bank calls only averaging_weight()"
        )
    return average
