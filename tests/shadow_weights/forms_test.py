"""
The forms of tensors, by torch's own guards and without them.
"""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from allennlp_ema.shadow_weights import forms
from allennlp_ema.shadow_weights.forms import Forms

CHANGES = {
    "shape": lambda data: torch.zeros(3, 4),
    "rows": lambda data: data[:2],
    "dimensions": lambda data: data.view(8),
    "strides": lambda data: data.t().contiguous().t(),
    "dtype": lambda data: data.double(),
}


@pytest.fixture(params=[True, False])
def with_and_without_guards(request: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if not request.param:
        monkeypatch.setattr(forms, "_guards", lambda tensors: None)


def tensors() -> "list[Tensor]":
    return [Parameter(torch.zeros(4, 2)), Parameter(torch.zeros(())), torch.zeros(0, 3)]


@pytest.mark.usefixtures("with_and_without_guards")
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_of_form_is_seen(change: Any) -> None:
    changed = tensors()
    before = Forms(changed)
    assert not before.have_changed()
    changed[0].data = change(changed[0].data)
    assert before.have_changed()
    assert not Forms(changed).have_changed()


@pytest.mark.usefixtures("with_and_without_guards")
def test_other_values_and_other_memory_are_no_change() -> None:
    changed = tensors()
    before = Forms(changed)
    with torch.no_grad():
        changed[0].fill_(1.0)
        changed[1].data = torch.ones(())
        assert not before.have_changed()
    assert not before.have_changed()


def test_without_tensors() -> None:
    assert not Forms([]).have_changed()
