from typing import Iterator

import hypothesis
import pytest
import torch
from allennlp.common import Registrable
from allennlp.training.moving_average import MovingAverage as AllenNLPMovingAverage

from allennlp_ema import DecaySchedule

# Nothing here depends on the clock, and a failure is the change's, not the dice's.
hypothesis.settings.register_profile("allennlp_ema", deadline=None, derandomize=True)
hypothesis.settings.load_profile("allennlp_ema")

# For models as small as these, threads only wait for each other.
torch.set_num_threads(1)


@pytest.fixture
def own_names() -> Iterator[None]:
    """The names that a test registers are its own."""
    registries = [Registrable._registry[base] for base in (AllenNLPMovingAverage, DecaySchedule)]
    before = [dict(registry) for registry in registries]
    yield
    for registry, names in zip(registries, before):
        registry.clear()
        registry.update(names)
