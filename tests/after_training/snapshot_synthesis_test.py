from pathlib import Path
from typing import Any, Dict, NamedTuple

import pytest
import torch
from allennlp.common import Params
from allennlp.common.checks import ConfigurationError
from safetensors.numpy import load_file
from torch import Tensor
from torch.nn import Parameter

from allennlp_ema import MovingAverage
from allennlp_ema.after_training.snapshot_synthesis import SnapshotSynthesis
from allennlp_ema.averages.snapshot_files import (
    find_snapshots,
    snapshot_path,
    take_snapshot,
    write_snapshot,
)
from allennlp_ema.averages.specifications import build_average
from tests.support.trajectories import move, named_parameter

BANK = {
    "type": "bank",
    "active": "long",
    "averages": {
        "short": {"type": "power_function", "sigma_rel": 0.05},
        "long": {"type": "power_function", "sigma_rel": 0.10},
    },
}


class Recorded(NamedTuple):
    directory: Path
    trajectory: Tensor

    def synthesis(self, **how: Any) -> SnapshotSynthesis:
        return SnapshotSynthesis(find_snapshots(self.directory), **how)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Recorded:
    """Noisy gradient descent of 2,000 updates with 16 snapshots each of two averages."""
    directory = tmp_path_factory.mktemp("averages")
    generator = torch.Generator().manual_seed(0)
    weight = Parameter(torch.randn(50, generator=generator))
    curvature = torch.logspace(-3, 0, 50)
    bank: Any = MovingAverage.from_params(Params(dict(BANK)), parameters=[("weight", weight)])
    trajectory = [weight.detach().double().clone()]
    for number in range(1, 2001):
        gradient = curvature * (weight.detach() - 1.0) + torch.randn(50, generator=generator)
        with torch.no_grad():
            weight -= 0.05 * gradient
        bank.apply(number)
        trajectory.append(weight.detach().double().clone())
        if number % 125 == 0:
            for name, average in bank.averages.items():
                write_snapshot(snapshot_path(directory, number, name), take_snapshot(name, average))
    return Recorded(directory, torch.stack(trajectory))


def true_average(trajectory: Tensor, specification: Dict[str, Any]) -> Tensor:
    """What the average itself comes to, in float64."""
    parameters = named_parameter(trajectory[0])
    average = MovingAverage.from_params(Params(dict(specification)), parameters=parameters)
    for number, value in enumerate(trajectory[1:], 1):
        move(parameters, value)
        average.apply(number)
    return dict(average.named_averages())["weight"]


def relative_error(recorded: Recorded, specification: Dict[str, Any], num_updates: int) -> Any:
    """Of the synthesized average against the true one, what it may be, and the residual."""
    synthesis = recorded.synthesis(num_updates=num_updates)
    combination = synthesis.solve(build_average(specification).weighting)
    trajectory = recorded.trajectory[: num_updates + 1]
    true = true_average(trajectory, specification)
    ((name, value),) = synthesis.combine(combination)
    assert (name, value.dtype) == ("weight", torch.float64)
    error = (value - true).norm() / true.norm()
    # The Cauchy-Schwarz inequality, for what is left of the profile times what moved.
    profile_norm = combination.effective_window**-0.5
    moved = (trajectory - trajectory.mean(0)).norm() / true.norm()
    rounding = 5e-7 * combination.noise_amplification
    return float(error), float(combination.residual * profile_norm * moved) + rounding


@pytest.mark.parametrize("num_updates", [1000, 2000])
@pytest.mark.parametrize(
    "specification",
    [
        *({"type": "power_function", "sigma_rel": s} for s in (0.05, 0.06, 0.08, 0.12, 0.15, 0.20)),
        {"type": "exponential", "decay": 0.99},
        {"type": "polynomial", "eta": 6.0},
        {"type": "uniform", "start_step": 700},
        {"type": "window", "window_size": 300},
        {"type": "window", "window_size": 30, "update_every": 10},
    ],
    ids=str,
)
def test_a_synthesized_average_is_as_near_to_the_true_one_as_its_residual_says(
    specification, num_updates, recorded
):
    error, bound = relative_error(recorded, specification, num_updates)
    assert error <= bound


@pytest.mark.parametrize("name", ["short", "long"])
def test_a_tracked_average_is_its_snapshot_bit_for_bit(name, recorded):
    synthesis = recorded.synthesis()
    combination = synthesis.solve(build_average(BANK["averages"][name]).weighting)
    ((_, value),) = synthesis.combine(combination)
    snapshot = load_file(str(snapshot_path(recorded.directory, 2000, name)))
    assert torch.equal(value.float(), torch.from_numpy(snapshot["weight"]))
    provenance = synthesis.provenance(BANK["averages"][name], combination)
    assert provenance["coefficients"] == {f"update_0000002000.{name}.safetensors": 1.0}


def test_snapshots_from_after_the_wanted_update_are_left_out(recorded):
    assert [s.num_updates for s in recorded.synthesis(num_updates=300).snapshots] == [
        125,
        125,
        250,
        250,
    ]
    with pytest.raises(ConfigurationError, match="of update 2,000, so nothing .* 2,001 updates"):
        recorded.synthesis(num_updates=2001)
    with pytest.raises(ConfigurationError, match="of update 125, so .* the first 124 updates"):
        recorded.synthesis(num_updates=124)


def average_of(value: Tensor, specification: Dict[str, Any], **more: Tensor) -> MovingAverage:
    parameters = [("weight", Parameter(value)), *((n, Parameter(v)) for n, v in more.items())]
    return MovingAverage.from_params(Params(dict(specification)), parameters=parameters)


def write(directory: Path, name: str, average: MovingAverage) -> None:
    write_snapshot(
        snapshot_path(directory, average.num_updates, name), take_snapshot(name, average)
    )


@pytest.mark.parametrize(
    "others, message",
    [
        (
            {},
            r'long.safetensors has the average of "bias" \[1\], which .*short.safetensors has not',
        ),
        ({"bias": torch.zeros(2)}, r'long.safetensors has the average of "bias" \[1\]'),
        (
            {"bias": torch.zeros(1), "gain": torch.zeros(3)},
            r'short.safetensors has the average of "gain" \[3\], which .*long.safetensors has not',
        ),
    ],
)
def test_snapshots_of_other_parameters_are_named(others, message, tmp_path):
    averages = BANK["averages"]
    for name, more in (("long", {"bias": torch.zeros(1)}), ("short", others)):
        average = average_of(torch.zeros(2), averages[name], **more)
        average.apply(1)
        write(tmp_path, name, average)
    with pytest.raises(ConfigurationError, match=message):
        SnapshotSynthesis(find_snapshots(tmp_path))


def test_a_snapshot_whose_weights_are_not_those_it_says_is_named(tmp_path):
    changed: Any = average_of(torch.zeros(2), {"decay": 0.5})
    changed.apply(1)
    write(tmp_path, "changed", changed)
    changed.decay = 0.05
    changed.apply(2)
    changed.decay = 0.5
    write(tmp_path / "decay", "changed", changed)
    # Of which the last weight does not tell any more.
    changed.apply(3)
    write(tmp_path / "earlier_decay", "changed", changed)

    # Of which no weight tells any more.
    gapped = average_of(torch.zeros(2), {"decay": {"type": "half_life", "half_life": 1.0}})
    for number in range(1, 60):
        if number != 5:
            gapped.apply(number)
    write(tmp_path / "gap", "gapped", gapped)

    SnapshotSynthesis(find_snapshots(tmp_path))
    for directory in ("decay", "earlier_decay", "gap"):
        with pytest.raises(ConfigurationError, match=r"update_\d+.\w+.safetensors: the weights in"):
            SnapshotSynthesis(find_snapshots(tmp_path / directory))


@pytest.mark.parametrize(
    "num_updates, specification, expected",
    [
        (2, {"type": "uniform", "start_step": 2}, 2.0),
        (4, {"type": "uniform", "update_every": 4}, 4.0),
        # What there is of one of the averages alone.
        (12, {"type": "uniform", "start_step": 9}, (9 + 10 + 11 + 12) / 4),
        (12, {"type": "uniform", "update_every": 4}, (4 + 8 + 12) / 3),
    ],
    ids=str,
)
def test_snapshots_from_before_epochs_had_a_length(num_updates, specification, expected, tmp_path):
    """As with a data loader without a length: the epochs have 4 updates."""
    parameters = named_parameter(torch.zeros(1))
    averages: Dict[str, Any] = {
        name: MovingAverage.from_params(
            Params({"type": "uniform", name: {"epochs": epochs}}), parameters=parameters
        )
        for name, epochs in (("start_step", 2), ("update_every", 1))
    }
    for name, average in averages.items():
        average.resolve(num_updates_per_epoch=None)
        for number in range(1, 13):
            move(parameters, torch.full((1,), float(number)))
            average.apply(number)
            if number % 4 == 0:
                average.epoch_ended(number // 4)
            if number == 2 or number % 4 == 0:
                write(tmp_path, name, average)
    snapshots = find_snapshots(tmp_path)
    assert [s.specification for s in snapshots[:4]] == [
        {"type": "uniform", "start_step": {"epochs": 2.0}},
        {"type": "uniform", "update_every": {"epochs": 1.0}},
        {"type": "uniform", "start_step": {"epochs": 2.0}},
        {"type": "uniform", "update_every": 4},
    ]
    synthesis = SnapshotSynthesis(snapshots, num_updates)
    combination = synthesis.solve(build_average(specification).weighting)
    assert combination.residual == pytest.approx(0.0, abs=1e-6)
    assert dict(synthesis.combine(combination))["weight"].item() == pytest.approx(expected)


def test_a_model_gets_the_averages_by_name_and_keeps_the_rest(tmp_path):
    shared = Parameter(torch.ones(2))
    average = MovingAverage.from_params(
        Params({"type": "uniform"}), parameters=[("first", shared), ("second", shared)]
    )
    average.apply(1)
    write(tmp_path, "uniform", average)
    synthesis = SnapshotSynthesis(find_snapshots(tmp_path))
    combination = synthesis.solve(build_average({"type": "uniform"}).weighting)
    weights = {name: torch.zeros(2, dtype=torch.float16) for name in ("first", "second", "buffer")}
    synthesis.copy_into(weights, combination)
    assert {name: value.tolist() for name, value in weights.items()} == {
        "first": [1.0, 1.0],
        "second": [1.0, 1.0],
        "buffer": [0.0, 0.0],
    }
    assert weights["first"].dtype == torch.float16
    for foreign in ({"first": torch.zeros(2)}, {**weights, "first": torch.zeros(2, 1)}):
        with pytest.raises(ConfigurationError, match=r'"(first|second)" \[2\], which the model'):
            synthesis.copy_into(foreign, combination)
