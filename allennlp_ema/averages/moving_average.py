"""
The base class of all averages: configuration, registration and states.
"""

import logging
from typing import Any, Callable, Dict, Iterable, List, Optional, Union

import torch
from allennlp.common import Registrable
from allennlp.common.checks import ConfigurationError
from allennlp.common.from_params import infer_constructor_params
from allennlp.training.moving_average import MovingAverage as AllenNLPMovingAverage

from allennlp_ema.averages.allennlp_state import (
    is_allennlp_state,
    prepare_load_of_allennlp_state,
)
from allennlp_ema.averages.durations import Durations, WithDurations
from allennlp_ema.averages.parameters import (
    NamedParameter,
    check_averageable,
    checked_names,
    selected,
)
from allennlp_ema.averages.running_average import RunningAverage, share_assignment_lock
from allennlp_ema.averages.states import STATE_VERSION, check_entries, check_header, copied
from allennlp_ema.common.checks import check_choice
from allennlp_ema.common.from_params import (
    ExplainedFromParams,
    constructor_arguments,
    registered_name,
)
from allennlp_ema.shadow_weights.shadow_weights import ShadowWeights
from allennlp_ema.weighting.duration import Duration, check_updates
from allennlp_ema.weighting.weighting import Weighting

logger = logging.getLogger(__name__)

_DTYPES = {"float32": torch.float32, "float64": torch.float64}

# Entries that a state has only if they are not empty.
_OPTIONAL_ENTRIES = ["attachments", "durations", "selected"]


class _NoParameters(tuple):
    """See `WEIGHTING_ALONE`."""


#: Given instead of parameters, for an average of which only the `weighting` is used.
WEIGHTING_ALONE = _NoParameters()


class MovingAverage(ExplainedFromParams, WithDurations):
    """
    A moving average of a model's parameters: `average += weight * (parameter - average)` after each
    update. One pure method gives the weights. A custom average overrides that method:

    ```python
    >>> @MovingAverage.register("inverse_square_root_example")
    ... class InverseSquareRootMovingAverage(MovingAverage):
    ...     def averaging_weight(self, num_averaged, num_updates):
    ...         return 1.0 / math.sqrt(num_averaged + 1)
    >>> average = InverseSquareRootMovingAverage([("p", torch.zeros(1))])
    >>> average.weighting.update_weights(4).round(2).tolist()
    [1.0, 0.71, 0.58, 0.5]

    ```

    It shares AllenNLP's registry: a name registered on either class is found from both.

    # Parameters

    parameters : `Iterable[Tuple[str, Tensor]]`
        The named parameters to average, of any shape and floating or complex dtype. The trainer
        gives them. Each process averages its shard of a `DTensor`
        (`torch.distributed.fsdp.fully_shard`).
    start_step : `Union[int, Duration]`, optional (default = `0`)
        In updates, or a duration: `{"epochs": 2}` or `{"fraction": 0.5}` of the training. While
        `num_updates < start_step` the average equals the parameters. The weighting counts updates
        from `start_step`.
    update_every : `Union[int, Duration]`, optional (default = `1`)
        In updates, or a duration. The parameters are sampled at the updates where
        `(num_updates - start_step) % update_every == 0`. Before the first sample, an average that
        forgets its initial value equals the parameters.
    shadow_dtype : `str`, optional (default = `None`)
        `"float32"` or `"float64"`. `None` means float32 for half-precision parameters, else the
        parameter's own dtype.
    shadow_device : `str`, optional (default = `None`)
        `"cpu"` keeps the averages in (pinned) host memory, `None` on the parameters' device.
    sequential_update : `bool`, optional (default = `True`)
        `False` lets an update run during the next forward and backward pass: on a separate stream
        on a GPU, in a thread on the CPU. The values are the same bit for bit. Optimizer steps and
        accesses to the averages wait for the update. Call `wait` before anything else writes to the
        parameters. Before torch 2.0, `False` has no effect.
    include : `List[str]`, optional (default = `None`)
        Regular expressions: average only parameters whose name matches one (`re.search`).
    exclude : `List[str]`, optional (default = `None`)
        Regular expressions: leave out parameters whose name matches one. Parameters that are not
        averaged keep their raw values when the averages are assigned.
    """

    default_implementation = "exponential"

    in_words = 'an average: {"type": "exponential", "decay": 0.999}'

    # Whether each weight is divided by the sampled share, which forgets the initial value.
    zero_debias: bool = False

    # Whether the average can load a state of AllenNLP's own class.
    continues_allennlp_state: bool = False

    def __init__(
        self,
        parameters: Iterable[NamedParameter],
        start_step: Union[int, Duration] = 0,
        update_every: Union[int, Duration] = 1,
        shadow_dtype: Optional[str] = None,
        shadow_device: Optional[str] = None,
        sequential_update: bool = True,
        include: Optional[List[str]] = None,
        exclude: Optional[List[str]] = None,
    ) -> None:
        # AllenNLP's own constructor is not called, because it makes two copies of the model.
        self.start_step = check_updates("start_step", start_step, minimum=0)
        self.update_every = check_updates("update_every", update_every, minimum=1)
        self.shadow_dtype = check_choice("shadow_dtype", shadow_dtype, [None, *_DTYPES])
        self.shadow_device = check_choice("shadow_device", shadow_device, [None, "cpu"])
        self.sequential_update = check_choice("sequential_update", sequential_update, [True, False])
        self.include = include
        self.exclude = exclude
        self.durations = Durations(self._owners_of_durations())
        self._set_up(parameters)

    def _set_up(self, parameters: Iterable[NamedParameter]) -> None:
        #: Decides which updates the average samples, and with which weights.
        self.weighting = self._make_weighting()
        if parameters is not WEIGHTING_ALONE:
            named_parameters = checked_names(parameters)
            self._all_names = [name for name, _ in named_parameters]
            self.running = self._make_running_average(named_parameters)
            self.raw = RunningAverage(self, self.weighting, self.new_shadow_weights([]))
            share_assignment_lock(self.assignable())
            if not self.durations.unresolved:
                self._log_construction()

    def averaging_weight(self, num_averaged: int, num_updates: Optional[int]) -> float:
        """
        The weight of the newest sample, `average += weight * (parameter - average)`: a pure
        function of the counts.

        If the weight depends on the number of updates between two samples, the method takes a third
        argument, `interval: int`. It is in updates and equals `update_every`, or is 1 for a sample
        at `start_step` itself.

        # Parameters

        num_averaged : `int`
            The number of samples before this one since `start_step`.
        num_updates : `Optional[int]`
            The number of this update, counted from `start_step`. `None` if `apply` got no number.

        # Returns

        weight : `float`
            Within [0, 1].
        """
        raise ConfigurationError(
            f"{type(self).__name__} has no averaging_weight(), which gives the weights of samples"
        )

    def updates_since_start(self, num_averaged: int, num_updates: Optional[int]) -> int:
        """
        The number of an update, counted from `start_step`. If `apply` got no number, it is derived
        from `num_averaged`.
        """
        if num_updates is not None:
            return num_updates
        return self.weighting.updates_since_start(num_averaged)

    def _make_weighting(self) -> Weighting:
        return Weighting(
            self.averaging_weight, self.start_step, self.update_every, self.zero_debias
        )

    def _make_running_average(self, parameters: List[NamedParameter]) -> RunningAverage:
        parameters = self.averaged_parameters(parameters)
        return RunningAverage(self, self.weighting, self.new_shadow_weights(parameters))

    def averaged_parameters(self, parameters: List[NamedParameter]) -> List[NamedParameter]:
        """The parameters selected by `include` and `exclude`, after a check of their dtypes."""
        parameters = selected(parameters, self.include, self.exclude)
        check_averageable(parameters)
        return parameters

    def new_shadow_weights(
        self, parameters: List[NamedParameter], keep_dtype: bool = False
    ) -> ShadowWeights:
        """Shadow weights of `parameters` with the configured dtype and device."""
        return ShadowWeights(
            parameters,
            dtype=None if self.shadow_dtype is None else _DTYPES[self.shadow_dtype],
            device=None if self.shadow_device is None else torch.device(self.shadow_device),
            keep_dtype=keep_dtype,
            overlaps=not self.sequential_update,
        )

    def members(self) -> List["MovingAverage"]:
        return [self]

    def active_member(self) -> "MovingAverage":
        return self

    def assignable(self) -> List[RunningAverage]:
        return [self.running, self.raw]

    def named_members(self) -> Dict[str, "MovingAverage"]:
        return {self.type_name: self}

    def state_dict(self, copy: bool = False) -> Dict[str, Any]:
        """
        # Parameters

        copy : `bool`, optional (default = `False`)
            Whether to copy the tensors, for a state that is kept or written in the background.
            While averages are assigned, the tensors are always copied.

        # Returns

        state : `Dict[str, Any]`
            The averages, the counts, and the settings that can change between two updates. Without
            `copy` the tensors are references, as is usual in PyTorch: save or load them before the
            next `apply` or `assign_average_value`, which changes their values.
        """
        state = {
            "version": STATE_VERSION,
            "type": self.type_name,
            "settings": self._changeable_settings(),
            **self.running.state_dict(),
        }
        if self.durations.resolved:
            state["durations"] = dict(self.durations.resolved)
        if self.selected is not None:
            state["selected"] = self.selected
        return copied(state) if copy or self.is_assigned else state

    def load_state_dict(self, state_dict: Dict[str, Any]) -> None:
        """
        Copies a state into the existing tensors by name. The prefixes of `DistributedDataParallel`
        and `torch.compile` do not matter. An exponential average also loads a state of AllenNLP's
        own class. If the parameters in such a state differ from the model's, its averages have not
        followed the model since an earlier `--recover`. Then averaging begins anew, with a warning.

        # Raises

        `ConfigurationError` : if the state is of another type of average, or if an entry is
        missing, unexpected or misshapen. Nothing is changed then.
        """
        self.prepare_load(state_dict)()

    def prepare_load(self, state_dict: Dict[str, Any]) -> Callable[[], None]:
        """
        Checks a state as `load_state_dict` does, and returns a function that loads it and cannot
        fail. With it, several states can all be checked before the first is loaded.
        """
        if is_allennlp_state(state_dict):
            if not self.continues_allennlp_state:
                raise ConfigurationError(
                    "the state is that of AllenNLP's own exponential average, which one of type "
                    f'"{self.type_name}" cannot continue'
                )
            return prepare_load_of_allennlp_state(self.running, self._all_names, state_dict)
        check_header(state_dict, self.type_name)
        entries = ["version", "type", "settings", *self.running.entries]
        check_entries("state", state_dict, entries, optional=_OPTIONAL_ENTRIES)
        self.check_selected(state_dict.get("selected"))
        load_running_average = self.running.prepare_load(state_dict)
        # A saved decay is ignored if the configuration now has a schedule instead.
        changeable = self._changeable_settings()
        settings = {k: value for k, value in state_dict["settings"].items() if k in changeable}
        try:
            self._set_settings(settings)
        finally:
            self._set_settings(changeable)

        def load() -> None:
            if "durations" in state_dict:
                self.durations.load(state_dict["durations"])
                self._update_weighting()
            load_running_average()
            self._set_settings(settings)
            self._selected = state_dict.get("selected")

        return load

    def _set_settings(self, settings: Dict[str, Any]) -> None:
        for key, value in settings.items():
            setattr(self, key, value)

    def _changeable_settings(self) -> Dict[str, Any]:
        """The settings, by attribute, that can change between two updates and are in the state."""
        return {}

    @property
    def type_name(self) -> str:
        """The name under which the class is registered. It is part of the state."""
        return registered_name(self, AllenNLPMovingAverage)

    def _weighting_in_words(self) -> str:
        keys_of_every_average = infer_constructor_params(MovingAverage)
        return ", ".join(
            [f'"{self.type_name}"']
            + [
                f"{key} = {value}"
                for key, value in constructor_arguments(self).items()
                if key not in keys_of_every_average
            ]
        )

    def _log_construction(self) -> None:
        cls = type(self)
        start = f", from update {self.start_step:,} on" if self.start_step else ""
        every = f", at every {self.update_every:,}th update" if self.update_every > 1 else ""
        logger.info(
            "%s.%s (allennlp_ema) averages %s: %s%s%s",
            cls.__module__,
            cls.__qualname__,
            self.running.memory_in_words(),
            self._weighting_in_words(),
            start,
            every,
        )


# One registry for both classes, so that an average can be registered on either.
Registrable._registry[MovingAverage] = Registrable._registry[AllenNLPMovingAverage]
