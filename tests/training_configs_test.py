import shutil
from pathlib import Path

import pytest
from allennlp.commands.train import TrainModel
from allennlp.common import Params

from allennlp_ema import (
    BankMovingAverage,
    ExponentialMovingAverage,
    MovingAverage,
    PolynomialMovingAverage,
    PowerFunctionMovingAverage,
    UniformMovingAverage,
    WindowMovingAverage,
)
from tests.support.training_runs import DATA, REPOSITORY

pytestmark = pytest.mark.everywhere

CONFIGS = sorted((REPOSITORY / "training_configs").glob("*.jsonnet"))


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests' own data, where each of the configurations looks for its data."""
    shutil.copytree(str(DATA), str(tmp_path / "data" / "python_tokens"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UD_EWT", str(DATA))


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.stem)
def test_every_shipped_configuration_builds_and_averages_all_its_weights(config, data, tmp_path):
    train_model = TrainModel.from_params(
        Params.from_file(config),
        serialization_dir=str(tmp_path / "run"),
        local_rank=0,
        batch_weight_key="",
    )
    moving_average = train_model.trainer._moving_average
    assert isinstance(moving_average, MovingAverage)
    averaged = {name for name, _ in moving_average.named_averages()}
    assert averaged == {name for name, _ in train_model.model.named_parameters()}


def test_every_type_of_average_is_in_one_of_them(data):
    types = set()
    for config in CONFIGS:
        trainer = Params.from_file(config).as_dict()["trainer"]
        if trainer.get("moving_average"):
            types.add(MovingAverage.by_name(trainer["moving_average"]["type"]))
    assert types >= {
        BankMovingAverage,
        ExponentialMovingAverage,
        PolynomialMovingAverage,
        PowerFunctionMovingAverage,
        UniformMovingAverage,
        WindowMovingAverage,
    }
