"""
What AllenNLP 2.10.1 cannot do by itself on a current torch, and with this package can.
"""

import inspect
import io
import shutil
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Dict

import numpy
import pytest
import torch
from allennlp.common import Params
from allennlp.common.checks import ConfigurationError
from allennlp.training.learning_rate_schedulers import (
    LearningRateScheduler,
    ReduceOnPlateauLearningRateScheduler,
)
from torch.torch_version import TorchVersion

from tests.training_runs import (
    FinishedProcess,
    assert_ended_alike,
    latest_checkpoint,
    tagger_config,
    train,
    train_here,
)

needs_numpys_repair = pytest.mark.skipif(
    TorchVersion(torch.__version__) < "2.6", reason="torch.load takes everything before torch 2.6"
)
needs_verboses_repair = pytest.mark.skipif(
    "verbose" in inspect.signature(torch.optim.lr_scheduler.ReduceLROnPlateau).parameters,
    reason="this torch's ReduceLROnPlateau takes verbose",
)


def config(**scheduler: Any) -> Dict[str, Any]:
    return tagger_config(
        moving_average={"type": "exponential", "decay": 0.9}, learning_rate_scheduler=scheduler
    )


COSINE = config(type="cosine", t_initial=5)
# Nothing is an improvement by 10, so the learning rate is halved after each epoch but the first.
PLATEAU = config(
    type="reduce_on_plateau", factor=0.5, patience=0, threshold=10.0, threshold_mode="abs"
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def finished(directory: Path) -> Dict[str, FinishedProcess]:
    """Of each repair the command that needs it, without and with this package."""
    train_here(COSINE, directory / "cosine", interrupt_at=(2, 3))
    shutil.copytree(str(directory / "cosine"), str(directory / "cosine_without"))
    elsewhere: Dict[str, Any] = {
        # No plug-in file is here, nor in the user's home.
        "cwd": directory,
        "environment": {"HOME": str(directory)},
        "expected_returncode": None,
    }
    with ThreadPoolExecutor(2) as executor:
        runs = {
            "cosine": executor.submit(train, COSINE, directory / "cosine", recover=True),
            "cosine_without": executor.submit(
                train, COSINE, directory / "cosine_without", recover=True, **elsewhere
            ),
            "plateau": executor.submit(train, PLATEAU, directory / "plateau"),
            "plateau_without": executor.submit(
                train, PLATEAU, directory / "plateau_without", **elsewhere
            ),
        }
        return {name: run.result() for name, run in runs.items()}


@needs_numpys_repair
def test_cosine_without(finished: Dict[str, FinishedProcess]) -> None:
    assert finished["cosine_without"].returncode == 1
    assert "UnpicklingError" in finished["cosine_without"].output
    assert "multiarray.scalar" in finished["cosine_without"].output


def test_cosine_with(finished: Dict[str, FinishedProcess], directory: Path) -> None:
    train_here(COSINE, directory / "cosine_straight")
    assert_ended_alike(directory / "cosine_straight", directory / "cosine")


@needs_verboses_repair
def test_reduce_on_plateau_without(finished: Dict[str, FinishedProcess]) -> None:
    assert finished["plateau_without"].returncode == 1
    assert "unexpected keyword argument 'verbose'" in finished["plateau_without"].output


def test_reduce_on_plateau_with(finished: Dict[str, FinishedProcess], directory: Path) -> None:
    _, training_state = latest_checkpoint(directory / "plateau")
    assert training_state["optimizer"]["param_groups"][0]["lr"] == 0.02 / 2**3


def test_reduce_on_plateau_keeps_its_signature() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    by_position = ReduceOnPlateauLearningRateScheduler(optimizer, "max", 0.5, 3, True)
    assert by_position.lr_scheduler.mode == "max"
    assert by_position.lr_scheduler.factor == 0.5
    assert by_position.lr_scheduler.patience == 3
    params = {"type": "reduce_on_plateau", "mode": "max", "verbose": True}
    by_name = LearningRateScheduler.from_params(Params(params), optimizer=optimizer)
    assert by_name.lr_scheduler.mode == "max"
    with pytest.raises(ConfigurationError, match="factr"):
        params = {"type": "reduce_on_plateau", "factr": 0.5}
        LearningRateScheduler.from_params(Params(params), optimizer=optimizer)


@needs_numpys_repair
@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64", "bool"])
def test_numpys_numbers_of_numpy_1_and_2(dtype: str, module: str) -> None:
    number = numpy.dtype(dtype).type(3)
    written, renamed = io.BytesIO(), io.BytesIO()
    torch.save({"number": number}, written)
    here = type(number).__reduce__(number)[0].__module__
    with zipfile.ZipFile(written) as source, zipfile.ZipFile(renamed, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name.endswith("data.pkl"):
                assert f"c{here}\nscalar\n".encode() in content
                content = content.replace(f"c{here}\n".encode(), f"c{module}\n".encode())
            target.writestr(name, content)
    renamed.seek(0)
    loaded = torch.load(renamed)["number"]
    assert loaded == number and loaded.dtype == number.dtype
