"""
Checks of configuration values against type annotations, and annotations in words.
"""

import json
from pathlib import Path
from typing import Any, List, Mapping, NamedTuple, Optional, Union

from allennlp.common import Lazy, Registrable

from allennlp_ema.common.nearest_names import did_you_mean

_IN_WORDS = {bool: "true or false", float: "a number", int: "an integer", str: "a string"}
_LISTS_IN_WORDS = {
    float: "a list of numbers",
    int: "a list of integers",
    str: "a list of strings",
}


class Misfit(NamedTuple):
    """
    # Parameters

    key : `str`
        The key, with dots if it is nested.
    value : `Any`
        The value under that key.
    annotation : `Any`
        The annotation that it does not fit.
    """

    key: str
    value: Any
    annotation: Any

    def __str__(self) -> str:
        message = (
            f'"{self.key}" is {written(self.value)}, but has to be {in_words(self.annotation)}'
        )
        if not isinstance(self.value, str):
            return message
        annotations = alternatives(self.annotation)
        if any(_origin(each) is list for each in annotations):
            return f"{message}: [{self.value!r}]"
        names = [name for each in annotations for name in Registrable._registry.get(each, ())]
        return message + did_you_mean(self.value, names)


def misfit(key: str, value: Any, annotation: Any) -> Optional[Misfit]:
    """
    # Returns

    misfit : `Optional[Misfit]`
        The first value that does not fit: `value`, or one within it. `None` if all of it fits. An
        object always fits a class with `from_params`, because the class checks it.
    """
    annotations = alternatives(annotation)
    if any(_fits(value, each) for each in annotations):
        return None
    for each in annotations:
        if _origin(each) is dict and isinstance(value, Mapping) and value:
            inner = (misfit(f"{key}.{k}", v, _element(each)) for k, v in value.items())
            return next(found for found in inner if found is not None)
    return Misfit(key, value, annotation)


def alternatives(annotation: Any) -> List[Any]:
    """Each type that `annotation` allows."""
    if _origin(annotation) is Union:
        return [inner for each in annotation.__args__ for inner in alternatives(each)]
    return alternatives(annotation.__args__[0]) if _origin(annotation) is Lazy else [annotation]


def written(value: Any) -> str:
    """`value` as messages show it: null, true and false as in a configuration."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    return repr(value)


def in_words(annotation: Any) -> str:
    """The values that `annotation` allows, in words."""
    annotations = [each for each in alternatives(annotation) if each is not type(None)]
    numbers = [each.number_in_words for each in annotations if hasattr(each, "number_in_words")]
    words = []
    for each in annotations:
        if numbers and each in (int, float):
            words.append(numbers[0])
        elif _origin(each) is list:
            words.append(_LISTS_IN_WORDS.get(_element(each), "a list"))
        elif _origin(each) is dict:
            words.append(f"an object in which each value is {in_words(_element(each))}")
        elif hasattr(each, "from_params"):
            words.append(getattr(each, "in_words", 'an object: {"type": ...}'))
        else:
            words.append(_IN_WORDS.get(each, f"a {getattr(each, '__name__', each)}"))
    return " or ".join(words)


def is_class_name(cls: type, name: Any) -> bool:
    """Whether `"type": name` may be a `cls`: a registered name, or the path of a class."""
    return isinstance(name, str) and (
        name in Registrable._registry.get(cls, ())
        or ("." in name and all(part.isidentifier() for part in name.split(".")))
    )


def _fits(value: Any, annotation: Any) -> bool:
    if hasattr(annotation, "from_params"):
        return isinstance(value, Mapping) or is_class_name(annotation, value)
    if _origin(annotation) in (list, dict):
        return _all_fit(value, annotation)
    if annotation in (int, float):
        return isinstance(value, (int, annotation)) and not isinstance(value, bool)
    if annotation is bool:
        # AllenNLP takes 0 and 1, too.
        return isinstance(value, int) and value in (0, 1)
    if annotation is str:
        return isinstance(value, (str, Path))
    # Values of other types are not checked.
    return value is None if annotation is type(None) else True


def _all_fit(value: Any, annotation: Any) -> bool:
    if not isinstance(value, Mapping if _origin(annotation) is dict else list):
        return False
    elements = value.values() if isinstance(value, Mapping) else value
    allowed = alternatives(_element(annotation))
    return all(any(_fits(element, each) for each in allowed) for element in elements)


def _element(annotation: Any) -> Any:
    """The annotation of the elements of a list or the values of an object."""
    return (getattr(annotation, "__args__", None) or (Any,))[-1]


def _origin(annotation: Any) -> Any:
    return getattr(annotation, "__origin__", None)
