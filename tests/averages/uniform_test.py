import pytest
import torch
from torch.nn import Linear
from torch.optim.swa_utils import AveragedModel

from allennlp_ema import UniformMovingAverage
from tests.support.every_average import built
from tests.support.trajectories import averages_along, named_parameter, profile, random_walk

pytestmark = pytest.mark.everywhere


def uniform(**settings):
    return lambda parameters: built({"type": "uniform", **settings}, parameters)


def test_is_the_mean_of_what_was_sampled():
    ours = profile(uniform(), 10)
    assert ours[0] == 0.0
    assert torch.allclose(ours[1:], torch.full((10,), 0.1, dtype=torch.float64), rtol=1e-14)
    ours = profile(uniform(start_step=4, update_every=3), 12)
    assert ours.nonzero().flatten().tolist() == [4, 7, 10]
    assert torch.allclose(ours[[4, 7, 10]], torch.tensor(1 / 3).double())


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("start_averaging, average_period", [(0, 1), (0, 10), (5, 1), (7, 4)])
def test_swa_of_tensorflow_addons(start_averaging, average_period, first):
    """`tfa.optimizers.SWA`, whose updates are numbered from 0, the trainer's from 1."""
    trajectory = random_walk(40)
    ours = averages_along(
        trajectory,
        uniform(start_step=start_averaging + first, update_every=average_period),
        range(first, first + 40),
    )
    average = trajectory[0]
    for iteration in range(40):
        snapshots = max(0, (iteration - start_averaging) // average_period)
        if iteration == start_averaging + snapshots * average_period:
            value = trajectory[iteration + 1]
            average = (average * snapshots + value) / (snapshots + 1)
        if iteration >= start_averaging:
            assert torch.allclose(ours[iteration + 1], average)


def test_averaged_model_of_torch():
    model = Linear(3, 2)
    theirs, ours = AveragedModel(model), uniform()(list(model.named_parameters()))
    for number in range(1, 30):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn(parameter.shape), alpha=0.1)
        theirs.update_parameters(model)
        ours.apply(number)
        for name, parameter in theirs.module.named_parameters():
            assert torch.allclose(ours.average(name), parameter, rtol=1e-5, atol=1e-6)


def test_both_names():
    average = built({"type": "swa"}, named_parameter(torch.ones(1)))
    assert type(average) is UniformMovingAverage
    # A state under one name goes on under the other.
    uniform()(named_parameter(torch.zeros(1))).load_state_dict(average.state_dict())
    assert average.to_params().as_dict() == {"type": "uniform"}
