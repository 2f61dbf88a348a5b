"""
Implementations of the exponential average, ours and others, behind one face.
"""

import itertools
from importlib import metadata
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Optional

from torch import Tensor, nn

DECAY = 0.999
OURS = "allennlp_ema"
ALLENNLP = "AllenNLP's own"
TIMM = "timm ModelEmaV3"


class Implementation(NamedTuple):
    """
    An average of one model.

    # Parameters

    update : `Callable[[], Any]`
        One update from the model's parameters.
    assign, restore : `Callable[[], Any]`, optional (default = `None`)
        The model gets the averages, and its own values again.
    averages : `Callable[[], Iterable[Tensor]]`
        The averages, in the order of the parameters.
    state : `Callable[[], Any]`
        What belongs into a checkpoint.
    assign, restore : `Callable[[], Any]`, optional (default = `None`)
        The model gets the averages, and its own values again.
    """

    update: Callable[[], Any]
    averages: Callable[[], Iterable[Tensor]]
    state: Callable[[], Any]
    assign: Optional[Callable[[], Any]] = None
    restore: Optional[Callable[[], Any]] = None


Build = Callable[..., Implementation]
_BUILDS: Dict[str, Build] = {}


def _named(name: str) -> Callable[[Build], Build]:
    def add(build: Build) -> Build:
        _BUILDS[name] = build
        return build

    return add


def _far_numbers() -> "itertools.count[int]":
    """Numbers of updates at which no warm-up holds the decay down any more."""
    return itertools.count(1_000_000)


@_named(OURS)
def _ours(model: nn.Module, **arguments: Any) -> Implementation:
    from allennlp_ema import ExponentialMovingAverage

    average = ExponentialMovingAverage(model.named_parameters(), decay=DECAY, **arguments)
    numbers = _far_numbers()
    return Implementation(
        lambda: average.apply(next(numbers)),
        lambda: dict(average.named_averages()).values(),
        average.state_dict,
        average.assign_average_value,
        average.restore,
    )


@_named(ALLENNLP)
def _allennlp(model: nn.Module) -> Implementation:
    from allennlp.training.moving_average import ExponentialMovingAverage

    average = ExponentialMovingAverage(model.named_parameters(), decay=DECAY)
    numbers = _far_numbers()
    return Implementation(
        lambda: average.apply(next(numbers)),
        lambda: average._shadows.values(),
        average.state_dict,
        average.assign_average_value,
        average.restore,
    )


@_named("swa_utils, multi_avg_fn")
def _swa_utils_multi(model: nn.Module) -> Implementation:
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(DECAY))
    return Implementation(
        lambda: average.update_parameters(model), average.module.parameters, average.state_dict
    )


@_named("swa_utils, avg_fn")
def _swa_utils(model: nn.Module) -> Implementation:
    from torch.optim.swa_utils import AveragedModel

    def rule(average: Any, parameter: Any, num_averaged: Any) -> Any:
        return DECAY * average + (1 - DECAY) * parameter

    average = AveragedModel(model, avg_fn=rule)
    return Implementation(
        lambda: average.update_parameters(model), average.module.parameters, average.state_dict
    )


@_named(TIMM)
def _timm(model: nn.Module, **arguments: Any) -> Implementation:
    from timm.utils.model_ema import ModelEmaV3

    average = ModelEmaV3(model, decay=DECAY, **arguments)
    return Implementation(
        lambda: average.update(model), average.module.parameters, average.state_dict
    )


@_named("ema-pytorch, foreach")
def _ema_pytorch(model: nn.Module) -> Implementation:
    from ema_pytorch import EMA

    # The power ends its warm-up at the third update.
    average = EMA(
        model, beta=DECAY, update_after_step=0, update_every=1, power=100.0, use_foreach=True
    )
    return Implementation(average.update, average.ema_model.parameters, average.state_dict)


@_named("torch-ema")
def _torch_ema(model: nn.Module) -> Implementation:
    from torch_ema import ExponentialMovingAverage

    average = ExponentialMovingAverage(model.parameters(), decay=DECAY, use_num_updates=False)

    def assign() -> None:
        average.store()
        average.copy_to()

    return Implementation(
        average.update, lambda: average.shadow_params, average.state_dict, assign, average.restore
    )


def _diffusers_average(model: nn.Module, foreach: bool) -> Implementation:
    from diffusers.training_utils import EMAModel

    parameters = list(model.parameters())
    average = EMAModel(parameters, decay=DECAY, min_decay=DECAY, foreach=foreach)

    def assign() -> None:
        average.store(parameters)
        average.copy_to(parameters)

    return Implementation(
        lambda: average.step(parameters),
        lambda: average.shadow_params,
        average.state_dict,
        assign,
        lambda: average.restore(parameters),
    )


@_named("diffusers EMAModel")
def _diffusers(model: nn.Module) -> Implementation:
    return _diffusers_average(model, foreach=False)


@_named("diffusers EMAModel, foreach")
def _diffusers_foreach(model: nn.Module) -> Implementation:
    return _diffusers_average(model, foreach=True)


NAMES: List[str] = list(_BUILDS)


def build(name: str, model: nn.Module, **arguments: Any) -> Implementation:
    return _BUILDS[name](model, **arguments)


def missing(tiny_model: nn.Module) -> Dict[str, str]:
    """
    # Returns

    missing : `Dict[str, str]`
        The names of the implementations that are not installed or do not run here, and why.
    """
    reasons = {}
    for name in NAMES:
        try:
            build(name, tiny_model).update()
        except Exception as error:
            reasons[name] = f"{type(error).__name__}: {error}"
    return reasons


def versions() -> Dict[str, str]:
    """Of what is installed of everything that is compared."""
    found = {}
    for name in ("allennlp", "timm", "ema-pytorch", "torch-ema", "diffusers"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
