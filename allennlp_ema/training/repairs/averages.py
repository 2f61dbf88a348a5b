"""
A repair of AllenNLP's base class of moving averages, without which `--recover` loses averages.
"""

from typing import Any, Dict

from allennlp.common.checks import ConfigurationError
from allennlp.training.moving_average import MovingAverage as AllenNLPMovingAverage


def load_states_into_the_live_tensors() -> None:
    """
    AllenNLP's `load_state_dict` replaced its references to the model's parameters by the unpickled
    copies in the state. So after `--recover` an average written for its base class averaged tensors
    that no training changes, and the model was validated and saved with raw weights.
    """

    def load_state_dict(self: Any, state_dict: Dict[str, Any]) -> None:
        for key in ("shadows", "backups"):
            present = getattr(self, f"_{key}")
            if present.keys() != state_dict[key].keys():
                names = ", ".join(sorted(present.keys() ^ state_dict[key].keys()))
                raise ConfigurationError(
                    f'the state\'s "{key}" has other parameters than the moving average: {names}'
                )
        for key in ("shadows", "backups"):
            for name, value in state_dict[key].items():
                getattr(self, f"_{key}")[name].copy_(value)

    average: Any = AllenNLPMovingAverage
    average.load_state_dict = load_state_dict
