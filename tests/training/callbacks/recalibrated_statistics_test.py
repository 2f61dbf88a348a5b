import copy
import math
from pathlib import Path
from typing import Any, Dict, List, Optional

import pytest
import torch
from allennlp.common.util import lazy_groups_of
from allennlp.data import Batch, Instance, Vocabulary
from allennlp.data.data_loaders import SimpleDataLoader
from allennlp.data.fields import ArrayField
from allennlp.models import Model
from allennlp.training import GradientDescentTrainer
from torch.optim.swa_utils import update_bn

from allennlp_ema import BankMovingAverage, ExponentialMovingAverage
from allennlp_ema.training.callbacks.recalibrated_statistics import (
    RecalibratedStatistics,
    norms_with_statistics,
)

NUM_INSTANCES, BATCH_SIZE = 22, 4


class NormModel(Model):
    """
    Norms of all kinds. `"twice"` is called twice in each forward pass, `"never"` in none, and
    `"frozen"` stays in evaluation mode.
    """

    def __init__(self) -> None:
        super().__init__(Vocabulary())
        self.linear = torch.nn.Linear(3, 3)
        self.plain = torch.nn.BatchNorm1d(3, momentum=0.3)
        self.twice = torch.nn.BatchNorm1d(3, momentum=None)
        self.never = torch.nn.BatchNorm1d(3)
        self.frozen = torch.nn.BatchNorm1d(3)
        self.without_statistics = torch.nn.BatchNorm1d(3, track_running_stats=False)
        self.instance = torch.nn.InstanceNorm1d(3, track_running_stats=True)
        self.layer = torch.nn.LayerNorm(3)
        self.register_buffer("num_seen", torch.tensor(0.0))
        self.fails = False

    def train(self, mode: bool = True) -> "NormModel":
        super().train(mode)
        self.frozen.eval()
        return self

    def forward(self, values: torch.Tensor) -> Dict[str, torch.Tensor]:
        if self.fails:
            raise KeyboardInterrupt
        hidden = self.layer(self.plain(self.linear(values)))
        hidden = self.frozen(self.twice(self.twice(hidden) * 2.0 + 1.0))
        hidden = self.without_statistics(hidden)
        self.instance(hidden.view(1, -1, 3).transpose(1, 2))
        self.num_seen += len(values)
        return {"loss": hidden.square().mean()}


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(5)


def instances() -> List[Instance]:
    generator = torch.Generator().manual_seed(9)
    return [
        Instance({"values": ArrayField(torch.randn(3, generator=generator).numpy())})
        for _ in range(NUM_INSTANCES)
    ]


def trainer_of(model: Model, directory: Path, **loader: Any) -> GradientDescentTrainer:
    """A trainer with an average that differs from the model."""
    average = ExponentialMovingAverage(list(model.named_parameters()))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    data_loader = SimpleDataLoader(instances(), BATCH_SIZE, **loader)
    trainer = GradientDescentTrainer(
        model, optimizer, data_loader, moving_average=average, serialization_dir=str(directory)
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += torch.randn(parameter.shape)
        for buffer in model.buffers():
            if buffer.is_floating_point():
                buffer.uniform_(0.5, 2.0)
            else:
                buffer.fill_(7)
        # The raw weights may have come to this.
        model.plain.running_var[0] = math.inf
    return trainer


def batches() -> List[Dict[str, Any]]:
    return [Batch(group).as_tensor_dict() for group in lazy_groups_of(instances(), BATCH_SIZE)]


def recalibrated_by_torch(model: NormModel, num_batches: Optional[int] = None) -> NormModel:
    """A copy of the model as it is, with the statistics that torch's own `update_bn` gives it."""
    model = copy.deepcopy(model)
    # Out of the sight of torch 1.12, which takes all norms to have statistics.
    without_statistics = model.without_statistics
    del model.without_statistics
    object.__setattr__(model, "without_statistics", without_statistics)

    class OfOneArgument(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, batch: Dict[str, torch.Tensor]) -> None:
            model(**batch)

    update_bn(batches()[:num_batches], OfOneArgument())
    return model


def state_of(model: Model) -> Any:
    return [
        [(name, parameter.tolist()) for name, parameter in model.named_parameters()],
        [(name, buffer.tolist()) for name, buffer in model.named_buffers()],
        [norm.momentum for norm in norms_with_statistics(model).values()],
        [module.training for module in model.modules()],
    ]


def attach(trainer: GradientDescentTrainer, num_batches: int = 100) -> None:
    average: Any = trainer._moving_average
    average.attach(RecalibratedStatistics(trainer, num_batches))


@pytest.mark.parametrize("num_batches", [2, 6, 100])
def test_statistics_are_those_of_torchs_update_bn(num_batches: int, tmp_path: Path) -> None:
    model = NormModel()
    trainer = trainer_of(model, tmp_path)
    before = state_of(model)
    attach(trainer, num_batches)
    with trainer._moving_average.average_values():
        expected = recalibrated_by_torch(model, num_batches)
        for name in ("plain", "twice"):
            norm, other = getattr(model, name), getattr(expected, name)
            assert torch.equal(norm.running_mean, other.running_mean)
            assert torch.equal(norm.running_var, other.running_var)
            assert norm.num_batches_tracked == other.num_batches_tracked
    assert state_of(model) == before


def test_instance_norms_get_means_over_batches_too(tmp_path: Path) -> None:
    model = NormModel()
    trainer = trainer_of(model, tmp_path)
    attach(trainer, 3)
    with trainer._moving_average.average_values():
        recalibrated = model.instance.running_mean.clone()
        of_batches = []
        for batch in batches()[:3]:
            copied = copy.deepcopy(model).train()
            copied.instance.momentum = 1.0
            copied(**batch)
            of_batches.append(copied.instance.running_mean)
    assert torch.allclose(recalibrated, torch.stack(of_batches).mean(0), atol=1e-6)


@pytest.mark.parametrize("name", ["never", "frozen"])
def test_norms_that_gather_nothing_keep_what_they_have(name: str, tmp_path: Path) -> None:
    model = NormModel()
    trainer = trainer_of(model, tmp_path)
    attach(trainer)
    norm = getattr(model, name)
    before = {key: value.clone() for key, value in norm.named_buffers()}
    with trainer._moving_average.average_values():
        assert all(torch.equal(value, before[key]) for key, value in norm.named_buffers())


def test_other_buffers_do_not_notice(tmp_path: Path) -> None:
    model = NormModel()
    trainer = trainer_of(model, tmp_path)
    attach(trainer)
    before = model.num_seen.clone()
    with trainer._moving_average.average_values():
        assert torch.equal(model.num_seen, before)


def test_order_of_the_data_is_as_it_was(tmp_path: Path) -> None:
    trainer = trainer_of(NormModel(), tmp_path, shuffle=True)
    before = list(trainer.data_loader.instances)
    attach(trainer)
    with trainer._moving_average.average_values():
        pass
    assert trainer.data_loader.instances == before


class TestWhenItIsComputed:
    @pytest.fixture
    def forward_passes(self, monkeypatch: pytest.MonkeyPatch) -> List[int]:
        passes: List[int] = []
        forward = NormModel.forward

        def count_and_forward(model: NormModel, values: torch.Tensor) -> Any:
            passes.append(len(values))
            return forward(model, values)

        monkeypatch.setattr(NormModel, "forward", count_and_forward)
        return passes

    def test_once_for_each_change(self, tmp_path: Path, forward_passes: List[int]) -> None:
        model = NormModel()
        trainer = trainer_of(model, tmp_path)
        average: Any = trainer._moving_average
        attach(trainer)
        assert forward_passes == []
        with average.average_values():
            with average.average_values():
                first = model.plain.running_mean.clone()
        with average.average_values():
            assert torch.equal(model.plain.running_mean, first)
        assert forward_passes == [4, 4, 4, 4, 4, 2]
        average.apply()
        assert len(forward_passes) == 6
        with average.average_values():
            assert not torch.equal(model.plain.running_mean, first)
        assert len(forward_passes) == 12

    def test_again_for_averages_that_were_loaded(
        self, tmp_path: Path, forward_passes: List[int]
    ) -> None:
        model = NormModel()
        trainer = trainer_of(model, tmp_path)
        average: Any = trainer._moving_average
        attach(trainer)
        with average.average_values():
            first = model.plain.running_mean.clone()
        other = {name: value + 1.0 for name, value in average.named_averages()}
        state = {**average.state_dict(), "averages": other}
        del state["attachments"]
        average.load_state_dict(state)
        with average.average_values():
            assert not torch.equal(model.plain.running_mean, first)

    def test_not_again_after_a_recovery(self, tmp_path: Path, forward_passes: List[int]) -> None:
        model = NormModel()
        trainer = trainer_of(model, tmp_path)
        average: Any = trainer._moving_average
        average.apply()
        attach(trainer)
        before = average.state_dict()
        assert before["attachments"]["recalibrated_statistics"]["own"] == {}
        with average.average_values():
            first = model.plain.running_mean.clone()
        state = average.state_dict()
        passes = len(forward_passes)

        recovered = NormModel()
        trainer = trainer_of(recovered, tmp_path)
        average = trainer._moving_average
        # The trainer loads the state before its callbacks attach anything.
        average.load_state_dict(state)
        attach(trainer)
        with average.average_values():
            assert torch.equal(recovered.plain.running_mean, first)
        assert len(forward_passes) == passes
        average.apply()
        with average.average_values():
            pass
        assert len(forward_passes) > passes


def test_each_average_of_a_bank_has_its_own(tmp_path: Path) -> None:
    model = NormModel()
    trainer = trainer_of(model, tmp_path)
    parameters = list(model.named_parameters())
    averages: Any = {
        "early": trainer._moving_average,
        "late": ExponentialMovingAverage(parameters),
    }
    bank = BankMovingAverage(parameters, averages, active="late")
    bank.attach(RecalibratedStatistics(trainer, 100))
    raw = model.plain.running_mean.clone()
    with bank.average_values():
        late = model.plain.running_mean.clone()
        assert torch.equal(late, recalibrated_by_torch(model).plain.running_mean)
    with bank.averages["early"].average_values():
        early = model.plain.running_mean.clone()
        assert torch.equal(early, recalibrated_by_torch(model).plain.running_mean)
    with bank.average_values():
        assert torch.equal(model.plain.running_mean, late)
    assert torch.equal(model.plain.running_mean, raw)
    assert len({tuple(values.tolist()) for values in (raw, late, early)}) == 3


@pytest.mark.parametrize("batches_per_epoch", [None, 2])
def test_all_data_there_is_is_used(batches_per_epoch: Optional[int], tmp_path: Path) -> None:
    model = NormModel()
    trainer = trainer_of(model, tmp_path, batches_per_epoch=batches_per_epoch)
    attach(trainer)
    with trainer._moving_average.average_values():
        assert model.plain.num_batches_tracked == 6


def test_exhausted_loader_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer = trainer_of(NormModel(), tmp_path)
    average: Any = trainer._moving_average
    attach(trainer, num_batches=7)
    for _ in range(2):
        average.apply()
        with average.average_values():
            pass
    (warning,) = [message for message in caplog.messages if "batches" in message]
    assert "over 7 batches" in warning and "has only 6: all of these are used" in warning


def test_nothing_is_said_of_a_loader_that_has_enough(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = trainer_of(NormModel(), tmp_path)
    attach(trainer, num_batches=6)
    with trainer._moving_average.average_values():
        pass
    assert not [message for message in caplog.messages if "batches" in message]


def test_without_data_the_raw_statistics_stay(tmp_path: Path) -> None:
    model = NormModel()
    trainer = trainer_of(model, tmp_path)
    trainer.data_loader.instances.clear()
    attach(trainer)
    raw = model.plain.running_mean.clone()
    with trainer._moving_average.average_values():
        assert torch.equal(model.plain.running_mean, raw)


def test_interrupted_computation_leaves_the_raw_model(tmp_path: Path) -> None:
    model = NormModel()
    trainer = trainer_of(model, tmp_path)
    average: Any = trainer._moving_average
    attach(trainer)
    before = state_of(model)
    model.fails = True
    with pytest.raises(KeyboardInterrupt):
        average.assign_average_value()
    assert not average.is_assigned
    assert state_of(model) == before
    assert not model.plain._forward_pre_hooks
    model.fails = False
    with average.average_values():
        assert state_of(model) != before
    assert state_of(model) == before
