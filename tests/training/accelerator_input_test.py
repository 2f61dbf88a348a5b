"""
The accelerator `torch_fsdp` with input that it cannot take.
"""

from pathlib import Path
from typing import Any, Iterator

import pytest
import torch
import torch.distributed as dist
from allennlp.common import Params
from allennlp.common.checks import ConfigurationError
from allennlp.nn.parallel import DdpAccelerator

from tests.shadow_weights.sharded_test import needs_fully_shard
from tests.support.forked_trainings import Training, run_trainings, workers_config


def accelerator(**keys: Any) -> Any:
    params = Params({"type": "torch_fsdp", **keys})
    return DdpAccelerator.from_params(params, local_rank=0, world_size=1, cuda_device=-1)


@pytest.fixture
def one_worker() -> Iterator[None]:
    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    yield
    dist.destroy_process_group()


def test_a_torch_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    if hasattr(dist, "fsdp") and hasattr(dist.fsdp, "fully_shard"):
        monkeypatch.setattr(torch, "__version__", "2.5.1")
    version = torch.__version__
    with pytest.raises(ConfigurationError, match="needs torch 2.6 or later, but this is ") as error:
        accelerator()
    assert f"but this is {version}: install it, or leave out " in str(error.value)


@needs_fully_shard
def test_a_cpu_without_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu.Stream, "record_event")
    with pytest.raises(ConfigurationError, match="needs torch 2.7 or later on CPUs, but"):
        accelerator()


@needs_fully_shard
def test_one_worker_alone() -> None:
    with pytest.raises(ConfigurationError, match='it needs "distributed": {"cuda_devices": '):
        accelerator()


@needs_fully_shard
def test_repairs_that_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALLENNLP_EMA_REPAIRS", "0")
    with pytest.raises(ConfigurationError, match="ALLENNLP_EMA_REPAIRS=0 leaves them out"):
        accelerator()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"mixed_precision": "fp16"}, "\"mixed_precision\" is 'fp16', but has to be "),
        ({"wrap": "layers"}, "\"wrap\" is 'layers', but has to be a list"),
        ({"reshard": True}, 'unknown key "reshard" for TorchFsdpAccelerator; its keys are '),
    ],
)
def test_wrong_keys_and_values(keys: Any, message: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        accelerator(**keys)
    assert message in str(error.value)


@needs_fully_shard
@pytest.mark.usefixtures("one_worker")
def test_a_scalar_is_named() -> None:
    model: Any = torch.nn.Module()
    model.scale = torch.nn.Parameter(torch.tensor(1.0))
    with pytest.raises(ConfigurationError, match='the parameter "scale" is a scalar'):
        accelerator().wrap_model(model)


@needs_fully_shard
def test_a_regex_that_matches_nothing_ends_the_training(tmp_path: Path) -> None:
    config = workers_config(2, {"type": "torch_fsdp", "wrap": ["decoder"]})
    (output,) = run_trainings([Training(config, tmp_path / "run", fails=True)])
    last = [line for line in output.splitlines() if line.strip()][-1]
    assert last.startswith("allennlp.common.checks.ConfigurationError: \"wrap\" has 'decoder'")
    assert "matches no module of the model; its modules are text_field_embedder, " in last
