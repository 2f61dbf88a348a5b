from typing import Any

import torch
from allennlp.modules.token_embedders import Embedding, TokenEmbedder


@TokenEmbedder.register("dropped_embedding", constructor="from_vocab_or_file")
class DroppedEmbedding(Embedding):
    """
    An embedding that drops words and values at random while it is trained. A dropped word becomes
    the unknown word (Dyer et al. 2015).

    Registered as a `TokenEmbedder` with name "dropped_embedding".

    # Parameters

    word_dropout : `float`, optional (default = `0.0`)
        The share of words.
    dropout : `float`, optional (default = `0.0`)
        The share of values.
    """

    UNKNOWN = 1

    def __init__(self, word_dropout: float = 0.0, dropout: float = 0.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.word_dropout = word_dropout
        self.dropout = torch.nn.Dropout(dropout)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        if self.training and self.word_dropout:
            dropped = torch.rand(tokens.shape, device=tokens.device) < self.word_dropout
            # Padding stays what it is.
            tokens = tokens.masked_fill(dropped & (tokens > 0), self.UNKNOWN)
        return self.dropout(super().forward(tokens))
