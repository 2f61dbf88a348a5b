import math
import weakref
from pathlib import Path
from typing import Any, Dict, List

import pytest
import torch
from allennlp.common.checks import ConfigurationError
from torch import Tensor

from allennlp_ema.after_training import soups
from allennlp_ema.after_training.soups import GreedySoup, uniform_soup

# By model. The metric is the negative distance of the weight from 0, and no number beyond 1,000.
WEIGHTS = {"far": 9.0, "left": -1.0, "right": 2.0, "nan": 5e4, "poisoned": math.nan}


class Model:
    """In the place of a `TrainedModel`."""

    def __init__(self) -> None:
        self.weights: Dict[str, Tensor] = state("far")

    def load_weights(self, weights: Dict[str, Tensor]) -> None:
        for name, value in weights.items():
            self.weights[name].copy_(value)

    def measure(self) -> float:
        distance = abs(self.weights["real"][0].item())
        return -distance if distance < 1000 else math.nan


def state(name: str) -> Dict[str, Tensor]:
    real = torch.tensor([WEIGHTS[name]])
    number = torch.tensor(sorted(WEIGHTS).index(name))
    return {"real": real, "complex": torch.complex(0 * real, real), "number": number}


@pytest.fixture(autouse=True)
def alive(monkeypatch: pytest.MonkeyPatch) -> List[int]:
    """How many models' weights there were in memory after each reading."""
    references: List[Any] = []
    counts: List[int] = []

    def read(path: Path) -> Dict[str, Tensor]:
        weights = state(path.name)
        references.append(weakref.ref(weights["real"]))
        counts.append(sum(reference() is not None for reference in references))
        return weights

    monkeypatch.setattr(soups, "best_weights", read)
    return counts


def greedy(*names: str) -> Any:
    model: Any = Model()
    soup = GreedySoup([Path(name) for name in names], model, model.measure)
    return soup, list(soup.measured_alone())


def test_each_is_tried_in_the_order_of_its_metric(alive):
    soup, alone = greedy("far", "nan", "right", "left")
    assert [(path.name, value) for path, value in alone[2:]] == [("right", -2.0), ("left", -1.0)]
    steps = [(step.path.name, step.value, step.is_kept) for step in soup.steps(alone)]
    assert steps[:3] == [
        ("left", -1.0, True),
        ("right", -0.5, True),
        ("far", pytest.approx(-10 / 3), False),
    ]
    assert steps[3][0] == "nan" and math.isnan(steps[3][1]) and not steps[3][2]
    weights = soup.weights()
    assert weights["real"].item() == 0.5 and weights["complex"].item() == 0.5j
    # What is no weight is that of the best.
    assert weights["number"] == state("left")["number"]
    assert max(alive) == 1


def test_one_that_makes_no_difference_is_kept():
    soup, alone = greedy("left", "left")
    assert [step.is_kept for step in soup.steps(alone)] == [True, True]


def test_a_model_that_holds_a_nan_is_named():
    with pytest.raises(ConfigurationError, match='poisoned: "real" has a NaN'):
        greedy("left", "poisoned")


def test_one_of_the_models_has_to_have_a_number():
    soup, alone = greedy("nan", "nan")
    with pytest.raises(ConfigurationError, match="the metric of all models is NaN"):
        list(soup.steps(alone))


def test_a_uniform_soup_is_the_mean_with_what_else_is_in_the_first(alive):
    weights = uniform_soup([Path(name) for name in ("right", "far", "left")])
    assert weights["real"] == torch.tensor(10 / 3)
    assert weights["number"] == state("right")["number"]
    assert max(alive) == 1
