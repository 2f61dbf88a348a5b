"""
Reading what `torch.save` wrote, by name where it cannot be read.
"""

import pickle
from pathlib import Path
from typing import Any, Dict

import torch
from allennlp.common.checks import ConfigurationError


def load_dictionary(path: Path) -> Dict[str, Any]:
    """
    # Returns

    loaded : `Dict[str, Any]`
        A state dictionary, on the CPU.

    # Raises

    `ConfigurationError` : that names the file, if it is missing, truncated or holds something else.
    """
    if not path.is_file():
        raise ConfigurationError(f"{path}: there is no such file")
    try:
        loaded = torch.load(str(path), map_location="cpu")
    except (OSError, RuntimeError, EOFError, KeyError, ValueError, pickle.UnpicklingError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ConfigurationError(
            f"{path} is truncated or not a file of PyTorch: {reason[0]}"
        ) from error
    if not isinstance(loaded, dict):
        raise ConfigurationError(f"{path} holds a {type(loaded).__name__}, not a dictionary")
    return loaded
