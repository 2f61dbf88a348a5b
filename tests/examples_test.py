"""
The examples in the docstrings of public classes.
"""

import doctest
import inspect
import math

import pytest
import torch
from allennlp.common import Params

import allennlp_ema
from allennlp_ema.averages.attachment import Attachment
from allennlp_ema.weighting import duration, weighting

pytestmark = pytest.mark.everywhere

CLASSES = [
    *(getattr(allennlp_ema, name) for name in allennlp_ema.__all__),
    duration.Duration,
    weighting.Weighting,
]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
@pytest.mark.usefixtures("own_names")
def test_a_public_class_has_an_example_that_runs(cls: type) -> None:
    names = {
        **{name: getattr(allennlp_ema, name) for name in allennlp_ema.__all__},
        **vars(inspect.getmodule(cls)),
        "Params": Params,
        "math": math,
        "torch": torch,
    }
    text = (cls.__doc__ or "").replace("```", "")
    example = doctest.DocTestParser().get_doctest(text, names, cls.__name__, None, 0)
    assert example.examples, f"{cls.__name__} has no example"
    runner = doctest.DocTestRunner(verbose=False)
    runner.run(example)
    assert runner.failures == 0


def test_an_attachment_does_nothing_unless_it_says_so() -> None:
    attachment = Attachment()
    assert attachment.tensors() == {} and attachment.before_sample() is None
