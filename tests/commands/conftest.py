import pytest

from tests.support.recorded_training import RecordedTraining, train_recorded


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> RecordedTraining:
    return train_recorded(tmp_path_factory.mktemp("recorded") / "run")
