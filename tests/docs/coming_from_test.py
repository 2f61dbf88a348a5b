"""
What `docs/coming_from.md` promises to those who come from TensorFlow and elsewhere.
"""

import json
import re
from typing import Dict, List, Set

import pytest
from allennlp.common import Params
from allennlp.common.from_params import infer_constructor_params
from torch.nn import Linear

from allennlp_ema import ExponentialMovingAverage, MovingAverage, MovingAverageOptimizer
from tests.support.training_runs import REPOSITORY

COMING_FROM = (REPOSITORY / "docs" / "coming_from.md").read_text(encoding="utf-8")

WRAPPER = ["assign_average_vars(var_list)", "swap_weights()", "shadow_copy(model_weights)"]
WRAPPER += ["has_shadow_copy", "get_config()", "from_config(config)", "kwargs"]

# The arguments of the constructors, over all their versions, and the methods.
TENSORFLOW: Dict[str, List[str]] = {
    "ExponentialMovingAverage": [
        *("decay", "num_updates", "zero_debias", "name"),
        *("apply(var_list)", "average(var)", "average_name(var)"),
        "variables_to_restore(moving_avg_variables)",
    ],
    "MovingAverage": [
        *("optimizer", "sequential_update", "average_decay", "num_updates", "start_step"),
        *("dynamic_decay", "name", *WRAPPER),
    ],
    "SWA": [
        *("optimizer", "start_averaging", "average_period", "name", "sequential_update", *WRAPPER)
    ],
    "MovingAverageOptimizer": [
        *("opt", "average_decay", "num_updates", "sequential_update", "swapping_saver(var_list)")
    ],
}


def quoted(text: str) -> List[str]:
    return re.findall("`([^`]*)`", text)


def rows() -> List[List[str]]:
    table = COMING_FROM.partition("| argument or method |")[2].partition("\n\n")[0]
    return [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]


def test_each_argument_of_tensorflow_has_its_line() -> None:
    found: Dict[str, Set[str]] = {name: set() for name in TENSORFLOW}
    for arguments, classes, here in rows():
        assert here
        named = quoted(classes.partition(" (")[0])
        if classes.startswith("all but "):
            named = [name for name in TENSORFLOW if name not in named]
        for name in named:
            assert not found[name] & set(quoted(arguments)), f"{arguments} is there twice"
            found[name].update(quoted(arguments))
    assert found == {name: set(expected) for name, expected in TENSORFLOW.items()}


def test_what_stands_for_an_argument_is_there() -> None:
    keys = {*infer_constructor_params(ExponentialMovingAverage)}
    keys |= {*infer_constructor_params(MovingAverageOptimizer)}
    for _, _, here in rows():
        for text in quoted(here):
            if re.fullmatch('"\\w+"', text):
                assert text.strip('"') in keys, text
            call = re.fullmatch(r"(\w+)\(.*\)", text)
            if call:
                classes = (MovingAverage, MovingAverageOptimizer)
                assert any(hasattr(cls, call.group(1)) for cls in classes), text


@pytest.mark.parametrize(
    "settings", sorted({text for text in quoted(COMING_FROM) if text.startswith("{")})
)
def test_each_configuration_builds(settings: str) -> None:
    settings = re.sub(r"\bs \+ ([12])", r"\1", settings).replace(": k}", ": 5}")
    model = Linear(2, 2)
    average = MovingAverage.from_params(
        Params(json.loads(settings)), parameters=list(model.named_parameters())
    )
    average.apply(1)
    assert average.num_updates == 1
