"""
Reads files of `torch.save` as data: only tensors and plain containers are allowed in them.
"""

import pickle
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any, Dict

import numpy
import torch
from allennlp.common.checks import ConfigurationError
from torch.torch_version import TorchVersion


def load_dictionary(path: Path, is_mapped: bool = False) -> Dict[str, Any]:
    """
    # Parameters

    path : `Path`
    is_mapped : `bool`, optional (default = `False`)
        Whether tensors stay on the disk until their values are asked for, where torch can do that.

    # Returns

    loaded : `Dict[str, Any]`
        A state dictionary, on the CPU. Nothing in the file is called.

    # Raises

    `ConfigurationError` : that names the file, if it is missing, truncated or holds something else.
    """
    if not path.is_file():
        raise ConfigurationError(f"{path}: there is no such file")
    try:
        _refuse_programs(path)
        # What torch has to say of a file that it cannot read is in the error, too.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            can_map = "weights_only" in _TENSORS_ONLY and zipfile.is_zipfile(str(path))
            mapped = {"mmap": True} if is_mapped and can_map else {}
            loaded = torch.load(str(path), map_location="cpu", **_TENSORS_ONLY, **mapped)
    except Exception as error:
        # What torch.load raises depends on where in a file it first meets what it does not know.
        raise ConfigurationError(f"{path} {_in_words(error)}") from error
    if not isinstance(loaded, dict):
        raise ConfigurationError(f"{path} holds a {type(loaded).__name__}, not a dictionary")
    for key in loaded:
        if not isinstance(key, str):
            raise ConfigurationError(f"{path} holds the key {key!r:.60}, which is not a name")
    return loaded


def _refuse_programs(path: Path) -> None:
    # Which torch.load hands to torch.jit.load, whatever it is told to take.
    if zipfile.is_zipfile(str(path)):
        with zipfile.ZipFile(str(path)) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                raise pickle.UnpicklingError(
                    "GLOBAL torch.jit.ScriptModule was not an allowed global"
                )


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


def _encoded(text: str, encoding: str) -> bytes:
    # How the second protocol of pickle writes bytes. Python's own looks for a module of that name.
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes are written in latin1, not in {encoding!r}")
    return text.encode("latin1")


_TAKEN_BEFORE_TORCH_2_6 = {
    **{("_codecs", "encode"): _encoded, ("numpy", "dtype"): numpy.dtype},
    # The learning rates of AllenNLP's cosine schedule, as numpy 1 and numpy 2 write them.
    **{
        (f"numpy.{core}.multiarray", "scalar"): numpy.float64(0).__reduce__()[0]
        for core in ("core", "_core")
    },
    **{
        (module, taken.__name__): taken
        for module in ("builtins", "__builtin__")
        for taken in (bytearray, complex, frozenset, set)
    },
}
_TAKEN_NAMES_BEFORE_TORCH_2_6 = {
    "collections": ("Counter", "OrderedDict"),
    "torch": ("Size", "Tensor", "device"),
    "torch._utils": (
        "_rebuild_parameter",
        "_rebuild_qtensor",
        "_rebuild_sparse_tensor",
        "_rebuild_tensor",
        "_rebuild_tensor_v2",
    ),
    "torch.nn.parameter": ("Parameter",),
    "torch.serialization": ("_get_layout",),
}


class _TensorsAlone(pickle.Unpickler):
    """What `weights_only=True` is from torch 2.6 on; before, that takes too much and too little."""

    def find_class(self, module: str, name: str) -> Any:
        taken = _TAKEN_BEFORE_TORCH_2_6.get((module, name))
        if taken is not None:
            return taken
        found = None
        if name in _TAKEN_NAMES_BEFORE_TORCH_2_6.get(module, ()):
            found = super().find_class(module, name)
        elif module in ("torch", "torch.cuda", "torch.storage"):
            found = getattr(torch, name, None)
            if not isinstance(found, (torch.dtype, torch.qscheme)) and not (
                isinstance(found, type) and name.endswith("Storage")
            ):
                found = None
        if found is None:
            # In the words of later versions.
            raise pickle.UnpicklingError(f"GLOBAL {module}.{name} was not an allowed global")
        return found


class _PickleOfTensors:
    """In the place of the module `pickle`, for `torch.load`."""

    Unpickler = _TensorsAlone

    @staticmethod
    def load(file: Any, **how: Any) -> Any:
        return _TensorsAlone(file, **how).load()


_TENSORS_ONLY: Dict[str, Any] = (
    {"weights_only": True}
    if TorchVersion(torch.__version__) >= "2.6"
    else {"pickle_module": _PickleOfTensors}
)
