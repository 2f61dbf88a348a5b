"""
Checks the names in data before `FromParams` uses them, because it imports any `"type"` with a dot.
"""

import sys
from typing import Any, Dict, Optional, Union

from allennlp.common import Lazy, Registrable
from allennlp.common.checks import ConfigurationError
from allennlp.common.from_params import infer_constructor_params


def check_names(base: type, given: Any) -> None:
    """
    Checks everything that `base.from_params` would call for `given`, at every depth. It has to be
    registered for the expected class, or to be a subclass of that class in a module that is already
    loaded. A name without a dot is left to AllenNLP, which accepts only registered names and
    reports others.

    # Parameters

    base : `type`
    given : `Any`
        The configuration, in plain JSON values.

    # Raises

    `ConfigurationError` : if anything else would be called. Nothing is called or imported.
    """
    if isinstance(given, str):
        given = {"type": given}
    if not isinstance(given, dict):
        return
    name = given.get("type", getattr(base, "default_implementation", None) or "")
    if not isinstance(name, str):
        raise ConfigurationError(
            f'"type" is {name!r:.60}, but has to be the name of a {base.__name__}'
        )
    registered = Registrable._registry.get(base)
    if registered is not None and name in registered:
        _check_arguments(*registered[name], given)
    elif "." in name:
        _check_arguments(_loaded_class(base, name), None, given)
    elif registered is None:
        _check_arguments(base, None, given)


def _check_arguments(cls: type, constructor: Optional[str], given: Dict[str, Any]) -> None:
    parameters = infer_constructor_params(cls, getattr(cls, constructor or "__init__"))
    for key, value in given.items():
        if isinstance(value, dict) and "_pretrained" in value:
            raise ConfigurationError(f'"{key}" has "_pretrained", which would load another archive')
        if key in parameters and key != "type":
            _check_argument(parameters[key].annotation, value)


def _check_argument(annotation: Any, value: Any) -> None:
    """Checks `value` against an annotation, which may contain classes in unions and containers."""
    origin = getattr(annotation, "__origin__", None)
    if origin is Union or origin is Lazy:
        for each in annotation.__args__:
            _check_argument(each, value)
    elif hasattr(annotation, "from_params"):
        check_names(origin or annotation, value)
    elif origin is tuple and isinstance(value, list):
        for each, element in zip(annotation.__args__, value):
            _check_argument(each, element)
    elif origin is not None and isinstance(value, (dict, list)):
        for element in value.values() if isinstance(value, dict) else value:
            for each in getattr(annotation, "__args__", ()):
                _check_argument(each, element)


def _loaded_class(base: type, name: str) -> type:
    module, _, last = name.rpartition(".")
    loaded = sys.modules.get(module)
    if loaded is None:
        raise ConfigurationError(
            f'"type" is {name!r}, which is not registered, and nothing is imported because a file '
            f"names it: if it is a {base.__name__} of yours, load its package with "
            f"--include-package {module}"
        )
    # Not `getattr`, because a module may import something in its `__getattr__`.
    found = getattr(loaded, "__dict__", {}).get(last)
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ConfigurationError(
            f'"type" is {name!r}, which is not a {base.__name__}, and nothing else is called here'
        )
    return found
