from typing import Iterator

import pytest
import torch

from tests.support.recorded_training import RecordedTraining, train_recorded


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> RecordedTraining:
    return train_recorded(tmp_path_factory.mktemp("recorded") / "run")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)
