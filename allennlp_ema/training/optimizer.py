"""
An optimizer that averages the parameters after each of its steps.
"""

import copy
import logging
from typing import (
    Any,
    Callable,
    Collection,
    ContextManager,
    Dict,
    Iterable,
    List,
    Optional,
    Tuple,
    Union,
)

import torch
from allennlp.common import Lazy, Params
from allennlp.common.checks import ConfigurationError
from allennlp.training.optimizers import Optimizer
from torch import Tensor

from allennlp_ema.averages.exponential import ExponentialMovingAverage
from allennlp_ema.averages.moving_average import MovingAverage
from allennlp_ema.averages.states import copied
from allennlp_ema.common.from_params import ExplainedFromParams
from allennlp_ema.training.update_numbers import UpdateNumbers
from allennlp_ema.weighting.decay_schedules import ConstantDecay

logger = logging.getLogger(__name__)

_AVERAGE_KEY = "moving_average"


def _of_the_inner_optimizer(name: str) -> Any:
    def get(self: "MovingAverageOptimizer") -> Any:
        return getattr(self.optimizer, name)

    def set_(self: "MovingAverageOptimizer", value: Any) -> None:
        setattr(self.optimizer, name, value)

    return property(get, set_)


@Optimizer.register("moving_average")
class MovingAverageOptimizer(ExplainedFromParams, Optimizer):
    """
    Wraps an optimizer and averages the parameters after each of its steps, as
    `tfa.optimizers.MovingAverage` does. It works in any training loop: its parameter groups and its
    state are those of the inner optimizer, so learning rate schedulers and `GradScaler` find what
    they need. A step that `GradScaler` skips changes neither the average nor its count.

    ```python
    >>> model = torch.nn.Linear(2, 1)
    >>> inner = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> optimizer = MovingAverageOptimizer(model.named_parameters(), inner, average_decay=0.99)
    >>> model(torch.ones(2)).sum().backward()
    >>> optimizer.step()
    >>> with optimizer.average_values():
    ...     averaged_outputs = model(torch.ones(2))
    >>> optimizer.moving_average.num_updates
    1

    ```

    AllenNLP's trainer uses this average as its own. It validates with the average, writes it to
    `best.th`, applies it after each step and leaves it in the model at the end. So callbacks,
    checkpoints and the rest work as with the trainer's own `moving_average`. The trainer takes the
    average when it is built and not through a callback, because without the callback it would
    validate raw weights and give no warning. An average in the trainer and in the optimizer at once
    is a `ConfigurationError`.

    Registered as an `Optimizer` with name "moving_average".

    # Parameters

    model_parameters : `List[Tuple[str, torch.nn.Parameter]]`
        The named parameters to optimize and to average. The trainer gives them.
    optimizer : `Lazy[Optimizer]`
        The optimizer that takes the steps. From Python it may also be a `torch.optim.Optimizer`.
    moving_average : `Lazy[MovingAverage]`, optional (default = `None`)
        The average. From Python it may also be a `MovingAverage`. Exactly one of `moving_average`
        and `average_decay` has to be given.
    average_decay : `float`, optional (default = `None`)
        The decay of an exponential average at every update, which is used instead of
        `moving_average`, as in `tfa.optimizers.MovingAverage(optimizer, average_decay=0.99)`.
    """

    def __init__(
        self,
        model_parameters: List[Tuple[str, torch.nn.Parameter]],
        optimizer: Lazy[Optimizer],
        moving_average: Optional[Lazy[MovingAverage]] = None,
        average_decay: Optional[float] = None,
    ) -> None:
        model_parameters = list(model_parameters)
        if (moving_average is None) == (average_decay is None):
            raise ConfigurationError(
                'exactly one of "moving_average" and "average_decay" has to be given, but '
                f"{'neither is' if moving_average is None else 'both are'}"
            )
        inner: Any = optimizer
        self._optimizer_params: Any = None
        if isinstance(inner, Lazy):
            # The configuration of an optimizer may be just a name.
            given: Any = inner._params
            self._optimizer_params = (
                given.as_dict(quiet=True) if isinstance(given, Params) else given
            )
            inner = inner.construct(model_parameters=model_parameters)
        if not isinstance(inner, torch.optim.Optimizer):
            raise ConfigurationError(
                f'"optimizer" is a {type(inner).__name__}, but has to be an optimizer'
            )
        average: Any = moving_average
        if average_decay is not None:
            average = ExponentialMovingAverage(model_parameters, ConstantDecay(average_decay))
        if isinstance(average, Lazy):
            average = average.construct(parameters=model_parameters)
        if not isinstance(average, MovingAverage):
            raise ConfigurationError(
                f'"moving_average" is a {type(average).__name__}, but has to be an '
                "allennlp_ema.MovingAverage"
            )
        self.optimizer: torch.optim.Optimizer = inner
        self.moving_average: MovingAverage = average
        self._averages_at_step = True
        self._numbers = UpdateNumbers(average)
        # How often and to which parameters averages were assigned before `swap_weights` restored
        # the raw values, so that its next call can assign them again.
        self._num_set_aside = 1
        self._names_set_aside: Optional[Collection[str]] = None
        # The base class's constructor would make new groups and a new state. `__setstate__` does
        # the rest of what it does.
        self.__setstate__({})

    def _to_params(self) -> Dict[str, Any]:
        if self._optimizer_params is None:
            raise NotImplementedError(
                "the inner optimizer was not built from a configuration, so there is none to give"
            )
        return {
            "type": "moving_average",
            "optimizer": copy.deepcopy(self._optimizer_params),
            "moving_average": self.moving_average.to_params().params,
        }

    def __getstate__(self) -> Dict[str, Any]:
        # The base class would copy only the groups and the state. The `step` that a learning rate
        # scheduler gives to the optimizer takes the steps of this object, not those of a copy.
        return {key: value for key, value in vars(self).items() if key != "step"}

    defaults: Any = _of_the_inner_optimizer("defaults")
    param_groups: Any = _of_the_inner_optimizer("param_groups")
    state: Any = _of_the_inner_optimizer("state")

    # The inner optimizer makes and loads its part of the state, so it has to call these hooks.
    register_state_dict_pre_hook: Any = _of_the_inner_optimizer("register_state_dict_pre_hook")
    register_state_dict_post_hook: Any = _of_the_inner_optimizer("register_state_dict_post_hook")
    register_load_state_dict_pre_hook: Any = _of_the_inner_optimizer(
        "register_load_state_dict_pre_hook"
    )
    register_load_state_dict_post_hook: Any = _of_the_inner_optimizer(
        "register_load_state_dict_post_hook"
    )

    def step(self, closure: Optional[Callable[[], Any]] = None) -> Any:
        """
        Takes a step with the inner optimizer, and then updates the average.

        # Returns

        loss : `Any`
            What the inner optimizer returns: the loss of the closure, or `None` without a closure.

        # Raises

        `RuntimeError` : if averages are assigned. Nothing is changed then.
        """
        if self.moving_average.is_assigned:
            raise RuntimeError(
                "the parameters hold their averages at present, which are nothing to take a step "
                "from: call swap_weights() before step()"
            )
        # Some optimizers take no closure, for example AllenNLP's "multi".
        loss = self.optimizer.step() if closure is None else self.optimizer.step(closure)
        if self._averages_at_step:
            self._numbers.apply(self.moving_average.apply)
        return loss

    def hand_over_average(self) -> MovingAverage:
        """
        # Returns

        moving_average : `MovingAverage`
            The average, for a trainer that applies it after each step from now on. `step` no longer
            updates it.
        """
        self._averages_at_step = False
        return self.moving_average

    def zero_grad(self, *args: Any, **kwargs: Any) -> None:
        self.optimizer.zero_grad(*args, **kwargs)

    def add_param_group(self, param_group: Dict[str, Any]) -> None:
        """
        Adds a group to the inner optimizer. Parameters that the average was not built with are not
        averaged.
        """
        num_groups = len(self.param_groups)
        self.optimizer.add_param_group(param_group)
        added = [p for group in self.param_groups[num_groups:] for p in group["params"]]
        num_left_out = sum(self.moving_average.average(parameter) is None for parameter in added)
        if num_left_out:
            logger.warning(
                "%d of the %d added parameters are not averaged: the moving average was built "
                "without them",
                num_left_out,
                len(added),
            )

    def assign_average_vars(
        self, parameters: Optional[Iterable[Union[Tensor, str]]] = None
    ) -> None:
        """
        Gives the parameters their averages, if they do not have them already. `swap_weights` gives
        them their raw values again.

        # Parameters

        parameters : `Iterable[Union[Tensor, str]]`, optional (default = `None`)
            Only these parameters, given as tensors or names. `None` means all.

        # Raises

        `RuntimeError` : while averages are assigned, but not to all of these parameters.
        `ConfigurationError` : if one of `parameters` is not averaged.
        Nothing is changed then.
        """
        names = None
        if parameters is not None:
            # Names are kept, because averages may be assigned several times and an iterator can be
            # read only once.
            names = {self.moving_average.checked_name(each) for each in parameters}
        assigned = self.moving_average.assigned
        if assigned is None:
            self._names_set_aside = names
            self.swap_weights()
            return
        held = assigned.assigned_names
        if held is not None and (names is None or not names <= set(held)):
            raise RuntimeError(
                "averages are assigned at present to other parameters than these: call "
                "swap_weights() before this assign_average_vars()"
            )

    def swap_weights(self) -> None:
        """
        Gives the parameters their averages if they hold their raw values, and their raw values if
        they hold their averages. Two calls change nothing, bit for bit, also within
        `average_values`.
        """
        assigned = self.moving_average.assigned
        if assigned is not None:
            self._num_set_aside = 0
            self._names_set_aside = assigned.assigned_names
            while self.moving_average.is_assigned:
                self.moving_average.restore()
                self._num_set_aside += 1
        else:
            for _ in range(self._num_set_aside):
                self.moving_average.assign_average_value(self._names_set_aside)
            self._num_set_aside, self._names_set_aside = 1, None

    def average_values(self) -> ContextManager[None]:
        """
        A context in which the parameters hold their averages. They get their raw values again, also
        after an exception.
        """
        return self.moving_average.average_values()

    def average(self, parameter_or_name: Union[Tensor, str]) -> Optional[Tensor]:
        """
        # Returns

        average : `Optional[Tensor]`
            The average of a parameter, with the parameter's shape. It is never a copy. `None` if
            the parameter is not averaged.
        """
        return self.moving_average.average(parameter_or_name)

    def state_dict(self, copy: bool = False) -> Dict[str, Any]:
        """
        # Parameters

        copy : `bool`, optional (default = `False`)
            Return copies of the tensors, which later steps and swaps do not change. A state needs
            this if it is kept, or written in the background.

        # Returns

        state : `Dict[str, Any]`
            The state of the inner optimizer, and the state of the average under `"moving_average"`.
            Without `copy` its tensors are references, which the next step or swap changes.
        """
        inner = self.optimizer.state_dict()
        return {
            **(copied(inner) if copy else inner),
            _AVERAGE_KEY: self.moving_average.state_dict(copy),
        }

    def load_state_dict(self, state_dict: Dict[str, Any]) -> None:
        """
        Loads the states of the inner optimizer and of the average.

        # Raises

        `ConfigurationError` : if the state of the average is missing or does not fit. Nothing is
        changed then.
        """
        if _AVERAGE_KEY not in state_dict:
            raise ConfigurationError(
                f'the state of the optimizer has no "{_AVERAGE_KEY}": it is that of an optimizer '
                "without an average"
            )
        load_average = self.moving_average.prepare_load(state_dict[_AVERAGE_KEY])
        self.optimizer.load_state_dict(
            {key: value for key, value in state_dict.items() if key != _AVERAGE_KEY}
        )
        load_average()
        # The updates go on from those of the state.
        self._numbers = UpdateNumbers(self.moving_average)
