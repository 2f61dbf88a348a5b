"""
From `Params` to an object and back: errors that say what was wrong, and `to_params()`.
"""

from typing import Any, Callable, Dict, Iterator, Mapping, NamedTuple, Optional, Type, TypeVar

from allennlp.common import FromParams, Params, Registrable
from allennlp.common.checks import ConfigurationError
from allennlp.common.from_params import infer_constructor_params

from allennlp_ema.common.json_values import in_words, is_class_name, misfit
from allennlp_ema.common.nearest_names import did_you_mean

T = TypeVar("T", bound="ExplainedFromParams")


class ExplainedFromParams(FromParams):
    """
    A `FromParams` whose errors name the key, the value and what is allowed.

    AllenNLP's own do not in five cases: for an argument that may be of several types it says only
    that none fits, for a value of the wrong type it does not say which value, for a class that
    passes `**kwargs` on to its base class it lets a misspelt key through to Python, a string in the
    place of a list it takes for the list of its letters, and of an object within another it does
    not say where it stands.
    """

    @classmethod
    def from_params(
        cls: Type[T],
        params: Params,
        constructor_to_call: Optional[Callable[..., T]] = None,
        constructor_to_inspect: Optional[Callable[..., Any]] = None,
        **extras: Any,
    ) -> T:
        place = params.history if isinstance(params, Params) else ""
        try:
            # A class with a registry only picks the one of its subclasses that is constructed.
            if constructor_to_call is None and Registrable._registry.get(cls) is not None:
                check_type(cls, params)
            elif (constructor_to_inspect or cls.__init__) is cls.__init__:
                _check_arguments(cls, params, extras)
            return super().from_params(
                params=params,
                constructor_to_call=constructor_to_call,  # type: ignore[arg-type]
                constructor_to_inspect=constructor_to_inspect,  # type: ignore[arg-type]
                **extras,
            )
        except ConfigurationError as error:
            explained = _explained(error, place)
            if explained is error:
                raise
            raise explained from explained.__cause__

    def _to_params(self) -> Dict[str, Any]:
        base = next(cls for cls in type(self).__mro__ if cls in Registrable._registry)
        return {"type": registered_name(self, base), **constructor_arguments(self)}


def check_type(cls: Any, given: Any) -> None:
    """
    # Raises

    `ConfigurationError` : if `given` is neither an object nor a type alone, or if its type is
        neither registered for `cls` nor the path of a class.
    """
    if not isinstance(given, (str, Mapping)):
        raise ConfigurationError(f"{given!r} is given, but it has to be {in_words(cls)}")
    name = given if isinstance(given, str) else given.get("type", cls.default_implementation)
    if not is_class_name(cls, name):
        known = cls.list_available()
        is_what = "is missing" if name is None else f"is {name!r}"
        raise ConfigurationError(
            f'"type" {is_what}, but has to be one of {", ".join(map(repr, known))}, or a class '
            f"of yours: --include-package loads it{did_you_mean(name, known)}"
        )


def _check_arguments(cls: Type[FromParams], given: Any, extras: Dict[str, Any]) -> None:
    known = {
        key: parameter
        for key, parameter in infer_constructor_params(cls).items()
        if key != "self" and parameter.kind != parameter.VAR_KEYWORD
    }
    for key, value in given.params.items() if isinstance(given, Params) else ():
        if key not in known:
            allowed = sorted(set(known) - set(extras))
            raise ConfigurationError(
                f'unknown key "{key}" for {cls.__name__}; its keys are {", ".join(allowed)}'
                f"{did_you_mean(key, allowed)}"
            )
        if value is None and known[key].default is None:
            continue
        found = misfit(key, value, known[key].annotation)
        if found is not None:
            raise ConfigurationError(str(found))


# How AllenNLP begins where none of several types fits, and where one of them does not.
_UNION_ERRORS = ("Failed to construct argument ", "Expected ")


class _Placed(NamedTuple):
    """What an error says, and of which place in the configuration."""

    message: str
    place: str


def _explained(error: ConfigurationError, place: str) -> ConfigurationError:
    """
    An error that says where, seen from `place`, the object stands that it is about; `error` itself
    if it is about the object at `place`. Of an argument that may be of several types AllenNLP says
    which ones it tried; what is wrong is found among the causes then.
    """
    chain = list(_chain(error))
    known = next((each.placed for each in chain if hasattr(each, "placed")), None)
    messages = list(map(_message, chain))
    if known is None and error.message.startswith(_UNION_ERRORS[0]):
        reasons = [each for each in messages if not each.startswith(_UNION_ERRORS)]
        error.placed = _Placed("; ".join(reasons or messages), place)  # type: ignore[attr-defined]
    else:
        error.placed = known or _Placed(error.message, place)  # type: ignore[attr-defined]
    message, known_place = error.placed  # type: ignore[attr-defined]
    if known_place.startswith(place) and known_place != place:
        message = f'"{known_place[len(place) :].strip(".")}": {message}'
    if message == error.message:
        return error
    explained = ConfigurationError(message)
    explained.placed = error.placed  # type: ignore[attr-defined]
    # What no class of this package has said is worth its traceback. It also hides the context.
    explained.__cause__ = error if known is None else None
    return explained


def _chain(error: BaseException) -> Iterator[BaseException]:
    cause: Optional[BaseException] = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _message(error: BaseException) -> str:
    # While it tries the types of a union, AllenNLP puts a line of its own before the cause.
    if isinstance(error, ConfigurationError):
        return error.message
    return str(error.args[-1]) if error.args else type(error).__name__


# What the trainer or `allennlp train` gives, and a configuration does not have.
_GIVEN_BY_TRAINER = (
    *("parameters", "model_parameters", "serialization_dir"),
    *("local_rank", "world_size", "cuda_device"),
)


def constructor_arguments(instance: Any) -> Dict[str, Any]:
    """
    The configured constructor arguments of `instance` that differ from their defaults, read from
    the attributes of the same name (or with an underscore before it), which is where AllenNLP's own
    `to_params` looks.
    """
    arguments = {}
    for key, parameter in infer_constructor_params(type(instance)).items():
        value = getattr(instance, key, getattr(instance, "_" + key, parameter.default))
        if parameter.kind == parameter.VAR_KEYWORD or value is parameter.empty:
            continue
        if key in _GIVEN_BY_TRAINER:
            continue
        if value != parameter.default:
            arguments[key] = value
    return arguments


def registered_name(instance: Any, base: Type[Registrable]) -> str:
    """
    The first name under which the class of `instance` is registered on `base`, or else its fully
    qualified name, which AllenNLP takes as a `"type"` as well.
    """
    cls = type(instance)
    for name, (registered, _) in Registrable._registry[base].items():
        if registered is cls:
            return name
    return f"{cls.__module__}.{cls.__qualname__}"
