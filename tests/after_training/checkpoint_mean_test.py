import math
import weakref
from pathlib import Path
from typing import Any, Dict, List

import pytest
import torch
from allennlp.common.checks import ConfigurationError

from allennlp_ema.after_training.checkpoint_mean import mean_of_checkpoints
from allennlp_ema.common.torch_files import load_dictionary


def saved(directory: Path, *states: Dict[str, Any]) -> List[Path]:
    paths = [directory / f"model_state_e{number}_b0.th" for number in range(len(states))]
    for path, state in zip(paths, states):
        torch.save(state, str(path))
    return paths


def test_floating_tensors_are_averaged_and_others_are_the_newest(tmp_path):
    states = [
        {
            "weight": torch.full((2, 3), value),
            "complex": torch.tensor([value * 1j, 1.0]),
            "half": torch.tensor([value], dtype=torch.float16),
            "running_mean": torch.tensor(value, dtype=torch.float64),
            "num_batches_tracked": torch.tensor(number),
            "extra_state": f"state {number}",
        }
        for number, value in enumerate((1.0, 2.0, 6.0))
    ]
    mean = mean_of_checkpoints(saved(tmp_path, *states))
    assert torch.equal(mean["weight"], torch.full((2, 3), 3.0))
    assert torch.equal(mean["complex"], torch.tensor([3j, 1.0]))
    assert torch.equal(mean["half"], torch.tensor([3.0], dtype=torch.float16))
    assert torch.equal(mean["running_mean"], torch.tensor(3.0, dtype=torch.float64))
    assert torch.equal(mean["num_batches_tracked"], torch.tensor(2))
    assert mean["extra_state"] == "state 2"
    assert list(mean) == list(states[0])


def test_the_sum_is_in_double_precision(tmp_path):
    values = [1e8, 1.0, 1.0, 1.0, 1.0, -1e8]
    states = [{"weight": torch.tensor([value])} for value in values]
    # In float32 each 1 would be lost beside 1e8.
    assert mean_of_checkpoints(saved(tmp_path, *states))["weight"] == torch.tensor(4.0 / 6.0)


def test_tied_parameters_stay_tied(tmp_path):
    states = []
    for value in (1.0, 3.0):
        shared = torch.full((2,), value)
        states.append({"first": shared, "second": shared})
    mean = mean_of_checkpoints(saved(tmp_path, *states))
    assert torch.equal(mean["first"], torch.full((2,), 2.0))
    assert mean["first"].data_ptr() == mean["second"].data_ptr()


def test_parameters_that_require_gradients_have_a_mean(tmp_path):
    states = [{"weight": torch.nn.Parameter(torch.full((2,), value))} for value in (1.0, 3.0)]
    mean = mean_of_checkpoints(saved(tmp_path, *states))
    assert torch.equal(mean["weight"], torch.full((2,), 2.0))
    assert mean["weight"].grad_fn is None


def test_one_checkpoint_is_its_own_mean(tmp_path):
    state = {"weight": torch.randn(7)}
    assert torch.equal(mean_of_checkpoints(saved(tmp_path, state))["weight"], state["weight"])


@pytest.mark.parametrize(
    "other, message",
    [
        ({"weight": torch.zeros(3)}, r'float32\[3\] for "weight", but .*e0_b0.th has float32\[2\]'),
        ({"weight": torch.zeros(2).double()}, r'float64\[2\] for "weight", but .* float32\[2\]'),
        ({}, r'nothing for "weight", but .*e0_b0.th has float32\[2\]'),
        (
            {"weight": torch.zeros(2), "bias": torch.zeros(1)},
            r'float32\[1\] for "bias", but .*e0_b0.th has nothing',
        ),
        ({"weight": "none"}, r'a str for "weight"'),
    ],
)
def test_a_checkpoint_of_another_model_is_named(other, message, tmp_path):
    weight = {"weight": torch.zeros(2)}
    with pytest.raises(ConfigurationError, match="model_state_e1_b0.th has " + message):
        mean_of_checkpoints(saved(tmp_path, weight, other, weight))


def test_a_missing_checkpoint_is_named(tmp_path):
    paths = saved(tmp_path, {"weight": torch.zeros(2)})
    with pytest.raises(ConfigurationError, match="model_state_e9_b0.th: there is no such file"):
        mean_of_checkpoints([*paths, tmp_path / "model_state_e9_b0.th"])


def test_a_nan_is_named_and_a_mask_is_a_constant(tmp_path):
    states = [
        {"mask": torch.tensor([0.0, -math.inf]), "weight": torch.tensor(value)}
        for value in (1.0, 3.0)
    ]
    mean = mean_of_checkpoints(saved(tmp_path, *states))
    assert mean["mask"].tolist() == [0.0, -math.inf] and mean["weight"] == 2.0
    for value in (math.nan, math.inf):
        paths = saved(tmp_path, states[0], {**states[1], "weight": torch.tensor(value)})
        with pytest.raises(ConfigurationError, match=f'{paths[1].name}: "weight" '):
            mean_of_checkpoints(paths)


def test_of_the_checkpoints_one_at_a_time_is_in_memory(tmp_path, monkeypatch):
    states = [{f"weight{n}": torch.zeros(5) for n in range(4)} for _ in range(6)]
    alive: List[Any] = []
    most = 0

    def load(path: Path) -> Dict[str, Any]:
        nonlocal most
        state = load_dictionary(path)
        alive.extend(weakref.ref(tensor) for tensor in state.values())
        most = max(most, sum(reference() is not None for reference in alive))
        return state

    monkeypatch.setattr("allennlp_ema.after_training.checkpoint_mean.load_dictionary", load)
    mean_of_checkpoints(saved(tmp_path, *states))
    assert len(alive) == 24 and most == 4


def test_complex_tensors_have_a_mean(tmp_path):
    states = [{"signal": torch.tensor([value + 2j * value])} for value in (1.0, 2.0, 6.0)]
    mean = mean_of_checkpoints(saved(tmp_path, *states))["signal"]
    assert mean.dtype == torch.complex64 and mean.tolist() == [3.0 + 6.0j]
