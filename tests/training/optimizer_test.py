import copy
import io
import json
import pickle
import warnings
from pathlib import Path
from typing import Any, Dict, List, Tuple

import hypothesis.strategies as st
import pytest
import torch
from allennlp.common import Lazy, Params
from allennlp.common.checks import ConfigurationError
from allennlp.training.learning_rate_schedulers import LearningRateScheduler
from allennlp.training.optimizers import Optimizer
from hypothesis import given
from torch.nn import Linear, Parameter

from allennlp_ema import ExponentialMovingAverage, MovingAverage, MovingAverageOptimizer
from tests.support.grad_scaler import grad_scaler_on_cpu
from tests.support.training_runs import (
    best_weights,
    differences,
    latest_checkpoint,
    metrics,
    tagger_config,
    train_here,
)

AVERAGE = {"type": "exponential", "decay": 0.9}


def averaging(model: torch.nn.Module, **inner: Any) -> MovingAverageOptimizer:
    params = {"type": "moving_average", "optimizer": inner, "moving_average": AVERAGE}
    return from_params(params, model)


def from_params(params: Dict[str, Any], model: torch.nn.Module) -> MovingAverageOptimizer:
    return Optimizer.from_params(
        Params(json.loads(json.dumps(params))), model_parameters=list(model.named_parameters())
    )


def around_torchs(
    model: torch.nn.Module, inner: torch.optim.Optimizer, **average: Any
) -> MovingAverageOptimizer:
    lazy_average = Lazy(MovingAverage, Params({**AVERAGE, **average}))
    return MovingAverageOptimizer(list(model.named_parameters()), inner, lazy_average)


def linear(seed: int = 0) -> Linear:
    torch.manual_seed(seed)
    return Linear(3, 2)


def compute_gradients(model: torch.nn.Module, number: int) -> torch.Tensor:
    inputs = torch.randn(4, 3, generator=torch.Generator().manual_seed(number))
    model.zero_grad()
    loss = model(inputs).pow(2).sum()
    loss.backward()
    return loss


def weights(model: torch.nn.Module) -> Dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def averages(optimizer: MovingAverageOptimizer) -> Dict[str, torch.Tensor]:
    return {n: a.detach().clone() for n, a in optimizer.moving_average.named_averages()}


INNER: List[Dict[str, Any]] = [
    {"type": "sgd", "lr": 0.1, "momentum": 0.9},
    {"type": "adam", "lr": 0.1, "parameter_groups": [[["bias"], {"lr": 0.01}]]},
    {
        "type": "multi",
        "optimizers": {"default": {"type": "sgd", "lr": 0.1}, "other": {"type": "adam"}},
        "parameter_groups": [[["bias"], {"optimizer_name": "other"}]],
    },
]


@pytest.mark.parametrize("inner", INNER, ids=lambda inner: inner["type"])
def test_steps_are_those_of_the_inner_optimizer_and_are_averaged(inner: Dict[str, Any]) -> None:
    model, reference = linear(), linear()
    optimizer = averaging(model, **inner)
    plain = Optimizer.from_params(
        Params(json.loads(json.dumps(inner))), model_parameters=list(reference.named_parameters())
    )
    average = ExponentialMovingAverage(reference.named_parameters(), decay=0.9)
    for number in range(1, 6):
        compute_gradients(model, number)
        optimizer.step()
        compute_gradients(reference, number)
        plain.step()
        average.apply(number)
        assert differences(weights(model), weights(reference)) == []
        assert differences(averages(optimizer), dict(average.named_averages())) == []
    assert optimizer.moving_average.num_updates == 5
    assert differences(averages(optimizer), weights(model)) != []
    optimizer.zero_grad()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_groups_and_state_are_those_of_the_inner_optimizer() -> None:
    model = linear()
    inner = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    optimizer = around_torchs(model, inner)
    compute_gradients(model, 0)
    optimizer.step()
    optimizer.load_state_dict(optimizer.state_dict())  # gives the inner one other objects
    assert optimizer.param_groups is inner.param_groups
    assert optimizer.state is inner.state and len(inner.state) == 2
    optimizer.param_groups = [{**optimizer.param_groups[0], "lr": 0.0}]
    assert inner.param_groups[0]["lr"] == 0.0
    before = weights(model)
    optimizer.step()
    assert differences(before, weights(model)) == []


def test_closure_may_be_called_often_and_its_loss_is_returned() -> None:
    model, reference = linear(), linear()
    optimizer = around_torchs(model, torch.optim.LBFGS(model.parameters(), max_iter=4))
    plain = torch.optim.LBFGS(reference.parameters(), max_iter=4)
    calls = []

    def closure() -> torch.Tensor:
        calls.append(1)
        return compute_gradients(model, 0)

    loss = optimizer.step(closure)
    assert loss.item() == plain.step(lambda: compute_gradients(reference, 0)).item()
    assert len(calls) == 4
    assert optimizer.moving_average.num_updates == 1
    assert optimizer.average(model.weight) is not None


def test_schedulers_of_torch_and_of_allennlp() -> None:
    model = linear()
    optimizer = averaging(model, type="sgd", lr=0.1)
    torchs = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    allennlps = LearningRateScheduler.from_params(
        Params({"type": "exponential", "gamma": 0.5}), optimizer=optimizer
    )
    with warnings.catch_warnings():
        # Torch warns where a scheduler does not see its optimizer's steps.
        warnings.simplefilter("error")
        for number in range(2):
            compute_gradients(model, number)
            optimizer.step()
            torchs.step()
            allennlps.step()
    assert optimizer.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 / 2**4)


def scaled_step(
    scaler: Any, optimizer: Any, model: Linear, number: int, overflows: bool, clip: bool = False
) -> None:
    optimizer.zero_grad()
    inputs = torch.randn(4, 3, generator=torch.Generator().manual_seed(number))
    scaler.scale(model(inputs).pow(2).sum()).backward()
    if overflows:
        assert model.weight.grad is not None
        model.weight.grad[0, 0] = float("inf")
    if clip:
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    scaler.step(optimizer)
    scaler.update()


SCALED = ["sgd", "sgd_clipped"]
if hasattr(torch, "amp") and hasattr(torch.amp, "GradScaler"):
    # Torch's fused optimizers are called after an overflow too, unless they are wrapped.
    SCALED.append("adam_fused")


@pytest.mark.parametrize("inner", SCALED)
def test_step_that_grad_scaler_skips_moves_neither_average_nor_count(inner: str) -> None:
    model = linear()
    optimizer = around_torchs(
        model,
        torch.optim.Adam(model.parameters(), lr=0.1, fused=True)
        if inner == "adam_fused"
        else torch.optim.SGD(model.parameters(), lr=0.01),
        update_every=2,
    )
    scaler = grad_scaler_on_cpu()
    reference = ExponentialMovingAverage(
        copy.deepcopy(model).named_parameters(), decay=0.9, update_every=2
    )
    num_steps = 0
    for number, overflows in enumerate([True, False, False, True, False, False, True]):
        before, average_before = weights(model), averages(optimizer)
        scaled_step(scaler, optimizer, model, number, overflows, clip=inner == "sgd_clipped")
        num_steps += not overflows
        assert optimizer.moving_average.num_updates == num_steps
        assert (differences(before, weights(model)) == []) == overflows
        if overflows:
            assert differences(average_before, averages(optimizer)) == []
        else:
            for parameter, value in zip(
                reference.running.shadow_weights.parameters, weights(model).values()
            ):
                parameter.data.copy_(value)
            reference.apply(num_steps)
        assert differences(averages(optimizer), dict(reference.named_averages())) == []
    assert optimizer.moving_average.num_averaged == 2
    assert scaler.get_scale() == 1024.0 / 2**3


@given(st.lists(st.sampled_from(["swap", "assign", "enter", "exit"]), max_size=12))
def test_swapping_twice_is_the_identity_whatever_was_assigned(actions: List[str]) -> None:
    # Whose averages are in float32, and not exchanged but copied.
    model = linear().to(torch.bfloat16)
    optimizer = averaging(model, type="sgd", lr=0.1)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    raw = weights(model)
    averaged = {name: value.to(torch.bfloat16) for name, value in averages(optimizer).items()}
    assert differences(raw, averaged) != []
    depth, set_aside = 0, 1
    for action in actions:
        if action == "assign":
            optimizer.assign_average_vars()
            if not depth:
                depth, set_aside = set_aside, 1
        elif action == "enter":
            optimizer.moving_average.assign_average_value()
            depth += 1
        elif action == "exit" and depth:
            optimizer.moving_average.restore()
            depth -= 1
        elif action == "swap":
            optimizer.swap_weights()
            assert differences(weights(model), raw if depth else averaged) == []
            optimizer.swap_weights()
            assert differences(weights(model), averaged if depth else raw) == []
            optimizer.swap_weights()
            depth, set_aside = (0, depth) if depth else (set_aside, 1)
        assert differences(weights(model), averaged if depth else raw) == []
        assert optimizer.moving_average.is_assigned == (depth > 0)


def test_average_values_come_back_whatever_is_raised() -> None:
    model = linear()
    optimizer = averaging(model, type="sgd", lr=0.1)
    compute_gradients(model, 0)
    optimizer.step()
    raw, averaged = weights(model), averages(optimizer)
    with pytest.raises(KeyError), optimizer.average_values():
        assert differences(weights(model), averaged) == []
        raise KeyError
    assert differences(weights(model), raw) == []
    assert optimizer.average(model.weight) is optimizer.moving_average.average("weight")
    assert optimizer.average(Parameter(torch.zeros(1))) is None


@pytest.mark.parametrize("active", ["fast", "slow"])
def test_no_step_from_averages(active: str) -> None:
    model = linear()
    bank = {"type": "bank", "averages": {"fast": AVERAGE, "slow": AVERAGE}, "active": active}
    inner = {"type": "sgd", "lr": 0.1, "momentum": 0.9}
    optimizer = from_params(
        {"type": "moving_average", "optimizer": inner, "moving_average": bank}, model
    )
    compute_gradients(model, 0)
    optimizer.step()
    raw, state = weights(model), copy.deepcopy(optimizer.state_dict())
    optimizer.moving_average.averages["fast"].assign_average_value()  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match=r"swap_weights\(\) before step\(\)"):
        optimizer.step()
    optimizer.moving_average.averages["fast"].restore()  # type: ignore[attr-defined]
    assert differences(weights(model), raw) == []
    assert differences(optimizer.state_dict(), state) == []
    optimizer.step()
    assert differences(weights(model), raw) != []


@pytest.mark.everywhere
@pytest.mark.parametrize("inner", INNER, ids=lambda inner: inner["type"])
def test_state_of_both_loads_to_the_bit(inner: Dict[str, Any]) -> None:
    model = linear()
    optimizer = averaging(model, **inner)
    for number in range(3):
        compute_gradients(model, number)
        optimizer.step()
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    other = linear(seed=1)
    recovered = averaging(other, **inner)
    other.load_state_dict(model.state_dict())
    file.seek(0)
    recovered.load_state_dict(torch.load(file))
    assert recovered.moving_average.num_updates == 3
    for number in range(3, 6):
        for each, each_model in ((optimizer, model), (recovered, other)):
            compute_gradients(each_model, number)
            each.step()
    assert differences(weights(other), weights(model)) == []
    assert differences(recovered.state_dict(), optimizer.state_dict()) == []


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))])
@pytest.mark.parametrize("is_scheduled", [False, True])
def test_copy_goes_on_by_itself(is_scheduled: bool, copied: Any) -> None:
    model = linear()
    optimizer = averaging(model, type="adam")
    if is_scheduled:
        # It gives the optimizer a `step` that takes the steps of this one.
        torch.optim.lr_scheduler.StepLR(optimizer, step_size=9)
    compute_gradients(model, 0)
    optimizer.step()
    other, recovered = copied((model, optimizer))
    before = copy.deepcopy(optimizer.state_dict())
    compute_gradients(other, 1)
    recovered.step()
    assert differences(optimizer.state_dict(), before) == []
    compute_gradients(model, 1)
    optimizer.step()
    assert differences(recovered.state_dict(), optimizer.state_dict()) == []
    assert torch.equal(recovered.average(other.weight), optimizer.average(model.weight))
    assert recovered.average(model.weight) is None


@pytest.mark.parametrize("fault", ["no average", "misshapen average", "misfit groups"])
def test_state_that_does_not_fit_changes_nothing(fault: str) -> None:
    model = linear()
    optimizer = averaging(model, type="sgd", lr=0.1, momentum=0.9)
    compute_gradients(model, 0)
    optimizer.step()
    before = copy.deepcopy(optimizer.state_dict())
    state = copy.deepcopy(before)
    state["param_groups"][0]["lr"] = 7.0
    state["moving_average"]["averages"]["bias"] += 1.0
    if fault == "no average":
        del state["moving_average"]
        error, message = ConfigurationError, 'no "moving_average"'
    elif fault == "misshapen average":
        state["moving_average"]["averages"]["weight"] = torch.zeros(7)
        error, message = ConfigurationError, r"shape \(7,\)"
    else:
        state["param_groups"][0]["params"] = [0, 1, 2]
        error, message = ValueError, "size of optimizer's group"  # type: ignore[assignment]
    with pytest.raises(error, match=message):
        optimizer.load_state_dict(state)
    assert differences(optimizer.state_dict(), before) == []


def test_added_group_is_optimized_and_said_not_to_be_averaged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    model, added = linear(), Parameter(torch.ones(2))
    optimizer = averaging(model, type="sgd", lr=0.5)
    optimizer.add_param_group({"params": [added], "lr": 0.25})
    assert "1 of the 1 added parameters are not averaged" in caplog.text
    added.grad = torch.ones(2)
    optimizer.step()
    assert added.tolist() == [0.75, 0.75]
    frozen = linear()
    optimizer = MovingAverageOptimizer(
        list(frozen.named_parameters()),
        torch.optim.SGD([frozen.weight], lr=0.1),
        Lazy(MovingAverage, Params(dict(AVERAGE))),
    )
    caplog.clear()
    optimizer.add_param_group({"params": [frozen.bias]})
    assert caplog.text == ""


@pytest.mark.skipif(
    not hasattr(torch.optim.Optimizer, "register_step_post_hook"), reason="hooks came with torch 2"
)
def test_hooks() -> None:
    model = linear()
    optimizer = averaging(model, type="sgd", lr=0.1)
    seen: List[Tuple[str, Any]] = []
    optimizer.register_step_pre_hook(
        lambda each, *_: seen.append(("pre", each.moving_average.num_updates))
    )
    optimizer.register_step_post_hook(
        lambda each, *_: seen.append(("post", each.moving_average.num_updates))
    )
    optimizer.step()
    assert seen == [("pre", 0), ("post", 1)]
    if hasattr(optimizer, "register_state_dict_post_hook"):
        optimizer.register_state_dict_post_hook(lambda _, state: {**state, "added": 1})
        assert optimizer.state_dict()["added"] == 1
        optimizer.register_load_state_dict_pre_hook(lambda _, state: seen.append(("load", 0)))
        optimizer.load_state_dict(optimizer.state_dict())
        assert seen[-1] == ("load", 0)


@pytest.mark.parametrize(
    "params, message",
    [
        ({"optimizer": "sgd"}, "has to be given, but neither is"),
        ({"moving_average": AVERAGE}, 'key "optimizer" is required'),
        (
            {"optimizer": {"type": "adam"}, "average": AVERAGE},
            'unknown key "average" for MovingAverageOptimizer; its keys are average_decay, '
            "moving_average, optimizer",
        ),
        (
            {"optimizer": {"type": "adam"}, "moving_average": {"decay": 2}},
            '"decay" is 2, but has to be a finite number >= 0 and <= 1',
        ),
        (
            {
                "optimizer": {"type": "adam"},
                "moving_average": {
                    "type": "allennlp.training.moving_average.ExponentialMovingAverage"
                },
            },
            "is a ExponentialMovingAverage, but has to be an allennlp_ema.MovingAverage",
        ),
    ],
)
def test_bad_configuration(params: Dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        from_params({"type": "moving_average", **params}, linear())
    assert message in str(error.value)


def test_from_python_something_else_is_refused() -> None:
    model = linear()
    parameters = list(model.named_parameters())
    average = ExponentialMovingAverage(parameters)
    sgd = torch.optim.SGD(model.parameters(), lr=0.1)
    assert MovingAverageOptimizer(parameters, sgd, average).moving_average is average
    with pytest.raises(ConfigurationError, match='"optimizer" is a float'):
        MovingAverageOptimizer(parameters, 0.1, average)
    with pytest.raises(ConfigurationError, match='"moving_average" is a float'):
        MovingAverageOptimizer(parameters, sgd, 0.9)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """By the trainer, once with an average of its own, else with that of the optimizer."""
    directory = tmp_path_factory.mktemp("optimizer")
    inner = {"type": "adam", "lr": 0.02}
    of_the_trainer = tagger_config(optimizer=inner, moving_average=AVERAGE)
    of_the_optimizer = tagger_config(
        optimizer={"type": "moving_average", "optimizer": inner, "moving_average": AVERAGE}
    )
    train_here(of_the_trainer, directory / "trainer")
    model = train_here(of_the_optimizer, directory / "optimizer")
    assert model is not None
    torch.save(model.state_dict(), directory / "optimizer" / "at_the_end.th")
    train_here(of_the_optimizer, directory / "recovered", interrupt_at=(2, 3))
    train_here(of_the_optimizer, directory / "recovered", recover=True)
    return directory


@pytest.mark.everywhere
@pytest.mark.parametrize("run", ["optimizer", "recovered"])
def test_with_the_trainer_all_is_as_with_the_trainers_own(runs: Path, run: str) -> None:
    model_state, training_state = latest_checkpoint(runs / "trainer")
    best = best_weights(runs / "trainer")
    assert differences(dict(best), dict(model_state)) != []
    assert differences(best, best_weights(runs / run)) == []
    other_model_state, other_training_state = latest_checkpoint(runs / run)
    assert differences(model_state, other_model_state) == []
    for key in ("moving_average", "metric_tracker"):
        assert differences(training_state[key], other_training_state[key]) == []
    own = other_training_state["optimizer"].pop("moving_average")
    assert differences(training_state["optimizer"], other_training_state["optimizer"]) == []
    assert differences(own, training_state["moving_average"]) == []
    for key, value in metrics(runs / "trainer").items():
        if not key.endswith(("_memory_MB", "_duration")):
            assert metrics(runs / run)[key] == value


def test_with_the_trainer_the_model_ends_with_averages(runs: Path) -> None:
    at_the_end = torch.load(runs / "optimizer" / "at_the_end.th")
    assert differences(at_the_end, best_weights(runs / "trainer")) == []


def test_with_the_trainer_the_average_is_saved_once(runs: Path) -> None:
    of_the_trainer, of_the_optimizer = (
        (runs / run / "training_state_e4_b0.th").stat().st_size for run in ("trainer", "optimizer")
    )
    _, training_state = latest_checkpoint(runs / "trainer")
    averages = training_state["moving_average"]["averages"].values()
    num_bytes = sum(average.numel() * average.element_size() for average in averages)
    assert of_the_optimizer - of_the_trainer < num_bytes


def test_with_the_trainer_both_at_once_are_refused(tmp_path: Path) -> None:
    optimizer = {
        "type": "moving_average",
        "optimizer": {"type": "adam"},
        "moving_average": AVERAGE,
    }
    with pytest.raises(ConfigurationError, match='"moving_average" and an "optimizer" that'):
        train_here(tagger_config(optimizer=optimizer, moving_average=AVERAGE), tmp_path / "run")


def test_with_the_trainer_one_within_multi_is_refused(tmp_path: Path) -> None:
    within = {"type": "moving_average", "optimizer": {"type": "adam"}, "moving_average": AVERAGE}
    optimizer = {
        "type": "multi",
        "optimizers": {"default": within, "encoder": {"type": "adam"}},
        "parameter_groups": [[["^encoder"], {"optimizer_name": "encoder"}]],
    }
    with pytest.raises(ConfigurationError, match='"default" of a "multi" keeps a moving average'):
        train_here(tagger_config(optimizer=optimizer), tmp_path / "run")
