"""
Repairs are made once, and those that only an average needs can be left out.
"""

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any, Dict

import allennlp_ema
from allennlp_ema.training import repairs
from tests.support.training_runs import run_python


def repaired_methods() -> Dict[Any, Any]:
    return {
        (repair.of.__name__, name): value
        for repair in repairs.REPAIRS
        for name, value in vars(repair.of).items()
        if callable(value)
    }


def test_made_once_however_often_the_package_is_imported() -> None:
    before = repaired_methods()
    repairs.repair_allennlp()
    importlib.reload(allennlp_ema)
    importlib.reload(repairs)
    repairs.repair_allennlp()
    file = Path(repairs.__file__)
    spec = importlib.util.spec_from_file_location("under_another_name", file)
    assert spec is not None and spec.loader is not None
    again = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(again)
        again.repair_allennlp()
    finally:
        sys.modules.pop("under_another_name", None)
    assert repaired_methods() == before


def test_each_has_a_name_and_a_reason() -> None:
    names = [repair.make.__name__ for repair in repairs.REPAIRS]
    assert len(set(names)) == len(names)
    assert all(len(repair.make.__doc__ or "") > 50 for repair in repairs.REPAIRS)


TRAIN = """
import sys
from pathlib import Path
from allennlp.training import GradientDescentTrainer, moving_average
from allennlp.training.callbacks.should_validate import ShouldValidateCallback
from allennlp.training.checkpointer import Checkpointer
from tests.support.training_runs import tagger_config, train_here
classes = GradientDescentTrainer, Checkpointer, ShouldValidateCallback, moving_average.MovingAverage
stock = [dict(vars(each)) for each in classes]
import allennlp_ema
print("repaired:", sorted(
    name for before, each in zip(stock, classes) for name, value in vars(each).items()
    if callable(value) and value is not before.get(name)
))
for name, average in (
    ("ours", {"type": "exponential"}),
    ("allennlps", {"type": "allennlp.training.moving_average.ExponentialMovingAverage"}),
    ("none", None),
):
    run = Path(sys.argv[1]) / name
    train_here(tagger_config(num_epochs=2, moving_average=average), run)
    print(f"{name}:", (run / "out.log").read_text().count("ALLENNLP_EMA_REPAIRS=0"))
"""


def test_zero_leaves_out_what_only_averages_need_and_one_warning_says_so(tmp_path: Path) -> None:
    environment = {"ALLENNLP_EMA_REPAIRS": "0"}
    output = run_python("-c", TRAIN, str(tmp_path), environment=environment).output
    assert "repaired: ['train']" in output
    assert "ours: 1\n" in output
    assert "allennlps: 0\n" in output and "none: 0\n" in output
