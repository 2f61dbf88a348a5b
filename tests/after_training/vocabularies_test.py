from pathlib import Path
from typing import Dict

import pytest
from allennlp.common.checks import ConfigurationError

from allennlp_ema.after_training.vocabularies import check_vocabularies

FILES = {
    "labels": "D\nN\n",
    "tokens": "@@UNKNOWN@@\na\rb\nc",
    "non_padded_namespaces": "*tags\n*labels\n",
}


def run(directory: Path, files: Dict[str, str]) -> Path:
    (directory / "vocabulary").mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    for name, text in files.items():
        (directory / "vocabulary" / f"{name}.txt").write_bytes(text.encode())
    return directory


def test_what_says_the_same_is_the_same(tmp_path):
    """The last end of a line says nothing, nor does the order of a set."""
    other = {**FILES, "tokens": FILES["tokens"] + "\n", "labels": "D\nN"}
    other["non_padded_namespaces"] = "*labels\n*tags\n"
    check_vocabularies([run(tmp_path / "a", FILES), run(tmp_path / "b", other)])


@pytest.mark.parametrize(
    "changed, difference",
    [
        ({"labels": "D\nV\n"}, 'b has "V" in line 2 of the namespace "labels", but .*a has "N"'),
        ({"labels": "D\n"}, 'b has nothing in line 2 of the namespace "labels", but .*a has "N"'),
        ({"labels": "D\nN\nV"}, 'b has "V" in line 3 of the namespace "labels", but .* nothing'),
        ({"chars": "x"}, 'b has a namespace "chars", but .*a has none'),
        ({"non_padded_namespaces": "*tags\n"}, 'line 1 of the namespace "non_padded_namespaces"'),
    ],
)
def test_the_first_difference_is_named(changed, difference, tmp_path):
    paths = [
        run(tmp_path / name, files)
        for name, files in (("a", FILES), ("c", FILES), ("b", {**FILES, **changed}))
    ]
    with pytest.raises(ConfigurationError, match=difference + ".*: they have to have one voc"):
        check_vocabularies(paths)


def test_a_namespace_or_a_vocabulary_that_is_missing_is_named(tmp_path):
    whole = run(tmp_path / "a", FILES)
    fewer = run(tmp_path / "b", {"labels": FILES["labels"]})
    with pytest.raises(ConfigurationError, match='b has no namespace "non_.*", but .*a has'):
        check_vocabularies([whole, fewer])
    with pytest.raises(ConfigurationError, match="c/vocabulary: there is no vocabulary"):
        check_vocabularies([whole, run(tmp_path / "c", {})])
