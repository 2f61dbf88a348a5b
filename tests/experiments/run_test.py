import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from allennlp.commands.train import TrainModel
from allennlp.common import Params
from allennlp.common.util import prepare_environment
from allennlp.training.moving_average import MovingAverage as AllenNLPMovingAverage

from experiments import run
from experiments.evaluate_every_average import EvaluateEveryAverage
from experiments.run import Condition, Experiments, Run, a_tenth_of, with_noisy_tags
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


@pytest.mark.parametrize("treebank", [None, "/nowhere"])
def test_without_a_treebank_one_line_says_so(
    treebank: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("UD_EWT", raising=False)
    if treebank:
        monkeypatch.setenv("UD_EWT", treebank)
    monkeypatch.setattr("sys.argv", ["run"])
    with pytest.raises(SystemExit, match="^UD_EWT .* train.tsv and dev.tsv") as exit:
        run.main()
    assert "\n" not in str(exit.value)


def test_a_run_is_killed_recovered_and_not_run_again(tmp_path: Path) -> None:
    treebank = tmp_path / "treebank"
    treebank.mkdir()
    for name in ("train.tsv", "dev.tsv"):
        shutil.copy(str(DATA / name), str(treebank))
    results = tmp_path / "results"
    experiments = Experiments(
        treebank, tmp_path / "runs", results, {"full": Condition(num_epochs=2)}
    )
    recovered = Run("full", "recovered", 1)

    assert experiments.train([recovered], jobs=1) == []

    assert (tmp_path / "runs" / str(recovered) / "killed").exists()
    result = json.loads((results / f"{recovered}.json").read_text())
    assert [(e["epoch"], e["average"]) for e in result["evaluations"]] == [
        (epoch, weights) for epoch in (1, 2) for weights in ("raw", "average")
    ]

    (results / f"{recovered}.json").unlink()
    assert experiments.train([recovered], jobs=1) == []
    assert not (results / f"{recovered}.json").exists()


@pytest.mark.parametrize("config", sorted({run.config for run in run.RUNS}))
def test_every_configuration_builds(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = Experiments(DATA, tmp_path).environment(Run("full", config, seed=2))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    params = Params.from_file(Path(run.__file__).parent / f"{config}.jsonnet")
    prepare_environment(params)
    trainer = TrainModel.from_params(
        params, serialization_dir=str(tmp_path / "run"), local_rank=0, batch_weight_key=""
    ).trainer
    assert trainer._num_epochs == run.CONDITIONS["full"].num_epochs
    assert isinstance(trainer._moving_average, AllenNLPMovingAverage)
    assert isinstance(trainer._callbacks[0], EvaluateEveryAverage)
