"""
The contract with the trainer: weights of the average, from numbers alone, meet shadow weights.
"""

import contextlib
import inspect
import logging
import re
from numbers import Real
from typing import (
    Any,
    Callable,
    ContextManager,
    Dict,
    Iterable,
    Iterator,
    List,
    Optional,
    Sequence,
    Tuple,
    Union,
)

import torch
from allennlp.common import Registrable
from allennlp.common.checks import ConfigurationError
from allennlp.common.from_params import infer_constructor_params
from allennlp.training.moving_average import MovingAverage as AllenNLPMovingAverage
from torch import Tensor

from allennlp_ema.common.checks import check_choice, check_integer
from allennlp_ema.common.from_params import (
    ExplainedFromParams,
    constructor_arguments,
    registered_name,
)
from allennlp_ema.shadow_weights.shadow_weights import ShadowWeights, update
from allennlp_ema.weighting.weighting import AveragingCounts

logger = logging.getLogger(__name__)

NamedParameter = Tuple[str, Tensor]

STATE_VERSION = 1
_DTYPES = {"float32": torch.float32, "float64": torch.float64}


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
        The named parameters to average, of any shape and floating dtype. The trainer gives them. An
        infinite value has no average (it is a NaN): `exclude` a parameter that holds one.
    start_step : `int`, optional (default = `0`)
        While `num_updates < start_step` the average equals the parameters; the weighting counts its
        updates from here.
    update_every : `int`, optional (default = `1`)
        Sample the parameters at the updates where `(num_updates - start_step) % update_every == 0`.
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
        named_parameters = _checked_names(parameters)
        self._averaged_parameters = _selected(named_parameters, include, exclude)
        _check_dtypes(self._averaged_parameters)
        self._all_names = [name for name, _ in named_parameters]
        # Entered when the averages are assigned, left when they are restored.
        self.companions: List[ContextManager[Any]] = []
        self.before_update: List[Callable[[], None]] = []
        # Averages of the same parameters, which can hold only one's values at a time.
        self.rivals: List[MovingAverage] = []
        self._counts = AveragingCounts()
        self._num_assigned = 0
        self._assigned = contextlib.ExitStack()
        self._takes_interval = "interval" in inspect.signature(self.averaging_weight).parameters
        self._shadow_weights = self._new_shadow_weights()
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

    def apply(self, num_updates: Optional[int] = None) -> None:
        """
        One update from the parameters' present values.

        # Parameters

        num_updates : `int`, optional (default = `None`)
            The number of this update. The trainer counts from 1. `None` means one more than the
            last one's.

        # Raises

        `RuntimeError` : while averages are assigned. Nothing is changed then.
        """
        self._refuse_while_assigned()
        for prepare in self.before_update:
            prepare()
        counts, shadow_weights, weights = self._next_update(num_updates)
        update(shadow_weights, weights)
        self._set_counts(counts)

    def _refuse_while_assigned(self) -> None:
        if self._num_assigned:
            raise RuntimeError(
                "the parameters hold their averages at present, so there is nothing to average: "
                "call restore() before apply()"
            )

    def _next_update(
        self, num_updates: Optional[int]
    ) -> Tuple[Any, List[ShadowWeights], List[float]]:
        """The counts after the coming update, and which shadows it moves with which weights."""
        counts = self._counts
        number = counts.num_updates + 1 if num_updates is None else int(num_updates)
        since_start = number - self.start_step
        if since_start < 0:
            return AveragingCounts(number), [self._shadow_weights], [1.0]
        if since_start % self.update_every:
            return counts.skip(number), [], []
        arguments: Dict[str, Any] = {}
        if self._takes_interval:
            # At `start_step` itself the average equals the parameters of one update before.
            arguments["interval"] = self.update_every if since_start else 1
        weight = self.averaging_weight(
            counts.num_averaged, None if num_updates is None else since_start, **arguments
        )
        # The negation also refuses a NaN.
        if not (isinstance(weight, Real) and 0.0 <= weight <= 1.0):
            raise ConfigurationError(
                f"{type(self).__name__}.averaging_weight gives {weight!r} for num_averaged = "
                f"{counts.num_averaged}, num_updates = {since_start}, but a weight has to be "
                "within [0, 1]"
            )
        sampled = counts.sample(number, float(weight), self.zero_debias)
        shadow_weights, weight = self._sample(counts.num_averaged, sampled.last_weight)
        return sampled, [shadow_weights], [weight]

    def _sample(self, num_averaged: int, weight: float) -> Tuple[ShadowWeights, float]:
        """Which shadows the coming sample moves, and how far."""
        return self._shadow_weights, weight

    def _set_counts(self, counts: Any) -> None:
        self._counts = counts

    def _updates_since_start(self, num_averaged: int, num_updates: Optional[int]) -> int:
        """
        The number of an update counted from `start_step`, for the weightings that need one where
        `apply` was given none.
        """
        if num_updates is not None:
            return num_updates
        # The first update is number 1, so only a later start samples at its own 0.
        first = 0 if self.start_step else self.update_every
        return first + num_averaged * self.update_every

    @property
    def num_updates(self) -> int:
        """The number of the latest update."""
        return self._counts.num_updates

    @property
    def num_averaged(self) -> int:
        """How many samples were averaged since `start_step`."""
        return self._counts.num_averaged

    @property
    def decay_in_force(self) -> Optional[float]:
        """
        What the latest sample left of the average before it, `None` before the first sample.
        """
        return 1.0 - self._counts.last_weight if self._counts.num_averaged else None

    def effective_window(self) -> float:
        """
        # Returns

        window : `float`
            The length in updates of the uniform average with as much averaging in it:
            `update_every / sum of squared weights`. For a constant decay `d` this tends to
            `(1 + d) / (1 - d)`.
        """
        return self.update_every / self._counts.sum_of_squares

    def assign_average_value(self) -> None:
        """
        Gives the parameters their averages. Calls nest: the parameters get their own values again
        with the last `restore`.

        # Raises

        `RuntimeError` : while another average of the same bank is assigned. Nothing is changed
        then.
        """
        if any(rival.is_assigned for rival in self.rivals):
            raise RuntimeError(
                "the parameters hold the values of another average of the bank at present: call "
                "its restore() before this assign_average_value()"
            )
        if self._num_assigned == 0:
            self._refresh()
            with contextlib.ExitStack() as assigned:
                self._shadow_weights.assign()
                assigned.callback(self._shadow_weights.restore)
                for companion in self.companions:
                    assigned.enter_context(companion)
                self._assigned = assigned.pop_all()
        self._num_assigned += 1

    def restore(self) -> None:
        """
        Gives the parameters their own values again, bit for bit.

        # Raises

        `RuntimeError` : if no averages are assigned. Nothing is changed then.
        """
        if self._num_assigned == 0:
            raise RuntimeError("there is nothing to restore: no averages are assigned")
        self._num_assigned -= 1
        if self._num_assigned == 0:
            self._assigned.close()

    @property
    def is_assigned(self) -> bool:
        """Whether the parameters hold their averages at present."""
        return self._num_assigned > 0

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

    def average(self, parameter_or_name: Union[Tensor, str]) -> Optional[Tensor]:
        """
        # Returns

        average : `Optional[Tensor]`
            The average of a parameter, of its shape, never a copy; `None` if it is not averaged.
        """
        name = (
            parameter_or_name
            if isinstance(parameter_or_name, str)
            else self._shadow_weights.name_of(parameter_or_name)
        )
        if name is None:
            return None
        averages = dict(self.named_averages())
        if name in averages:
            return averages[name]
        plain = {_without_prefixes(key): average for key, average in averages.items()}
        return plain.get(_without_prefixes(name))

    def named_averages(self) -> Iterable[Tuple[str, Tensor]]:
        """
        # Returns

        averages : `Iterable[Tuple[str, Tensor]]`
            Names and averages, never copies, of what is averaged.
        """
        self._refresh()
        return self._shadow_weights.values().items()

    def named_raw_values(self) -> Iterable[Tuple[str, Tensor]]:
        """
        # Returns

        values : `Iterable[Tuple[str, Tensor]]`
            Names and raw values, never copies, of what is averaged, also while averages are
            assigned.
        """
        return self._shadow_weights.raw_values().items()

    def _refresh(self) -> None:
        """Brings the shadows up to date, for an average that does not do so at each update."""

    def _all_shadow_weights(self) -> List[ShadowWeights]:
        """All that `apply` moves and all that is made from it."""
        return [self._shadow_weights]

    def _new_shadow_weights(self, keep_dtype: bool = False) -> ShadowWeights:
        return ShadowWeights(
            self._averaged_parameters,
            dtype=None if self.shadow_dtype is None else _DTYPES[self.shadow_dtype],
            device=None if self.shadow_device is None else torch.device(self.shadow_device),
            keep_dtype=keep_dtype,
        )

    def state_dict(self) -> Dict[str, Any]:
        """
        # Returns

        state : `Dict[str, Any]`
            One copy of the averages (references to them, as everywhere in PyTorch), the counts and
            what can be changed between two updates. The same while averages are assigned.
        """
        return {
            "version": STATE_VERSION,
            "type": self._type,
            "counts": self._counts.as_dict(),
            "settings": self._changeable_settings(),
            "averages": dict(self.named_averages()),
        }

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
        self._prepared_load(state_dict)()

    def _prepared_load(self, state_dict: Dict[str, Any]) -> Callable[[], None]:
        """Checks the whole state and returns what then loads it, which cannot fail halfway."""
        if "shadows" in state_dict and "version" not in state_dict:
            return self._prepared_load_of_allennlp_state(state_dict)
        state_dict = self._checked_state(state_dict)
        averages = self._matched("averages", state_dict["averages"])
        _check_entries("counts", state_dict["counts"], AveragingCounts().as_dict())
        counts = AveragingCounts(**state_dict["counts"])
        # The number that a schedule has taken the place of says nothing here.
        changeable = self._changeable_settings()
        settings = {k: value for k, value in state_dict["settings"].items() if k in changeable}
        try:
            self._set_settings(settings)
        finally:
            self._set_settings(changeable)

        def load() -> None:
            self._shadow_weights.load(averages)
            self._set_counts(counts)
            self._set_settings(settings)

        return load

    def _set_settings(self, settings: Dict[str, Any]) -> None:
        for key, value in settings.items():
            setattr(self, key, value)

    def _checked_state(self, state_dict: Dict[str, Any]) -> Dict[str, Any]:
        if state_dict.get("version") != STATE_VERSION:
            raise ConfigurationError(
                "this is not the state of a moving average that can be read here: its version is "
                f"{state_dict.get('version')!r}, not {STATE_VERSION}"
            )
        if state_dict.get("type") != self._type:
            raise ConfigurationError(
                f'the state is that of a moving average of type "{state_dict.get("type")}", which '
                f'one of type "{self._type}" cannot continue'
            )
        _check_entries("state", state_dict, self.state_dict())
        return state_dict

    def _prepared_load_of_allennlp_state(self, state_dict: Dict[str, Any]) -> Callable[[], None]:
        if not self.continues_allennlp_state:
            raise ConfigurationError(
                "the state is that of AllenNLP's own exponential average, which one of type "
                f'"{self._type}" cannot continue'
            )
        averages = self._matched("shadows", self._without_left_out(state_dict["shadows"]))
        saved = self._matched("parameters", self._without_left_out(dict(state_dict["parameters"])))
        raw = dict(self.named_raw_values())
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
                self._shadow_weights.load(raw)
                self._set_counts(AveragingCounts())
            else:
                self._shadow_weights.load(averages)
                # They come from samples: `zero_debias` must not take them for an initial value.
                self._set_counts(AveragingCounts(sampled_share=1.0))

        return load

    def _without_left_out(self, values: Dict[str, Tensor]) -> Dict[str, Tensor]:
        averaged = {_without_prefixes(name) for name in self._shadow_weights.names}
        left_out = {_without_prefixes(name) for name in self._all_names} - averaged
        return {n: value for n, value in values.items() if _without_prefixes(n) not in left_out}

    def _matched(self, what: str, values: Dict[str, Tensor]) -> Dict[str, Tensor]:
        """`values` under the names that they have here, each checked."""
        expected = self._shadow_weights.values()
        here = {_without_prefixes(name): name for name in expected}
        there = {_without_prefixes(name): name for name in values}
        if len(here) != len(expected) or len(there) != len(values):
            here, there = {name: name for name in expected}, {name: name for name in values}
        for name in here:
            if name not in there:
                raise ConfigurationError(f'the state\'s "{what}" has no entry for "{here[name]}"')
        for name in there:
            if name not in here:
                raise ConfigurationError(
                    f'the state\'s "{what}" has an entry "{there[name]}", which is not averaged '
                    "here"
                )
        matched = {here[name]: values[there[name]] for name in here}
        for name, value in matched.items():
            if not isinstance(value, Tensor):
                raise ConfigurationError(
                    f'the state\'s "{what}" has a {type(value).__name__} for "{name}", but has to '
                    "have a tensor"
                )
            if value.shape != expected[name].shape:
                raise ConfigurationError(
                    f'the state\'s "{what}" has shape {tuple(value.shape)} for "{name}", whose '
                    f"shape is {tuple(expected[name].shape)}"
                )
        return matched

    def _changeable_settings(self) -> Dict[str, Any]:
        """What may be changed between two updates, by attribute, and so belongs to the state."""
        return {}

    @property
    def _type(self) -> str:
        return registered_name(self, AllenNLPMovingAverage)

    def _to_params(self) -> Dict[str, Any]:
        arguments = constructor_arguments(self)
        arguments.pop("parameters", None)
        return {"type": self._type, **arguments}

    def _memory_in_words(self) -> str:
        shadow_weights = self._shadow_weights
        dtypes = sorted({str(s.dtype).replace("torch.", "") for s in shadow_weights.shadows})
        return (
            f"{len(shadow_weights.shadows):,} parameters with {shadow_weights.num_values:,} "
            f"values, {in_bytes(shadow_weights.num_bytes)} of {' and '.join(dtypes)}"
        )

    def _weighting_in_words(self) -> str:
        keys_of_every_average = infer_constructor_params(MovingAverage)
        return ", ".join(
            [f'"{self._type}"']
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


def in_bytes(num_bytes: int) -> str:
    """`num_bytes` for people to read."""
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {unit}"
    return f"{num_bytes} bytes"


def _checked_names(parameters: Iterable[NamedParameter]) -> List[NamedParameter]:
    checked: Dict[str, Tensor] = {}
    for name, parameter in parameters:
        if name in checked:
            raise ConfigurationError(f'"parameters" has two parameters of the name "{name}"')
        checked[name] = parameter
    if not checked:
        raise ConfigurationError('"parameters" is empty: there is nothing to average')
    return list(checked.items())


def _check_dtypes(parameters: Iterable[NamedParameter]) -> None:
    for name, parameter in parameters:
        if not parameter.is_floating_point():
            raise ConfigurationError(
                f'the parameter "{name}" is of dtype {parameter.dtype}, but only floating dtypes '
                'can be averaged: name it in "exclude"'
            )


def _selected(
    parameters: Sequence[NamedParameter],
    include: Optional[List[str]],
    exclude: Optional[List[str]],
) -> List[NamedParameter]:
    for key, regexes in (("include", include), ("exclude", exclude)):
        if isinstance(regexes, str):
            raise ConfigurationError(f'"{key}" is {regexes!r}, but has to be a list: [{regexes!r}]')
        for regex in regexes or []:
            try:
                matches = any(_is_named_by([regex], name) for name, _ in parameters)
            except (re.error, TypeError) as error:
                raise ConfigurationError(
                    f'"{key}" has {regex!r}, which is not a regular expression: {error}'
                ) from None
            if not matches:
                logger.warning('"%s" has %r, which matches no parameter', key, regex)
    selected = [
        (name, parameter)
        for name, parameter in parameters
        if (include is None or _is_named_by(include, name))
        and not _is_named_by(exclude or [], name)
    ]
    if not selected:
        names = ", ".join(name for name, _ in parameters[:10])
        raise ConfigurationError(
            f'"include" is {include!r} and "exclude" is {exclude!r}, which leaves no parameter to '
            f"average; there are {names}" + (", ..." if len(parameters) > 10 else "")
        )
    return selected


def _is_named_by(regexes: Sequence[str], name: str) -> bool:
    # One configuration serves a run on one process and on several, where names have a prefix.
    names = (name, _without_prefixes(name))
    return any(re.search(regex, each) for regex in regexes for each in names)


def _check_entries(what: str, given: Dict[str, Any], expected: Dict[str, Any]) -> None:
    for key in expected:
        if key not in given:
            raise ConfigurationError(f'the {what} of the average has no "{key}"')
    for key in given:
        if key not in expected:
            raise ConfigurationError(
                f'the {what} of the average has "{key}", but only {", ".join(expected)} are known'
            )


def _without_prefixes(name: str) -> str:
    parts = [part for part in name.split(".") if part != "_orig_mod"]
    while len(parts) > 1 and parts[0] == "module":
        parts.pop(0)
    return ".".join(parts)
