from typing import Any, List, Optional

import pytest
import torch
from allennlp.common.checks import ConfigurationError
from torch.nn import Linear, ModuleList

from allennlp_ema.training.units import units_of


class Layered(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = Linear(3, 3)
        inner = torch.nn.Sequential(torch.nn.Tanh(), torch.nn.Module())
        inner[1].parts = ModuleList([Linear(3, 3)])
        self.layers = ModuleList([Linear(3, 3), torch.nn.Tanh(), inner])
        self.output = Linear(3, 3)


def names_of(model: torch.nn.Module, regexes: Optional[List[str]]) -> List[str]:
    units = units_of(model, regexes)
    return [name for name, module in model.named_modules() if module in units]


@pytest.mark.parametrize(
    ("regexes", "expected"),
    [
        (None, ["layers.0", "layers.2", "layers.2.1.parts.0"]),
        ([], []),
        (["^output$", "embed"], ["embedding", "output"]),
        # Neither a list, which computes nothing, nor what has no parameters.
        (["layers"], ["layers.0", "layers.2", "layers.2.1", "layers.2.1.parts.0"]),
    ],
)
def test_units(regexes: Any, expected: List[str]) -> None:
    assert names_of(Layered(), regexes) == expected


def test_outer_ones_come_before_inner_ones() -> None:
    model = Layered()
    assert units_of(model, None)[1:] == [model.layers[2], model.layers[2][1].parts[0]]


@pytest.mark.parametrize("regexes", [None, ["layers.0", "output"]])
def test_what_shares_a_parameter_stays_with_the_root(regexes: Any, caplog: Any) -> None:
    model = Layered()
    model.layers[0].weight = model.output.weight
    assert "layers.0" not in names_of(model, regexes)
    assert '"layers.0" shares a parameter' in caplog.text


@pytest.mark.parametrize(
    ("regexes", "message"),
    [
        (["layers", "decoder"], "has 'decoder', which matches no module of the model; its "),
        (["("], "has '\\(', which is not a regular expression"),
        ([3], "has 3, which is not a regular expression"),
    ],
)
def test_what_matches_nothing_is_refused(regexes: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        units_of(Layered(), regexes)
