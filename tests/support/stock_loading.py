"""
Makes AllenNLP's base class of averages load states as it does without the repair.
"""

from typing import Any, ContextManager, Dict
from unittest import mock

from allennlp.training.moving_average import MovingAverage as AllenNLPMovingAverage


def stock_loading() -> ContextManager[Any]:
    """A context in which a state's parameters take the place of the live ones."""
    return mock.patch.object(AllenNLPMovingAverage, "load_state_dict", _load_state_dict)


def _load_state_dict(self: Any, state_dict: Dict[str, Any]) -> None:
    vars(self).update({f"_{key}": value for key, value in state_dict.items()})
