"""
States that an earlier version wrote.
"""

from pathlib import Path

import pytest
import torch
from torch.nn import Parameter

from allennlp_ema.averages.snapshot_files import read_snapshot
from allennlp_ema.averages.specifications import build_average
from allennlp_ema.weighting.profiles import expected_counts
from tests.support.every_average import EVERY_AVERAGE, built

pytestmark = pytest.mark.everywhere

WRITTEN_BEFORE = Path(__file__).parent.parent.parent / "fixtures" / "written_before"
STATES = torch.load(str(WRITTEN_BEFORE / "states.th"))


@pytest.mark.parametrize("name", STATES)
def test_a_state_of_an_earlier_version_is_loaded(name):
    parameters = [
        ("module.weight", Parameter(torch.zeros(3))),
        ("module.half", Parameter(torch.zeros(2, dtype=torch.bfloat16))),
    ]
    average = built(EVERY_AVERAGE[name], parameters, start_step=2)
    average.load_state_dict(STATES[name]["state"])
    assert average.num_updates == 8
    for key, value in average.named_averages():
        assert torch.equal(value, STATES[name]["averages"][key[len("module.") :]])


def test_a_snapshot_of_an_earlier_version_is_read():
    snapshot = read_snapshot(WRITTEN_BEFORE / "update_0000000008.long.safetensors")
    assert snapshot.specification == {"type": "power_function", "sigma_rel": 0.1}
    weighting = build_average(snapshot.specification).weighting
    assert expected_counts(weighting, [8])[0].last_weight == snapshot.counts.last_weight
