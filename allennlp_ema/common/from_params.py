"""
Objects from `Params` and back: errors that say what is wrong, and `to_params()`.
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

    AllenNLP's own errors do not, in five cases. For an argument of several possible types they say
    only that none fits. For a value of the wrong type they do not name the value. A misspelt key
    causes a `TypeError` if the class passes `**kwargs` on to its base class. A string instead of a
    list becomes the list of its letters. An object within another one is not located.
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
            # A class with a registry only selects the subclass, which checks the arguments itself.
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

    `ConfigurationError` : if `given` is neither an object nor the name of a type, or if its
        type is neither registered for `cls` nor the path of a class.
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


# How AllenNLP's errors begin if no type of a union fits, and if one of its types does not.
_UNION_ERRORS = ("Failed to construct argument ", "Expected ")


class _Placed(NamedTuple):
    """The message of an error, and the place in the configuration that it is about."""

    message: str
    place: str


def _explained(error: ConfigurationError, place: str) -> ConfigurationError:
    """
    `error` with the place of the object that it is about, relative to `place`. It is `error` itself
    if that is the object at `place`. For a union AllenNLP's message says only which types it tried,
    so the messages of the causes are used instead.
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
    # An error from elsewhere keeps its traceback. To set a cause, even `None`, hides the context.
    explained.__cause__ = error if known is None else None
    return explained


def _chain(error: BaseException) -> Iterator[BaseException]:
    cause: Optional[BaseException] = error
    while cause is not None:
        yield cause
        cause = cause.__cause__


def _message(error: BaseException) -> str:
    # For each type of a union AllenNLP puts a line of its own before the error's arguments.
    if isinstance(error, ConfigurationError):
        return error.message
    return str(error.args[-1]) if error.args else type(error).__name__


# Arguments that the trainer or `allennlp train` gives, so a configuration does not hold them.
_GIVEN_BY_TRAINER = (
    *("parameters", "model_parameters", "serialization_dir"),
    *("local_rank", "world_size", "cuda_device"),
)


def constructor_arguments(instance: Any) -> Dict[str, Any]:
    """
    The constructor arguments of `instance` that a configuration has to hold, because they differ
    from their defaults. They are read from the attributes of the same name, or with an underscore
    before it, as AllenNLP's own `to_params` does.
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
    qualified name, which AllenNLP also takes as a `"type"`.
    """
    cls = type(instance)
    for name, (registered, _) in Registrable._registry[base].items():
        if registered is cls:
            return name
    return f"{cls.__module__}.{cls.__qualname__}"
