"""
A tagger with tied weights, as in a language model.
"""

from typing import Any

import torch
from allennlp.models import SimpleTagger


class TiedTagger(SimpleTagger):
    """The weight of its linear layer is that of its embedding."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        weight = self.text_field_embedder._token_embedders["tokens"].weight
        self.output = torch.nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        self.output.weight = weight

    def get_extra_state(self) -> Any:
        return {"is_tied": True}

    def set_extra_state(self, state: Any) -> None:
        assert state == {"is_tied": True}
