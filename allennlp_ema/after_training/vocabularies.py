"""
Checks that several models have the same vocabulary.
"""

from itertools import zip_longest
from pathlib import Path
from typing import Dict, List, Optional, Sequence

from allennlp.common.checks import ConfigurationError
from allennlp.data.vocabulary import NAMESPACE_PADDING_FILE

from allennlp_ema.after_training.finished_training import FinishedTraining
from allennlp_ema.after_training.unpacked_archives import opened

# The lines of each vocabulary file, by namespace.
Vocabulary = Dict[str, List[str]]


def check_vocabularies(paths: Sequence[Path]) -> None:
    """
    # Raises

    `ConfigurationError` : naming the first model whose vocabulary differs from that of the model at
        `paths[0]`, and the first difference.
    """
    first: Vocabulary = {}
    for path in paths:
        with opened(path) as training:
            vocabulary = _vocabulary(training)
        first = first or vocabulary
        difference = _difference(path, vocabulary, paths[0], first)
        if difference is not None:
            raise ConfigurationError(f"{difference}: they have to have one vocabulary")


def _vocabulary(training: FinishedTraining) -> Vocabulary:
    directory = training.serialization_dir / "vocabulary"
    vocabulary = {
        # As in AllenNLP, only "\n" ends a line, because tokens may contain other line ends.
        file.stem: file.read_bytes().decode("utf-8", "backslashreplace").rstrip("\n").split("\n")
        for file in sorted(directory.glob("*.txt"))
    }
    if not vocabulary:
        raise ConfigurationError(f"{directory}: there is no vocabulary")
    padding = Path(NAMESPACE_PADDING_FILE).stem
    if padding in vocabulary:
        # AllenNLP writes this set in an arbitrary order.
        vocabulary[padding].sort()
    return vocabulary


def _difference(path: Path, one: Vocabulary, other_path: Path, other: Vocabulary) -> Optional[str]:
    for namespace in [*other, *one]:
        if namespace not in one:
            return f'{path} has no namespace "{namespace}", but {other_path} has'
        if namespace not in other:
            return f'{path} has a namespace "{namespace}", but {other_path} has none'
        lines = zip_longest(one[namespace], other[namespace])
        for number, (here, there) in enumerate(lines, 1):
            if here != there:
                return (
                    f'{path} has {_token(here)} in line {number} of the namespace "{namespace}", '
                    f"but {other_path} has {_token(there)}"
                )
    return None


def _token(line: Optional[str]) -> str:
    return f'"{line}"' if line else "nothing"
