"""
The units of a sharded model: modules whose parameters are gathered together.
"""

import logging
from typing import Dict, List, Optional

import torch
from allennlp.common.checks import ConfigurationError
from torch import Tensor

from allennlp_ema.common.checks import matching_names

logger = logging.getLogger(__name__)

# Modules that compute nothing.
_CONTAINERS = (torch.nn.ModuleList, torch.nn.ModuleDict, torch.nn.ParameterList)


def units_of(model: torch.nn.Module, regexes: Optional[List[str]]) -> List[torch.nn.Module]:
    """
    The modules with parameters in whose names one of `regexes` is found, outer ones before inner
    ones. `None` means the modules of lists of layers. A module that shares a parameter with another
    one outside of it is left out. A unit around both gathers that parameter.

    # Raises

    `ConfigurationError` : if one of `regexes` is not valid, or matches no module.
    """
    candidates = {
        name: module
        for name, module in model.named_modules()
        if name and not isinstance(module, _CONTAINERS) and any(True for _ in module.parameters())
    }
    if regexes is None:
        layers = {
            child
            for module in model.modules()
            if isinstance(module, torch.nn.ModuleList)
            for child in module.children()
        }
        chosen = {name: module for name, module in candidates.items() if module in layers}
    else:
        names = {name for regex in regexes for name in _matched(regex, list(candidates))}
        chosen = {name: module for name, module in candidates.items() if name in names}
    owners: Dict[Tensor, List[torch.nn.Module]] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(parameter, []).append(module)
    units = []
    for name, module in chosen.items():
        inside = set(module.modules())
        if all(inside.issuperset(owners[parameter]) for parameter in module.parameters()):
            units.append(module)
        else:
            logger.warning('"%s" shares a parameter, so it cannot be a unit of its own', name)
    return units


def _matched(regex: str, names: List[str]) -> List[str]:
    matched = matching_names("wrap", regex, names)
    if not matched:
        raise ConfigurationError(
            f'"wrap" has {regex!r}, which matches no module of the model; its modules are '
            + ", ".join(names[:10])
            + (", ..." if len(names) > 10 else "")
        )
    return matched
