"""
The contract with the trainer: weights of the average, from numbers alone, meet shadow weights.
"""

import contextlib
import logging
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional, Tuple, Union

import torch
from allennlp.common import Registrable
from allennlp.common.checks import ConfigurationError
from allennlp.common.from_params import infer_constructor_params
from allennlp.training.moving_average import MovingAverage as AllenNLPMovingAverage
from torch import Tensor

from allennlp_ema.averages.attachment import Attachment
from allennlp_ema.averages.parameters import (
    NamedParameter,
    check_dtypes,
    checked_names,
    selected,
    without_prefixes,
)
from allennlp_ema.averages.running_average import RunningAverage, own_attachments
from allennlp_ema.averages.states import STATE_VERSION, check_entries, check_header, copied, matched
from allennlp_ema.common.checks import check_choice, check_integer
from allennlp_ema.common.from_params import (
    ExplainedFromParams,
    constructor_arguments,
    registered_name,
)
from allennlp_ema.common.terminal import in_bytes
from allennlp_ema.shadow_weights.shadow_weights import ShadowWeights, update
from allennlp_ema.weighting.weighting import AveragingCounts, Weighting

logger = logging.getLogger(__name__)

_DTYPES = {"float32": torch.float32, "float64": torch.float64}


class _NoParameters(tuple):
    """See `WEIGHTING_ALONE`."""


#: In the place of parameters: the average has a `weighting`, and nothing else can be asked of it.
WEIGHTING_ALONE = _NoParameters()


class MovingAverage(ExplainedFromParams, AllenNLPMovingAverage):
    """
    A moving average of a model's parameters: `average += weight * (parameter - average)` after each
    update, with weights that one pure method gives. An average of one's own overrides that method:

    ```python
    @MovingAverage.register("inverse_square_root")
    class InverseSquareRootMovingAverage(MovingAverage):
        def averaging_weight(self, num_averaged: int, num_updates: Optional[int]) -> float:
            return 1.0 / math.sqrt(num_averaged + 1)
    ```

    It shares AllenNLP's registry: a name registered on either class is found from both.

    # Parameters

    parameters : `Iterable[Tuple[str, Tensor]]`
        The named parameters to average, of any shape and floating dtype. The trainer gives them.
    start_step : `int`, optional (default = `0`)
        While `num_updates < start_step` the average equals the parameters; the weighting counts its
        updates from here.
    update_every : `int`, optional (default = `1`)
        Sample the parameters at the updates where `(num_updates - start_step) % update_every == 0`.
        Until there is a sample, an average that forgets its initial value equals the parameters.
    shadow_dtype : `str`, optional (default = `None`)
        `"float32"` or `"float64"`. `None` means float32 for half-precision parameters, else the
        parameter's own dtype.
    shadow_device : `str`, optional (default = `None`)
        `"cpu"` keeps the averages in (pinned) host memory, `None` beside the parameters.
    include : `List[str]`, optional (default = `None`)
        Regular expressions: average only the parameters in whose name one is found (`re.search`).
    exclude : `List[str]`, optional (default = `None`)
        Regular expressions: leave out the parameters in whose name one is found. What is not
        averaged keeps its own value when the averages are assigned.
    """

    default_implementation = "exponential"

    # Whether the initial value is forgotten: each weight is divided by the sampled share.
    zero_debias: bool = False

    # Whether the state that AllenNLP's own class writes can be loaded.
    continues_allennlp_state: bool = False

    def __init__(
        self,
        parameters: Iterable[NamedParameter],
        start_step: int = 0,
        update_every: int = 1,
        shadow_dtype: Optional[str] = None,
        shadow_device: Optional[str] = None,
        include: Optional[List[str]] = None,
        exclude: Optional[List[str]] = None,
    ) -> None:
        # AllenNLP's own constructor is left out: it makes two copies of the model.
        self.start_step = check_integer("start_step", start_step, minimum=0)
        self.update_every = check_integer("update_every", update_every, minimum=1)
        self.shadow_dtype = check_choice("shadow_dtype", shadow_dtype, [None, *_DTYPES])
        self.shadow_device = check_choice("shadow_device", shadow_device, [None, "cpu"])
        self.include = include
        self.exclude = exclude
        self._set_up(parameters)

    def _set_up(self, parameters: Iterable[NamedParameter]) -> None:
        #: Which updates it samples, and with which weights.
        self.weighting = self._make_weighting()
        if parameters is not WEIGHTING_ALONE:
            named_parameters = checked_names(parameters)
            self._all_names = [name for name, _ in named_parameters]
            #: The weighting, the counts and the shadow weights.
            self.running = self._make_running_average(named_parameters)
            self._log_construction()

    def averaging_weight(self, num_averaged: int, num_updates: Optional[int]) -> float:
        """
        The weight of the newest sample, `average += weight * (parameter - average)`: a pure
        function of the counts.

        A rule whose weight depends on how many updates lie between two samples takes a third
        argument, `interval: int` (in updates; 1 unless `update_every` says otherwise).

        # Parameters

        num_averaged : `int`
            How many samples the average has taken before this one since `start_step`.
        num_updates : `Optional[int]`
            The number of this update, counted from `start_step`, if `apply` was given one.

        # Returns

        weight : `float`
            Within [0, 1].
        """
        raise NotImplementedError

    def updates_since_start(self, num_averaged: int, num_updates: Optional[int]) -> int:
        """
        The number of an update counted from `start_step`, for rules that need one where `apply` was
        given none.
        """
        if num_updates is not None:
            return num_updates
        return self.weighting.updates_since_start(num_averaged)

    def _make_weighting(self) -> Weighting:
        return Weighting(
            self.averaging_weight, self.start_step, self.update_every, self.zero_debias
        )

    def _make_running_average(self, parameters: List[NamedParameter]) -> RunningAverage:
        parameters = self.select(parameters)
        return RunningAverage(self, self.weighting, self.new_shadow_weights(parameters))

    def select(self, parameters: List[NamedParameter]) -> List[NamedParameter]:
        """The parameters that are averaged, each of a dtype that can be."""
        parameters = selected(parameters, self.include, self.exclude)
        check_dtypes(parameters)
        return parameters

    def new_shadow_weights(
        self, parameters: List[NamedParameter], keep_dtype: bool = False
    ) -> ShadowWeights:
        """Shadow weights of `parameters`, of the dtype and on the device that are configured."""
        return ShadowWeights(
            parameters,
            dtype=None if self.shadow_dtype is None else _DTYPES[self.shadow_dtype],
            device=None if self.shadow_device is None else torch.device(self.shadow_device),
            keep_dtype=keep_dtype,
        )

    def apply(self, num_updates: Optional[int] = None) -> None:
        """
        One update from the parameters' present values.

        # Parameters

        num_updates : `int`, optional (default = `None`)
            The number of this update. The trainer counts from 1. `None` means one more than the
            last one's.

        # Raises

        `RuntimeError` : while averages are assigned, or if a parameter was resized. Nothing is
        changed then.
        """
        if self.is_assigned:
            raise RuntimeError(
                "the parameters hold their averages at present, so there is nothing to average: "
                "call restore() before apply()"
            )
        running = [member.running for member in self.members()]
        updates = [each.weighting.next(each.counts, num_updates) for each in running]
        moves = [move for each, coming in zip(running, updates) for move in each.moves(coming)]
        if any(coming.is_sample for coming in updates):
            for attachment in own_attachments(running):
                attachment.before_sample()
        if moves:
            update([moved for moved, _ in moves], [weight for _, weight in moves])
        for each, coming in zip(running, updates):
            each.commit(coming.counts)

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

    def assign_average_value(self) -> None:
        """
        Gives the parameters their averages. Calls nest: the parameters get their own values again
        with the last `restore`. If anything is raised, they have their own values.

        # Raises

        `RuntimeError` : while another average of the same bank is assigned, or if a parameter was
        resized. Nothing is changed then.
        """
        self.active_member().running.assign()

    def restore(self) -> None:
        """
        Gives the parameters their own values again, bit for bit.

        # Raises

        `RuntimeError` : if no averages are assigned. Nothing is changed then.
        """
        self.active_member().running.restore()

    def keep_average_value(self) -> None:
        """
        Makes the assigned averages the parameters' own values: what they were before is dropped,
        and nothing is left to restore.

        # Raises

        `RuntimeError` : if no averages are assigned. Nothing is changed then.
        """
        for member in self.members():
            if member.is_assigned:
                member.running.keep()
                return
        raise RuntimeError("there is nothing to keep: no averages are assigned")

    @property
    def is_assigned(self) -> bool:
        """Whether the parameters hold their averages at present."""
        return any(member.running.num_assigned for member in self.members())

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

    def members(self) -> List["MovingAverage"]:
        """
        # Returns

        members : `List[MovingAverage]`
            The averages in it: itself alone, unless it is a bank.
        """
        return [self]

    def active_member(self) -> "MovingAverage":
        """
        # Returns

        member : `MovingAverage`
            The one of `members` that is assigned.
        """
        return self

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
        name = (
            parameter_or_name
            if isinstance(parameter_or_name, str)
            else self.active_member().running.shadow_weights.name_of(parameter_or_name)
        )
        if name is None:
            return None
        averages = dict(self.named_averages())
        if name in averages:
            return averages[name]
        plain = {without_prefixes(key): average for key, average in averages.items()}
        return plain.get(without_prefixes(name))

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
            Names and raw values, never copies, of what is averaged, also while averages are
            assigned.
        """
        return self.active_member().running.shadow_weights.raw_values().items()

    def state_dict(self, copy: bool = False) -> Dict[str, Any]:
        """
        # Parameters

        copy : `bool`, optional (default = `False`)
            Return tensors of its own, which stay what they are: for a state that is written in the
            background, or kept. A state that is taken while averages are assigned has them anyway.

        # Returns

        state : `Dict[str, Any]`
            One copy of the averages, the counts and what can be changed between two updates. The
            averages are references, as everywhere in PyTorch: save or load them before the next
            `apply` or `assign_average_value`, after which they hold other values.
        """
        state = {
            "version": STATE_VERSION,
            "type": self.type_name,
            "settings": self._changeable_settings(),
            **self.running.state_dict(),
        }
        return copied(state) if copy or self.is_assigned else state

    def load_state_dict(self, state_dict: Dict[str, Any]) -> None:
        """
        Copies a state into the existing tensors by name; the prefixes of `DistributedDataParallel`
        and `torch.compile` do not matter. What AllenNLP's own class wrote is taken too: if the
        parameters in it are not the ones of now, its averages have not followed the model since a
        `--recover`, and averaging begins anew, with a warning.

        # Raises

        `ConfigurationError` : if the state is of another type of average, or has a missing, an
        unexpected or a misshapen entry. Nothing is changed then.
        """
        self.prepare_load(state_dict)()

    def prepare_load(self, state_dict: Dict[str, Any]) -> Callable[[], None]:
        """
        Checks a state as `load_state_dict` does, and returns what then loads it, which cannot fail
        halfway: for whoever loads something else with it.
        """
        if isinstance(state_dict, dict) and "shadows" in state_dict and "version" not in state_dict:
            return self._prepare_load_of_allennlp_state(state_dict)
        check_header(state_dict, self.type_name)
        entries = ["version", "type", "settings", *self.running.entries]
        check_entries("state", state_dict, entries, optional=["attachments"])
        load_running_average = self.running.prepare_load(state_dict)
        # The number that a schedule has taken the place of says nothing here.
        changeable = self._changeable_settings()
        settings = {k: value for k, value in state_dict["settings"].items() if k in changeable}
        try:
            self._set_settings(settings)
        finally:
            self._set_settings(changeable)

        def load() -> None:
            load_running_average()
            self._set_settings(settings)

        return load

    def _set_settings(self, settings: Dict[str, Any]) -> None:
        for key, value in settings.items():
            setattr(self, key, value)

    def _prepare_load_of_allennlp_state(self, state_dict: Dict[str, Any]) -> Callable[[], None]:
        if not self.continues_allennlp_state:
            raise ConfigurationError(
                "the state is that of AllenNLP's own exponential average, which one of type "
                f'"{self.type_name}" cannot continue'
            )
        raw = dict(self.named_raw_values())
        averages = matched("shadows", self._without_left_out(state_dict["shadows"]), raw)
        saved = matched("parameters", self._without_left_out(dict(state_dict["parameters"])), raw)
        is_dead = any(
            not torch.equal(saved[name].to(value.device, value.dtype), value)
            for name, value in raw.items()
        )

        def load() -> None:
            if is_dead:
                logger.warning(
                    "The state of AllenNLP's own moving average holds averages of dead parameters: "
                    "the parameters in it are not the model's, which they stopped following at an "
                    "earlier --recover. These averages are left alone; averaging begins anew from "
                    "the model's present parameters."
                )
                self.running.load(raw, AveragingCounts())
            else:
                # They come from samples: `zero_debias` must not take them for an initial value.
                self.running.load(averages, AveragingCounts(sampled_share=1.0))

        return load

    def _without_left_out(self, values: Dict[str, Tensor]) -> Dict[str, Tensor]:
        averaged = {without_prefixes(name) for name in self.running.shadow_weights.names}
        left_out = {without_prefixes(name) for name in self._all_names} - averaged
        return {n: value for n, value in values.items() if without_prefixes(n) not in left_out}

    def _changeable_settings(self) -> Dict[str, Any]:
        """What may be changed between two updates, by attribute, and so belongs to the state."""
        return {}

    @property
    def type_name(self) -> str:
        """The name under which the class is registered, which a state carries."""
        return registered_name(self, AllenNLPMovingAverage)

    def _to_params(self) -> Dict[str, Any]:
        arguments = constructor_arguments(self)
        arguments.pop("parameters", None)
        return {"type": self.type_name, **arguments}

    def _memory_in_words(self) -> str:
        shadow_weights = self.running.shadow_weights
        dtypes = sorted({str(s.dtype).replace("torch.", "") for s in shadow_weights.shadows})
        return (
            f"{len(shadow_weights.shadows):,} parameters with {shadow_weights.num_values:,} "
            f"values, {in_bytes(shadow_weights.num_bytes)} of {' and '.join(dtypes)}"
        )

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
            self._memory_in_words(),
            self._weighting_in_words(),
            start,
            every,
        )


# One registry for both classes, so that it does not matter on which of them an average registers.
Registrable._registry[MovingAverage] = Registrable._registry[AllenNLPMovingAverage]
