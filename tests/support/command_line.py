"""
Runs `allennlp` with arguments in this process.
"""

import sys
from pathlib import Path
from typing import Any, Dict, NamedTuple, Union
from unittest import mock

import pytest
import torch
from allennlp.commands import main
from allennlp.commands.evaluate import evaluate_from_archive
from allennlp.models.archival import load_archive
from torch import Tensor

from tests.support.training_runs import DATA


class Finished(NamedTuple):
    status: int
    output: str
    errors: str

    @property
    def error(self) -> str:
        """The last line on stderr, which says what was wrong."""
        assert self.status and "Traceback" not in self.errors, self.errors
        return self.errors.splitlines()[-1]


def allennlp(capsys: pytest.CaptureFixture, *arguments: Union[str, Path]) -> Finished:
    capsys.readouterr()
    status = 0
    with mock.patch.object(sys, "argv", ["allennlp", *map(str, arguments)]):
        try:
            main(prog="allennlp")
        except SystemExit as exit_:
            status = int(exit_.code or 0)
    return Finished(status, *capsys.readouterr())


def archived_weights(archive: Path) -> Dict[str, Tensor]:
    """Those of the model that AllenNLP makes of an archive."""
    return load_archive(str(archive)).model.state_dict()


def evaluated(archive: Path) -> Dict[str, Any]:
    """What `allennlp evaluate` measures on the development data."""
    return evaluate_from_archive(str(archive), str(DATA / "dev.tsv"))


def differ(one: Dict[str, Tensor], other: Dict[str, Tensor]) -> bool:
    assert one.keys() == other.keys()
    return not all(torch.equal(one[name], other[name]) for name in one)
