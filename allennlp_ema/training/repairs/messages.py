"""
Repairs of AllenNLP's errors and warnings that do not tell a user what to do.
"""

import functools
import warnings
from typing import Any, Callable, List, Optional

from allennlp.common import Lazy, Params, Registrable
from allennlp.common.checks import ConfigurationError
from allennlp.training.moving_average import MovingAverage as AllenNLPMovingAverage

from allennlp_ema.averages.moving_average import MovingAverage
from allennlp_ema.common.from_params import ExplainedFromParams, check_type
from allennlp_ema.common.json_values import misfit
from allennlp_ema.common.nearest_names import did_you_mean


def explain_a_wrong_moving_average() -> None:
    """
    The trainer asks AllenNLP's own base class for an average. The error of that class calls
    `"moving_average": 0.999` "a `params` object that was not a `Params`". It suggests no name for a
    misspelt `"type"`. `Lazy` takes `"moving_average": false` for an empty object, and so for the
    default average.
    """
    stock = vars(AllenNLPMovingAverage).get("from_params", AllenNLPMovingAverage.from_params)

    def check(params: Any) -> None:
        found = misfit("moving_average", params, MovingAverage)
        if found is not None:
            raise ConfigurationError(str(found))

    def from_params(
        cls: Any,
        params: Any,
        constructor_to_call: Optional[Callable[..., Any]] = None,
        constructor_to_inspect: Optional[Callable[..., Any]] = None,
        **extras: Any,
    ) -> Any:
        if cls is AllenNLPMovingAverage:
            check(params)
            check_type(MovingAverage, params)
        return stock.__func__(cls, params, constructor_to_call, constructor_to_inspect, **extras)

    lazy: Any = Lazy
    make_lazy = lazy.__init__

    @functools.wraps(make_lazy)
    def check_lazy(self: Any, constructor: Any, params: Any = None, *args: Any, **kw: Any) -> None:
        if constructor is AllenNLPMovingAverage and params is not None:
            check(params)
        make_lazy(self, constructor, params, *args, **kw)

    average: Any = AllenNLPMovingAverage
    average.from_params = classmethod(from_params)
    lazy.__init__ = check_lazy


def suggest_the_nearest_type() -> None:
    """
    AllenNLP's own base classes choose callbacks, checkpointers and optimizers. Their errors list
    all registered names, but do not suggest the nearest one. It is added to the error if it belongs
    to this package, or to an average or schedule of a user.
    """
    params: Any = Params
    stock = params.pop_choice

    def pop_choice(self: Any, key: str, choices: List[Any], *args: Any, **kwargs: Any) -> Any:
        given = self.params.get(key)
        try:
            return stock(self, key, choices, *args, **kwargs)
        except ConfigurationError as error:
            ending = did_you_mean(given, choices)
            if key != "type" or not any(f'"{name}"' in ending for name in _explained_names()):
                raise
            raise ConfigurationError(error.message.rstrip(".") + ending) from None

    params.pop_choice = pop_choice


def _explained_names() -> List[str]:
    return [
        name
        for registered in Registrable._registry.values()
        for name, (cls, _) in registered.items()
        # Some activations are functions.
        if isinstance(cls, type) and issubclass(cls, ExplainedFromParams)
    ]


def ignore_deprecation_warnings_of_the_trainer() -> None:
    """
    AllenNLP's trainer calls `torch.cuda.amp`, which torch 2.4 deprecated, in each training and
    validation, even without `use_amp`. Users can do nothing about the four lines of warning. They
    are left out only where AllenNLP's trainer causes them, and `-W` or `PYTHONWARNINGS` shows them
    again.
    """
    warnings.filterwarnings(
        "ignore",
        message=r"`torch\.cuda\.amp\.(autocast|GradScaler)\(args\.\.\.\)` is deprecated",
        category=FutureWarning,
        module=r"allennlp\.training\.gradient_descent_trainer$",
        append=True,
    )
