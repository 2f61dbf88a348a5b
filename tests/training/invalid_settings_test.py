"""
What somebody with a mistake in the configuration gets to read at the end of the output.
"""

import traceback
from pathlib import Path
from typing import Any, List

import pytest
from allennlp.common.checks import ConfigurationError

from tests.support.training_runs import tagger_config, train, train_here

# The value of "moving_average", and what the last line has to name: the key or the value that is
# wrong, and what is allowed.
MISTAKES: List[Any] = [
    ({"decay": 1.5}, ['"decay" is 1.5', ">= 0 and <= 1"]),
    ({"decay": float("nan")}, ['"decay" is nan', "finite"]),
    ({"decay": "0.99"}, ["'decay': '0.99'", "Expected decay to be numeric"]),
    ({"numerator": -1}, ['"numerator" is -1', ">= 0"]),
    ({"denominator": 0}, ['"denominator" is 0', "> 0"]),
    ({"deacy": 0.9}, ['"deacy"', "its keys are decay, denominator, exclude"]),
    ({"type": "exponental"}, ["exponental", "'exponential', 'bank'"]),
    ({"include": ["decoder"]}, ["['decoder']", "text_field_embedder.token_embedder_tokens.weight"]),
    ({"include": "encoder"}, ["\"include\" is 'encoder'", "['encoder']"]),
    ({"include": ["("]}, ["ConfigurationError: \"include\" has '('", "not a regular expression"]),
    ({"start_step": "5"}, ["'start_step': '5'", "Expected start_step to be a int"]),
    ({"shadow_dtype": "float16"}, ["\"shadow_dtype\" is 'float16'", "'float32', 'float64'"]),
    ({"decay": {"type": "half_life", "half_life": 0}}, ['"half_life" is 0', "> 0"]),
    ({"decay": {"type": "half_life", "half": 9}}, ['"half"', "its keys are half_life"]),
    ({"type": "uniform", "decay": 0.9}, ['"decay"', "UniformMovingAverage"]),
    ({"type": "uniform", "update_every": 0}, ['"update_every" is 0', ">= 1"]),
    ({"type": "power_function"}, ["exactly one of", '"sigma_rel" is None and "gamma" is None']),
    (
        {"type": "power_function", "sigma_rel": 0.1, "gamma": 6},
        ["exactly one of", '"sigma_rel" is 0.1 and "gamma" is 6'],
    ),
    ({"type": "power_function", "sigma_rel": 0.3}, ['"sigma_rel" is 0.3', "< 0.28868"]),
    ({"type": "polynomial", "eta": -1}, ['"eta" is -1', ">= 0"]),
    ({"type": "window", "window_size": 0}, ['"window_size" is 0', ">= 1"]),
    (
        {"type": "bank", "averages": {"a": {"type": "uniform"}}, "active": "b"},
        ["\"active\" is 'b'", "one of 'a'"],
    ),
    (
        {"type": "bank", "averages": {"a": {"decay": 2}}, "active": "a"},
        ['"decay" is 2', ">= 0 and <= 1"],
    ),
]


@pytest.mark.parametrize("moving_average, named", MISTAKES, ids=[str(m) for m, _ in MISTAKES])
def test_last_line_says_what_is_wrong(
    moving_average: Any, named: List[str], tmp_path: Path
) -> None:
    with pytest.raises(ConfigurationError) as error:
        train_here(tagger_config(moving_average=moving_average), tmp_path / "run")
    (line,) = traceback.format_exception_only(error.type, error.value)
    assert line.count("\n") == 1
    for what in named:
        assert what in line


def test_terminal(tmp_path: Path) -> None:
    process = train(
        tagger_config(moving_average={"type": "exponential", "decay": 1.5}),
        tmp_path / "run",
        expected_returncode=1,
    )
    assert process.output.splitlines()[-1] == (
        'allennlp.common.checks.ConfigurationError: "decay" is 1.5, but has to be a finite number '
        ">= 0 and <= 1"
    )
