import torch
from allennlp.common import Params
from allennlp.data import Vocabulary
from allennlp.modules.token_embedders import TokenEmbedder

from experiments.dropped_embedding import DroppedEmbedding

TOKENS = torch.arange(12).repeat(500, 1)


def embedding(**options: float) -> DroppedEmbedding:
    vocabulary = Vocabulary({"tokens": {f"w{number}": 1 for number in range(10)}})
    name = f"{DroppedEmbedding.__module__}.DroppedEmbedding"
    params = Params({"type": name, "embedding_dim": 1, **options})
    built = TokenEmbedder.from_params(params, vocab=vocabulary)
    assert isinstance(built, DroppedEmbedding)
    with torch.no_grad():
        built.weight.copy_(torch.arange(12.0).unsqueeze(1))
    return built


def test_dropped_words_are_unknown_and_padding_stays() -> None:
    torch.manual_seed(0)
    values = embedding(word_dropout=0.25)(TOKENS)[..., 0]
    assert (values[:, 0] == 0).all() and (values[:, 1] == 1).all()
    dropped = values[:, 2:] != TOKENS[:, 2:]
    assert (values[:, 2:][dropped] == 1).all()
    assert 0.22 < dropped.float().mean() < 0.28


def test_dropped_values_are_zero_and_the_others_are_scaled() -> None:
    torch.manual_seed(0)
    values = embedding(dropout=0.5)(TOKENS)[:, 1:, 0]
    dropped = values == 0
    assert 0.45 < dropped.float().mean() < 0.55
    assert (values[~dropped] == 2.0 * TOKENS[:, 1:][~dropped]).all()


def test_nothing_is_dropped_in_evaluation() -> None:
    evaluated = embedding(word_dropout=0.5, dropout=0.5).eval()
    assert (evaluated(TOKENS)[..., 0] == TOKENS).all()
