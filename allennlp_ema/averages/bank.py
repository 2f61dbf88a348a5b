from typing import Any, Callable, Dict, Iterable, List, Optional, Tuple, Union

from allennlp.common import Lazy
from allennlp.common.checks import ConfigurationError
from torch import Tensor

from allennlp_ema.averages.moving_average import (
    STATE_VERSION,
    MovingAverage,
    NamedParameter,
    logger,
)
from allennlp_ema.common.checks import check_choice
from allennlp_ema.shadow_weights.shadow_weights import ShadowWeights


@MovingAverage.register("bank")
class BankMovingAverage(MovingAverage):
    """
    Several averages of the same parameters, which read them once an update. One of them, `active`,
    is what `assign_average_value` assigns; each is a `MovingAverage` in `averages`, whose own
    methods (`bank.averages["slow"].average_values()`) reach the others. The parameters hold one's
    values at a time: to assign another meanwhile is a `RuntimeError`.

    Registered as a `MovingAverage` with name "bank".

    # Parameters

    parameters : `Iterable[Tuple[str, Tensor]]`
        The named parameters to average. The trainer gives them.
    averages : `Dict[str, Lazy[MovingAverage]]`
        The averages by name. From Python they may also be averages of these parameters.
    active : `str`
        The name of the one that is assigned.
    **kwargs
        The keys that every average takes, see `MovingAverage`; they hold for each of `averages`
        that does not have the key itself.
    """

    def __init__(
        self,
        parameters: Iterable[NamedParameter],
        averages: Dict[str, Lazy[MovingAverage]],
        active: str,
        **kwargs: Any,
    ) -> None:
        # The constructor of `MovingAverage` is left out: the shadows are those of the averages.
        if not averages:
            raise ConfigurationError('"averages" is empty, but a bank needs at least one average')
        self.active = check_choice("active", active, list(averages))
        parameters = list(parameters)
        self.averages: Dict[str, MovingAverage] = {}
        self.before_update = []
        average: Any
        for name, average in averages.items():
            if isinstance(average, Lazy):
                own_keys = {*average._params, *average._constructor_extras}
                shared = {key: value for key, value in kwargs.items() if key not in own_keys}
                average = average.construct(parameters=parameters, **shared)
            if not isinstance(average, MovingAverage):
                raise ConfigurationError(
                    f'"averages.{name}" is a {type(average).__name__}, but has to be an '
                    "allennlp_ema.MovingAverage"
                )
            self.averages[name] = average
        for member in self.members():
            member.rivals = [each for each in self.members() if each is not member]
        logger.info(
            'A bank (allennlp_ema) holds the averages %s, of which "%s" is assigned',
            ", ".join(f'"{name}"' for name in self.averages),
            active,
        )

    def average(
        self, parameter_or_name: Union[Tensor, str], of: Optional[str] = None
    ) -> Optional[Tensor]:
        """
        # Parameters

        parameter_or_name : `Union[Tensor, str]`
        of : `str`, optional (default = `None`)
            Which of the bank's averages. `None` means the active one.

        # Returns

        average : `Optional[Tensor]`
            The average of a parameter, of its shape, never a copy; `None` if it is not averaged.
        """
        return self._member(of).average(parameter_or_name)

    def named_averages(self, of: Optional[str] = None) -> Iterable[Tuple[str, Tensor]]:
        """
        # Parameters

        of : `str`, optional (default = `None`)
            Which of the bank's averages. `None` means the active one.

        # Returns

        averages : `Iterable[Tuple[str, Tensor]]`
            Names and averages, never copies, of what is averaged.
        """
        return self._member(of).named_averages()

    def effective_window(self) -> float:
        return self._member().effective_window()

    def state_dict(self) -> Dict[str, Any]:
        return {
            "version": STATE_VERSION,
            "type": self._type,
            "averages": {name: average.state_dict() for name, average in self.averages.items()},
        }

    def _member(self, of: Optional[str] = None) -> MovingAverage:
        name = self.active if of is None else check_choice("of", of, list(self.averages))
        return self.averages[name]

    # What `MovingAverage` does with one average it does here with the active one.

    @property
    def _shadow_weights(self) -> ShadowWeights:  # type: ignore[override]
        return self._member()._shadow_weights

    @property
    def _counts(self) -> Any:  # type: ignore[override]
        return self._member()._counts

    @property
    def is_assigned(self) -> bool:
        return any(member.is_assigned for member in self.members())

    def assign_average_value(self) -> None:
        self._member().assign_average_value()

    def restore(self) -> None:
        self._member().restore()

    # What concerns all averages.

    def members(self) -> List[MovingAverage]:
        return [member for average in self.averages.values() for member in average.members()]

    def _all_shadow_weights(self) -> List[ShadowWeights]:
        return [
            each for average in self.averages.values() for each in average._all_shadow_weights()
        ]

    def _refuse_while_assigned(self) -> None:
        for average in self.averages.values():
            average._refuse_while_assigned()

    def _next_update(
        self, num_updates: Optional[int]
    ) -> Tuple[Any, List[ShadowWeights], List[float]]:
        counts, shadow_weights, weights = [], [], []
        for average in self.averages.values():
            next_counts, moved, by = average._next_update(num_updates)
            counts.append(next_counts)
            shadow_weights += moved
            weights += by
        return counts, shadow_weights, weights

    def _set_counts(self, counts: Any) -> None:
        for average, average_counts in zip(self.averages.values(), counts):
            average._set_counts(average_counts)

    def _prepared_load(self, state_dict: Dict[str, Any]) -> Callable[[], None]:
        states = self._checked_state(state_dict)["averages"]
        missing = [name for name in self.averages if name not in states]
        unexpected = [name for name in states if name not in self.averages]
        if missing or unexpected:
            raise ConfigurationError(
                f"the state is that of a bank of {', '.join(states)}, not of "
                f"{', '.join(self.averages)}"
            )
        loads = [average._prepared_load(states[n]) for n, average in self.averages.items()]

        def load() -> None:
            for load_average in loads:
                load_average()

        return load
