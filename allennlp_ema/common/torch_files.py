"""
Reading what `torch.save` wrote, by name where it cannot be read.
"""

import re
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
    except Exception as error:
        # What torch.load raises depends on where in a file it first meets what it does not know.
        raise ConfigurationError(f"{path} {_in_words(error)}") from error
    if not isinstance(loaded, dict):
        raise ConfigurationError(f"{path} holds a {type(loaded).__name__}, not a dictionary")
    return loaded


def _in_words(error: Exception) -> str:
    """What is wrong with a file, by what torch.load raised."""
    # Since torch 2.6 this is wrapped in advice to load the file unsafely, whatever is in it.
    found = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).rpartition("WeightsUnpickler error:")[2]
    not_taken = re.search(r"GLOBAL (\S+) (was not an allowed global|whose module)", found)
    if not_taken is not None:
        return f"holds objects that torch.load does not take, of type {not_taken[1]}"
    reasons = [
        line.replace("Weights only load failed.", "").strip()
        for line in found.splitlines()
        # Of a code of the pickle that it does not know it says the number alone.
        if "weights_only" not in line and re.search("[A-Za-z]", line)
    ]
    reason = next(filter(None, reasons), type(error).__name__)
    return f"is truncated or not a file of PyTorch: {reason}"
