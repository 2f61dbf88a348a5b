"""
The averages that `allennlp train` arrives at are those that their definitions give for the weights
that the training went through.
"""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Dict

import numpy
import pytest
import torch

from tests.support.training_runs import (
    KEEP_EVERY_UPDATE,
    best_weights,
    differences,
    latest_checkpoint,
    raw_trajectory,
    tagger_config,
    train,
)

MOVING_AVERAGES: Dict[str, Dict[str, Any]] = {
    "uniform": {"type": "uniform", "start_step": 7, "update_every": 2},
    "power_function": {"type": "power_function", "gamma": 4.0},
    "window": {"type": "lawa", "window_size": 3, "update_every": 4},
    "bank": {
        "type": "bank",
        "active": "polynomial",
        "averages": {
            "polynomial": {"type": "polynomial", "eta": 4.0},
            "zero_debiased": {"decay": {"type": "constant", "decay": 0.9}, "zero_debias": True},
            "custom_schedule": {"decay": {"type": "square_root"}, "start_step": 2},
        },
    },
    "custom_average": {"type": "inverse_square_root"},
}
INCLUDED = {
    "bank": ["tests.support.custom_schedule"],
    "custom_average": ["tests.support.custom_average"],
}

UPDATE = numpy.arange(1, 25)  # 4 epochs of 6 batches


def what_remains(weights: numpy.ndarray) -> numpy.ndarray:
    """How much each update has in the end in the average that it entered with one of `weights`."""
    return weights * numpy.append(numpy.cumprod((1 - weights)[:0:-1])[::-1], 1.0)


# How much the raw weights after each update count, up to a factor.
PROFILES = {
    "uniform": (UPDATE >= 7) & (UPDATE % 2 == 1),
    # Karras et al. 2023, eq. 123: t^gamma over the time of one update.
    "power_function": UPDATE**5 - (UPDATE - 1) ** 5,
    "window": numpy.isin(UPDATE, [16, 20, 24]),
    # Shamir and Zhang 2013, eq. 4, unrolled for a whole eta.
    "polynomial": UPDATE * (UPDATE + 1) * (UPDATE + 2) * (UPDATE + 3),
    "zero_debiased": 0.9 ** (24 - UPDATE),
    "custom_schedule": what_remains(1 / numpy.sqrt(numpy.maximum(UPDATE - 2, 1))),
    "custom_average": what_remains(1 / numpy.sqrt(UPDATE)),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("runs")

    def run(name: str) -> None:
        config = tagger_config(moving_average=MOVING_AVERAGES[name], checkpointer=KEEP_EVERY_UPDATE)
        included = INCLUDED.get(name, [])
        # That one survives a kill takes no more than its own method.
        is_killed = name == "custom_average"
        if is_killed:
            train(config, directory / name, include_packages=included, kill_at=(2, 3))
        train(config, directory / name, include_packages=included, recover=is_killed)

    with ThreadPoolExecutor(2) as executor:
        list(executor.map(run, MOVING_AVERAGES))
    return directory


@pytest.mark.parametrize("name", PROFILES)
def test_values(name: str, runs: Path) -> None:
    in_bank = name not in MOVING_AVERAGES
    directory = runs / ("bank" if in_bank else name)
    _, training_state = latest_checkpoint(directory)
    state = training_state["moving_average"]
    averages = (state["averages"][name] if in_bank else state)["averages"]

    trajectory = raw_trajectory(directory)
    profile = PROFILES[name] / PROFILES[name].sum()
    assert len(trajectory) == len(profile) == 24 and averages.keys() == trajectory[0].keys()
    for parameter, average in averages.items():
        values = torch.stack([raw_weights[parameter] for raw_weights in trajectory])
        expected = torch.tensordot(torch.from_numpy(profile), values, dims=1)
        torch.testing.assert_close(average.double(), expected, rtol=1e-5, atol=1e-6)
    if name in ("polynomial", *MOVING_AVERAGES):
        assert differences(dict(best_weights(directory)), dict(averages)) == []
