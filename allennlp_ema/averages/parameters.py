"""
Selects the parameters to average, and compares their names.
"""

import logging
import re
from typing import Iterable, List, Optional, Sequence, Tuple

from allennlp.common.checks import ConfigurationError
from torch import Tensor

from allennlp_ema.common.checks import matching_names
from allennlp_ema.common.nearest_names import did_you_mean
from allennlp_ema.shadow_weights.sharded import obstacle

logger = logging.getLogger(__name__)

NamedParameter = Tuple[str, Tensor]


def checked_names(parameters: Iterable[NamedParameter]) -> List[NamedParameter]:
    """
    # Raises

    `ConfigurationError` : if there are no parameters, if two have the same name, or if they are
        given without their names.
    """
    checked = {}
    for pair in parameters:
        if not isinstance(pair, (tuple, list)):
            raise ConfigurationError(
                f'"parameters" has a {type(pair).__name__}, but has to have pairs of a name and a '
                "tensor, as model.named_parameters() gives them"
            )
        name, parameter = pair
        if name in checked:
            raise ConfigurationError(f'"parameters" has two parameters of the name "{name}"')
        checked[name] = parameter
    if not checked:
        raise ConfigurationError('"parameters" is empty: there is nothing to average')
    return list(checked.items())


def check_averageable(parameters: Sequence[NamedParameter]) -> None:
    """
    # Raises

    `ConfigurationError` : naming the first parameter that cannot be averaged, and the reason.
    """
    reason = obstacle(parameters)
    if reason is not None:
        raise ConfigurationError(reason)


def selected(
    parameters: Sequence[NamedParameter],
    include: Optional[List[str]],
    exclude: Optional[List[str]],
) -> List[NamedParameter]:
    """
    # Returns

    parameters : `List[Tuple[str, Tensor]]`
        The parameters whose name matches one of `include` (`re.search`) and none of `exclude`.

    # Raises

    `ConfigurationError` : if one is not a regular expression, or if no parameter is left.
    """
    names = [each for name, _ in parameters for each in (name, without_prefixes(name))]
    for key, regexes in (("include", include), ("exclude", exclude)):
        if isinstance(regexes, str):
            raise ConfigurationError(f'"{key}" is {regexes!r}, but has to be a list: [{regexes!r}]')
        for regex in regexes or []:
            if not matching_names(key, regex, names):
                logger.warning(
                    '"%s" has %r, which matches no parameter%s',
                    key,
                    regex,
                    did_you_mean(regex, _names_and_parts(parameters)),
                )
    chosen = [
        (name, parameter)
        for name, parameter in parameters
        if (include is None or _matches_any(include, name))
        and not _matches_any(exclude or [], name)
    ]
    if not chosen:
        first_names = ", ".join(name for name, _ in parameters[:10])
        meant = did_you_mean((include or [""])[0], _names_and_parts(parameters))
        raise ConfigurationError(
            f'"include" is {include!r} and "exclude" is {exclude!r}, which leaves no parameter to '
            f"average; there are {first_names}{', ...' if len(parameters) > 10 else ''}{meant}"
        )
    return chosen


def without_prefixes(name: str) -> str:
    """`name` without the prefixes that `DistributedDataParallel` and `torch.compile` add."""
    parts = [part for part in name.split(".") if part != "_orig_mod"]
    while len(parts) > 1 and parts[0] == "module":
        parts.pop(0)
    return ".".join(parts)


def _names_and_parts(parameters: Sequence[NamedParameter]) -> List[str]:
    return [part for name, _ in parameters for part in (name, *name.split("."))]


def _matches_any(regexes: Sequence[str], name: str) -> bool:
    # Distributed training adds prefixes to names, and the configuration should work there too.
    names = (name, without_prefixes(name))
    return any(re.search(regex, each) for regex in regexes for each in names)
