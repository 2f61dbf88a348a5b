import numpy
import pytest
import torch

from tests.support.every_average import built
from tests.support.trajectories import averages_along, profile, random_walk, weighted_along

pytestmark = pytest.mark.everywhere


def polynomial(**settings):
    return lambda parameters: built({"type": "polynomial", **settings}, parameters)


@pytest.mark.parametrize("eta", [0, 3.5, 8])
def test_shamir_and_zhang(eta):
    """Section 4: `average = (1 - (eta + 1) / (t + eta)) average + (eta + 1) / (t + eta) w_t`."""
    trajectory = random_walk(40)
    weights = [(eta + 1) / (update + eta) for update in range(1, 41)]
    ours = averages_along(trajectory, polynomial(eta=eta))
    assert torch.allclose(ours, weighted_along(trajectory, weights))


def test_eta_is_8_unless_given():
    trajectory = random_walk(20)
    given = averages_along(trajectory, polynomial(eta=8.0))
    assert torch.equal(averages_along(trajectory, polynomial()), given)


def test_eta_0_is_the_mean():
    trajectory = random_walk(30)
    uniform = averages_along(trajectory, lambda p: built({"type": "uniform"}, p))
    assert torch.allclose(averages_along(trajectory, polynomial(eta=0)), uniform)


@pytest.mark.parametrize("interval", [1, 5])
@pytest.mark.parametrize("start_step", [0, 20])
def test_profile(start_step, interval):
    """For eta 3 update t of T weighs t (t+1) (t+2), and a sample stands for those before it."""
    num_updates = 60
    ours = profile(
        polynomial(eta=3, start_step=start_step, update_every=interval), start_step + num_updates
    )[start_step:]
    t = numpy.arange(num_updates + 1.0)
    weights = t * (t + 1) * (t + 2)
    weights /= weights.sum()
    expected = weights[1:].reshape(-1, interval).sum(1)
    assert torch.allclose(ours[interval::interval], torch.from_numpy(expected), rtol=1e-11)
    assert ours.count_nonzero() == num_updates // interval
