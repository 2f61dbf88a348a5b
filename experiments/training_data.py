"""
What the experiments train on beside the treebank: a sentence a line, `word###tag` separated by
tabs.
"""

import random
from typing import List

FRACTION = 0.1
NOISE = 0.2


def with_noisy_tags(sentences: List[str], fraction: float = NOISE) -> List[str]:
    """`fraction` of all tags, drawn at random, become another tag, drawn evenly from the others."""
    draw = random.Random(0)
    words = [[word.rsplit("###", 1) for word in line.split("\t")] for line in sentences]
    tags = sorted({tag for sentence in words for _, tag in sentence})
    positions = [(s, w) for s, sentence in enumerate(words) for w in range(len(sentence))]
    for s, w in draw.sample(positions, round(fraction * len(positions))):
        words[s][w][1] = draw.choice([tag for tag in tags if tag != words[s][w][1]])
    return ["\t".join("###".join(word) for word in sentence) for sentence in words]


def a_tenth_of(sentences: List[str], fraction: float = FRACTION) -> List[str]:
    """`fraction` of the sentences, drawn at random, in their order."""
    chosen = random.Random(0).sample(range(len(sentences)), round(fraction * len(sentences)))
    return [sentences[number] for number in sorted(chosen)]


def hidden_markov(num_sentences: int, seed: int) -> List[str]:
    """
    Sentences of 5 to 15 words from a hidden Markov model of 12 tags and 400 words. Most words
    belong to several tags, which only their neighbours tell apart, and never with certainty.

    # Parameters

    num_sentences : `int`
    seed : `int`
        Of the sentences. The model is always the same.
    """
    model = random.Random(0)
    tags, words = range(12), range(400)
    # A third power makes few of the choices likely.
    following = [[model.random() ** 3 for _ in tags] for _ in tags]
    emitted = [[model.random() ** 12 for _ in words] for _ in tags]
    draw = random.Random(seed + 1)
    sentences = []
    for _ in range(num_sentences):
        tag = draw.choice(tags)
        pairs = []
        for _ in range(draw.randint(5, 15)):
            (word,) = draw.choices(words, emitted[tag])
            pairs.append(f"w{word}###t{tag}")
            (tag,) = draw.choices(tags, following[tag])
        sentences.append("\t".join(pairs))
    return sentences
