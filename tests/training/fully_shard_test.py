"""
FSDP2's `fully_shard`: two processes over gloo, and the same training on one.
"""

from typing import Any, Dict

import pytest
import torch
from torch import Tensor

from tests.shadow_weights.sharded_test import needs_fully_shard
from tests.support.every_average import built
from tests.support.sharded_training import (
    CASES,
    NUM_STEPS,
    batches,
    new_model,
    train_on_all,
    train_on_one,
)
from tests.support.training_runs import differences

pytestmark = needs_fully_shard


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Dict[str, Any]:
    return train_on_all(tmp_path_factory.mktemp("sharded"))


def assert_close(one: Dict[str, Tensor], other: Dict[str, Tensor], dtype: torch.dtype) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        # Gradients are summed up in another order.
        tolerance = 1e-5 if dtype == torch.float32 else 2e-2
        torch.testing.assert_close(value, other[name], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("case", sorted(CASES))
class TestTraining:
    def test_is_that_on_one_process(self, results: Dict[str, Any], case: str) -> None:
        _, validated = results[case]
        on_one, dtype = train_on_one(CASES[case]), CASES[case].dtype
        for weights, weights_on_one in zip(validated["trajectory"], on_one["trajectory"]):
            assert_close(weights, weights_on_one, dtype)
        assert_close(validated["averages"], on_one["averages"], dtype)

    def test_validations_with_averages_change_nothing(
        self, results: Dict[str, Any], case: str
    ) -> None:
        not_validated, validated = results[case]
        assert validated["restored"]
        for key in ("trajectory", "averages"):
            assert differences(validated[key], not_validated[key]) == []

    def test_averages_and_what_they_compute(self, results: Dict[str, Any], case: str) -> None:
        _, validated = results[case]
        configuration, dtype = CASES[case].average, CASES[case].dtype
        weights, averaged_model = new_model(dtype), new_model(dtype)
        average = built(configuration, weights.named_parameters())
        for step in range(NUM_STEPS):
            weights.load_state_dict(validated["trajectory"][step + 1])
            average.apply(step + 1)
            averages = dict(average.named_averages())
            averaged_model.load_state_dict(averages)
            with torch.no_grad():
                output = averaged_model(batches(dtype)[0])
            torch.testing.assert_close(validated["outputs"][step], output)
        assert differences(validated["averages"], averages) == []


def test_distributed_checkpoints_and_whole_states(results: Dict[str, Any]) -> None:
    found = results["checkpoint"]
    assert found["num_updates"] == [NUM_STEPS] * 3
    saved, loaded, from_whole = found["averages"]
    assert differences(saved, loaded) == differences(saved, from_whole) == []
    # Of five rows the first process has three, and the last bias.
    assert [tuple(size) for size in found["own_sizes"]] == [
        (3, 5),
        (3,),
        (3, 5),
        (3,),
        (1, 5),
        (1,),
    ]
