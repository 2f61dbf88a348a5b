"""
What the terminal shows of a training: nothing that only AllenNLP could heed, and all the rest.
"""

from pathlib import Path

import pytest
import torch
from torch.torch_version import TorchVersion

from tests.support.training_runs import run_python, tagger_config, train

WARNING_OF_TORCH = "`torch.cuda.amp.autocast(args...)` is deprecated"

needs_a_torch_that_warns = pytest.mark.skipif(
    TorchVersion(torch.__version__) < "2.4", reason="torch.cuda.amp is deprecated from torch 2.4 on"
)


@needs_a_torch_that_warns
@pytest.mark.parametrize("filters, is_shown", [("", False), ("default", True)])
def test_what_allennlp_calls_is_said_to_who_asks(
    filters: str, is_shown: bool, tmp_path: Path
) -> None:
    average = {"type": "uniform"}
    process = train(
        tagger_config(moving_average=average, num_epochs=1),
        tmp_path / "run",
        environment={"PYTHONWARNINGS": filters},
    )
    assert (WARNING_OF_TORCH in process.output) == is_shown
    # AllenNLP's own stays.
    assert "patience was set to None, meaning that early stopping is disabled" in process.output


OF_A_USER = """
import sys, torch, warnings, allennlp_ema
with torch.cuda.amp.autocast(False):
    pass
warnings.warn_explicit(
    "`torch.cuda.amp.autocast(args...)` is old", FutureWarning, "x.py", 1,
    module="allennlp.training.gradient_descent_trainer",
)
"""


@needs_a_torch_that_warns
def test_what_users_call_they_are_warned_of() -> None:
    output = run_python("-c", OF_A_USER, environment={"PYTHONWARNINGS": ""}).output
    assert f"FutureWarning: {WARNING_OF_TORCH}" in output
    assert "FutureWarning: `torch.cuda.amp.autocast(args...)` is old" in output
