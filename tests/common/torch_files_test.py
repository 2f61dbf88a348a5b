import inspect
import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from allennlp.common.checks import ConfigurationError

from allennlp_ema.common import torch_files
from allennlp_ema.common.torch_files import load_dictionary
from tests.support.training_runs import differences

pytestmark = pytest.mark.everywhere


def test_a_dictionary_comes_back(tmp_path):
    state = {"weight": torch.arange(3.0), "count": 7}
    torch.save(state, str(tmp_path / "state.th"))
    loaded = load_dictionary(tmp_path / "state.th")
    assert loaded.keys() == state.keys()
    assert torch.equal(loaded["weight"], state["weight"]) and loaded["count"] == 7


def test_missing_truncated_and_foreign_files_are_named(tmp_path):
    path = tmp_path / "state.th"
    with pytest.raises(ConfigurationError, match="state.th: there is no such file"):
        load_dictionary(path)
    torch.save({"weight": torch.zeros(1000)}, str(path))
    whole = path.read_bytes()
    for content in (
        b"",
        whole[:100],
        whole[: len(whole) // 2],
        b"not a file of torch",
        b"\x80\x04",
        # Of these the first is taken for a step of pickle that needs another before it.
        b"abc",
        b"<html>",
        b'{"weight": 0}',
    ):
        path.write_bytes(content)
        with pytest.raises(ConfigurationError, match="is truncated or not a file of Py") as raised:
            load_dictionary(path)
        assert str(raised.value).startswith(f"{path} is truncated")
        assert "weights_only" not in str(raised.value) and "\n" not in str(raised.value)
    torch.save(torch.zeros(3), str(path))
    with pytest.raises(ConfigurationError, match="state.th holds a Tensor, not a dictionary"):
        load_dictionary(path)


class Command:
    """What runs a command where it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, ("touch executed",)


@pytest.fixture(params=["as installed", "before torch 2.6"])
def every_version(request, monkeypatch) -> None:
    if request.param == "before torch 2.6":
        how: Any = {"pickle_module": torch_files._PickleOfTensors}
        if "weights_only" in inspect.signature(torch.load).parameters:
            how["weights_only"] = False
        monkeypatch.setattr(torch_files, "_TENSORS_ONLY", how)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("value", [Path("a"), os.system, Command()], ids=lambda v: type(v).__name__)
def test_objects_that_are_not_taken_are_named(value, zipped, every_version, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "state.th"
    torch.save({"value": value}, str(path), _use_new_zipfile_serialization=zipped)
    with pytest.raises(ConfigurationError) as raised:
        load_dictionary(path)
    assert str(raised.value).startswith(
        f"{path} holds objects that torch.load does not take, of type p"
    )
    assert list(tmp_path.iterdir()) == [path]


def test_programs_are_not_taken(every_version, tmp_path):
    path = tmp_path / "state.th"
    torch.jit.script(torch.nn.Linear(1, 1)).save(str(path))
    with pytest.raises(ConfigurationError, match="does not take, of type torch.jit.ScriptModule"):
        load_dictionary(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_and_plain_containers_are_taken(zipped, every_version, tmp_path):
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.Adam([weight])
    weight.sum().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 3])
    state = {
        "weight": weight,
        "nested": OrderedDict(half=torch.ones(2, dtype=torch.bfloat16)),
        "complex": torch.ones(2, dtype=torch.complex64),
        # The cosine schedule's.
        "rate": numpy.float64(0.5),
        "kinds": [torch.Size([1]), torch.device("cpu"), torch.float16, {1, 2}, 1j, b"a", (1,)],
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
    }
    path = tmp_path / "state.th"
    torch.save(state, str(path), _use_new_zipfile_serialization=zipped)
    assert differences(load_dictionary(path), state) == []


def test_keys_that_are_no_names_are_refused(tmp_path):
    torch.save({5: torch.zeros(1)}, str(tmp_path / "state.th"))
    with pytest.raises(ConfigurationError, match="state.th holds the key 5, which is not a name"):
        load_dictionary(tmp_path / "state.th")


ADVICE = "Re-running `torch.load` with `weights_only` set to `False` will likely succeed"


@pytest.mark.parametrize(
    "message, reason",
    [
        (
            f"Weights only load failed. {ADVICE}\nPlease file an issue with the following so that "
            "we can make `weights_only=True` compatible with your use case: WeightsUnpickler "
            f"error: \n\n\x1b[1mUnsupported operand 60\x1b[0m\n\n{ADVICE}",
            "Unsupported operand 60",
        ),
        ("174812789", "UnpicklingError"),
        (f"Weights only load failed. numpy must be 2\n {ADVICE}\n", "numpy must be 2"),
        (ADVICE, "UnpicklingError"),
    ],
    ids=["unsupported", "code alone", "import", "advice alone"],
)
def test_what_torch_advises_is_left_out(message, reason, tmp_path, monkeypatch):
    def load(*args: Any, **kwargs: Any) -> None:
        raise pickle.UnpicklingError(message)

    monkeypatch.setattr(torch, "load", load)
    path = tmp_path / "state.th"
    path.write_text("anything")
    with pytest.raises(ConfigurationError) as raised:
        load_dictionary(path)
    assert str(raised.value) == f"{path} is truncated or not a file of PyTorch: {reason}"
