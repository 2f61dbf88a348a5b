import json
import os
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
from experiments.plan import CONDITIONS, RUNS, Run
from experiments.run import Experiments
from tests.support.training_runs import DATA


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


def test_only_the_parser_needs_trees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UD_EWT", str(DATA))
    monkeypatch.delenv("UD_EWT_PARSES", raising=False)
    monkeypatch.setattr("sys.argv", ["run", "parser", "--directory", str(tmp_path)])
    with pytest.raises(SystemExit, match="^UD_EWT_PARSES .* train.conllu and dev.conllu"):
        run.main()


def test_a_run_is_killed_recovered_and_not_run_again(tmp_path: Path) -> None:
    treebank = tmp_path / "treebank"
    treebank.mkdir()
    for name in ("train.tsv", "dev.tsv"):
        shutil.copy(str(DATA / name), str(treebank))
    results = tmp_path / "results"
    experiments = Experiments(
        treebank,
        tmp_path / "runs",
        results,
        {"overfitting": CONDITIONS["overfitting"]._replace(num_epochs=2)},
    )
    recovered = Run("overfitting", "recovered", 1)

    assert experiments.train([recovered], jobs=1) == []

    assert (tmp_path / "runs" / str(recovered) / "killed").exists()
    result = json.loads((results / f"{recovered}.json").read_text())
    assert [(e["epoch"], e["average"]) for e in result["evaluations"]] == [
        (epoch, weights) for epoch in (1, 2) for weights in ("raw", "average")
    ]

    (results / f"{recovered}.json").unlink()
    assert experiments.train([recovered], jobs=1) == []
    assert not (results / f"{recovered}.json").exists()


# The parser's model is of a package that the tests do not need, and the long run's data takes long.
KINDS = sorted(
    {
        (r.condition, r.config)
        for r in RUNS
        if r.condition not in ("parser", "long") and not r.config.endswith("soup")
    }
)


@pytest.mark.parametrize("condition, config", KINDS)
def test_every_configuration_builds(
    condition: str, config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = Experiments(DATA, tmp_path).environment(Run(condition, config, seed=2))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    params = Params.from_file(Path(run.__file__).parent / f"{config}.jsonnet")
    prepare_environment(params)
    trainer = TrainModel.from_params(
        params, serialization_dir=str(tmp_path / "run"), local_rank=0, batch_weight_key=""
    ).trainer
    assert trainer._num_epochs == CONDITIONS[condition].num_epochs
    assert int(environment["NUM_UPDATES"]) == (trainer._num_epochs * len(trainer.data_loader))
    assert isinstance(trainer._moving_average, AllenNLPMovingAverage)
    assert isinstance(trainer._callbacks[0], EvaluateEveryAverage)


def test_sentences_of_a_conllu_file_are_counted(tmp_path: Path) -> None:
    (tmp_path / "train.conllu").write_text("1\ta\n2\tb\n\n1\tc\n\n" * 50)
    experiments = Experiments(DATA, tmp_path, parses=tmp_path)
    # 100 sentences in batches of 64.
    epochs = CONDITIONS["parser"].num_epochs
    assert experiments.environment(Run("parser", "constant", 1))["NUM_UPDATES"] == str(2 * epochs)


def test_the_parser_alone_sees_the_package_of_its_model(tmp_path: Path) -> None:
    (tmp_path / "train.conllu").write_text("1\ta\n\n")
    experiments = Experiments(DATA, tmp_path, parses=tmp_path)
    parser, tagger = (
        experiments.environment(Run(condition, "constant", 1))["PYTHONPATH"].split(os.pathsep)
        for condition in ("parser", "tagger")
    )
    assert str(run.MODELS) in parser and str(run.MODELS) not in tagger


def test_halves_are_every_second_sentence(tmp_path: Path) -> None:
    dev = (DATA / "dev.tsv").read_text().splitlines()
    experiments = Experiments(DATA, tmp_path)
    read = {
        name: path.read_text().splitlines()
        for name, path in experiments.dev_and_halves("tagger").items()
    }
    assert read == {"dev": dev, "half_0": dev[0::2], "half_1": dev[1::2]}


def test_sweeps_are_kept_without_the_paths_of_a_machine(tmp_path: Path) -> None:
    swept = Run("tagger", "snapshots", 1)
    directory = tmp_path / "runs" / str(swept)
    (directory / "sweeps" / "dev").mkdir(parents=True)
    (directory / "evaluations.json").write_text(
        '{"wall_seconds": [1], "cpu_seconds": [1], "evaluations": []}'
    )
    (directory / "sweeps" / "dev" / "sweep.csv").write_text(
        "kind,name,sigma_rel,effective_window,residual,data,accuracy,loss\n"
        "raw,raw weights,,,,/home/me/dev.tsv,0.5,2.0\n"
    )
    (directory / "sweeps" / "dev" / "sweep.png").write_bytes(b"picture")
    results = tmp_path / "results"
    Experiments(DATA, tmp_path / "runs", results)._finish(swept)
    (measured,) = json.loads((results / f"{swept}.json").read_text())["sweeps"]["dev"]
    assert measured == {
        "kind": "raw",
        "name": "raw weights",
        "sigma_rel": "",
        "effective_window": "",
        "residual": "",
        "accuracy": "0.5",
        "loss": "2.0",
    }
    assert (results / "sweep.png").read_bytes() == b"picture"
