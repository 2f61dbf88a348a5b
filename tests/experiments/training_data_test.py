from typing import Any

from experiments.training_data import a_tenth_of, hidden_markov, with_noisy_tags
from tests.support.training_runs import DATA

SENTENCES = (DATA / "train.tsv").read_text(encoding="utf-8").splitlines()


def words_and_tags(sentences: Any) -> Any:
    pairs = [word.rsplit("###", 1) for line in sentences for word in line.split("\t")]
    return [word for word, _ in pairs], [tag for _, tag in pairs]


def test_a_fifth_of_the_tags_is_wrong_and_nothing_else() -> None:
    words, tags = words_and_tags(SENTENCES)
    noisy = with_noisy_tags(SENTENCES)
    noisy_words, noisy_tags = words_and_tags(noisy)
    assert [line.count("\t") for line in noisy] == [line.count("\t") for line in SENTENCES]
    assert noisy_words == words
    assert sum(a != b for a, b in zip(tags, noisy_tags)) == round(0.2 * len(tags))
    assert set(noisy_tags) <= set(tags)
    assert with_noisy_tags(SENTENCES) == noisy


def test_a_tenth_keeps_whole_sentences_in_their_order() -> None:
    sentences = [str(number) for number in range(200)]
    tenth = a_tenth_of(sentences)
    assert len(tenth) == 20
    assert sorted(set(tenth), key=int) == tenth
    assert tenth != sentences[:20]


def test_sentences_of_one_model_and_of_different_draws() -> None:
    train, dev = hidden_markov(300, seed=0), hidden_markov(100, seed=1)
    assert (len(train), len(dev)) == (300, 100)
    assert hidden_markov(300, seed=0) == train and train[:100] != dev
    assert all(5 <= line.count("\t") + 1 <= 15 for line in train)
    tags_of = {}
    for word, tag in zip(*words_and_tags(train)):
        tags_of.setdefault(word, []).append(tag)
    # By the word alone a good part of the tags cannot be told, and the dev set's words are known.
    known = sum(max(map(tags.count, tags)) for tags in tags_of.values())
    assert 0.5 < known / sum(map(len, tags_of.values())) < 0.8
    words, _ = words_and_tags(dev)
    assert sum(word in tags_of for word in words) > 0.95 * len(words)
