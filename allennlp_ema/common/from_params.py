"""
From `Params` to an object and back: errors that say what was wrong, and `to_params()`.
"""

import copy
from typing import Any, Callable, Dict, List, Optional, Type, TypeVar

from allennlp.common import FromParams, Params, Registrable
from allennlp.common.checks import ConfigurationError
from allennlp.common.from_params import infer_constructor_params, remove_optional

T = TypeVar("T", bound="ExplainedFromParams")


class ExplainedFromParams(FromParams):
    """
    A `FromParams` whose errors name the key, the value and what is allowed.

    AllenNLP's own do not in four cases: for an argument that may be of several types it says only
    that none fits, for a value of the wrong type it does not say which value, for a class that
    passes `**kwargs` on to its base class it lets a misspelt key through to Python, and a string in
    the place of a list it takes for the list of its letters.
    """

    @classmethod
    def from_params(
        cls: Type[T],
        params: Params,
        constructor_to_call: Optional[Callable[..., T]] = None,
        constructor_to_inspect: Optional[Callable[..., Any]] = None,
        **extras: Any,
    ) -> T:
        given = copy.deepcopy(params.params) if isinstance(params, Params) else params
        # A class with a registry only picks the one of its subclasses that is to be constructed.
        is_constructed = constructor_to_call is not None or Registrable._registry.get(cls) is None
        inspected = constructor_to_inspect or cls.__init__
        if is_constructed and inspected is cls.__init__ and isinstance(given, dict):
            _check_keys(cls, given, extras)
        try:
            return super().from_params(
                params=params,
                constructor_to_call=constructor_to_call,  # type: ignore[arg-type]
                constructor_to_inspect=constructor_to_inspect,  # type: ignore[arg-type]
                **extras,
            )
        except (ConfigurationError, TypeError) as error:
            causes = _causes(error)
            is_wrong_type = isinstance(error, TypeError) and causes[0].startswith("Expected ")
            if not is_wrong_type and len(causes) == 1:
                raise
            raise ConfigurationError(
                f"{cls.__name__} cannot be built from {given}: {'; '.join(causes)}"
            ) from error

    def _to_params(self) -> Dict[str, Any]:
        base = next(cls for cls in type(self).__mro__ if cls in Registrable._registry)
        return {"type": registered_name(self, base), **constructor_arguments(self)}


def _check_keys(cls: Type[FromParams], given: Dict[str, Any], extras: Dict[str, Any]) -> None:
    known = {
        key: parameter
        for key, parameter in infer_constructor_params(cls).items()
        if key != "self" and parameter.kind != parameter.VAR_KEYWORD
    }
    for key, value in given.items():
        if key not in known:
            allowed = ", ".join(sorted(set(known) - set(extras)))
            raise ConfigurationError(
                f'unknown key "{key}" for {cls.__name__}; its keys are {allowed}'
            )
        annotation = remove_optional(known[key].annotation)
        if isinstance(value, str) and getattr(annotation, "__origin__", None) in (list, List):
            raise ConfigurationError(f'"{key}" is {value!r}, but has to be a list: [{value!r}]')


def _causes(error: BaseException) -> List[str]:
    causes: List[str] = []
    next_error: Optional[BaseException] = error
    while next_error is not None:
        if isinstance(next_error, ConfigurationError):
            causes.append(next_error.message)
        elif next_error.args:
            # While it tries the types of a union, AllenNLP puts a line of its own before the cause.
            causes.append(str(next_error.args[-1]))
        next_error = next_error.__cause__
    return causes


# What the trainer gives, and a configuration does not have.
_GIVEN_BY_TRAINER = ("parameters", "model_parameters", "serialization_dir")


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
