import numpy
import pytest
import torch

from tests.support.every_average import built
from tests.support.trajectories import (
    averages_along,
    named_parameter,
    profile,
    random_walk,
    weighted_along,
)

pytestmark = pytest.mark.everywhere


def power_function(**settings):
    return lambda parameters: built({"type": "power_function", **settings}, parameters)


def exponent_of(sigma_rel):
    """Karras et al. 2023, eq. 126, solved for gamma as EDM2's own code does."""
    roots = numpy.roots([1, 7, 16 - sigma_rel**-2, 12 - sigma_rel**-2])
    return roots.real.max()


@pytest.mark.parametrize("interval", [1, 4])
@pytest.mark.parametrize("settings", [{"sigma_rel": 0.05}, {"sigma_rel": 0.25}, {"gamma": 6.94}])
def test_edm2(settings, interval):
    """Eq. 127: `beta = (1 - t_delta / t_next) ** (gamma + 1)`."""
    gamma = settings.get("gamma") or exponent_of(settings["sigma_rel"])
    trajectory = random_walk(48)
    weights = [
        0.0 if update % interval else 1 - (1 - interval / update) ** (gamma + 1)
        for update in range(1, 49)
    ]
    # Until there is a sample the average is the parameters.
    weights[: interval - 1] = [1.0] * (interval - 1)
    ours = averages_along(trajectory, power_function(update_every=interval, **settings))
    assert torch.allclose(ours, weighted_along(trajectory, weights), rtol=1e-9)


@pytest.mark.parametrize("interval", [1, 5])
@pytest.mark.parametrize("start_step", [0, 20])
def test_profile_is_the_power_function(start_step, interval):
    """A sample stands for the stretch of updates before it: the integral of t^gamma over it."""
    gamma, num_updates = 3.0, 200
    ours = profile(
        power_function(gamma=gamma, start_step=start_step, update_every=interval),
        start_step + num_updates,
    )[start_step:]
    samples = numpy.arange(interval, num_updates + 1, interval)
    expected = (samples / num_updates) ** 4 - ((samples - interval) / num_updates) ** 4
    assert torch.allclose(ours[samples], torch.from_numpy(expected), rtol=1e-10)
    assert ours.count_nonzero() == len(samples)


@pytest.mark.parametrize("interval", [1, 100])
def test_mean_averaging_position_does_not_depend_on_the_interval(interval):
    """(gamma + 1) / (gamma + 2) of training, which is 0.888 for sigma_rel 0.1."""
    num_updates = 20_000
    parameters = named_parameter(torch.zeros(1, dtype=torch.float64))
    average = power_function(sigma_rel=0.1, update_every=interval)(parameters)
    with torch.no_grad():
        for update in range(1, num_updates + 1):
            parameters[0][1].fill_(update / num_updates)
            average.apply(update)
    gamma = exponent_of(0.1)
    # A sample stands for the stretch that it ends.
    expected = (gamma + 1) / (gamma + 2) + interval / num_updates / 2
    assert average.average("weight").item() == pytest.approx(expected, abs=1e-4)
    assert average.average("weight").item() == pytest.approx(0.888, abs=4e-3)


def test_sigma_rel_is_the_width_of_the_profile():
    ours = profile(power_function(sigma_rel=0.15), 2000).numpy()
    position = numpy.arange(2001) / 2000
    mean = (ours * position).sum()
    width = numpy.sqrt((ours * (position - mean) ** 2).sum())
    assert width == pytest.approx(0.15, abs=1e-4)


def test_the_schedule_of_that_name_is_the_same_average():
    trajectory = random_walk(30)
    schedule = {"type": "power_function", "sigma_rel": 0.1}
    as_schedule = averages_along(trajectory, lambda p: built({"decay": schedule}, p))
    assert torch.equal(as_schedule, averages_along(trajectory, power_function(sigma_rel=0.1)))


def test_gamma_0_is_the_mean():
    trajectory = random_walk(30)
    uniform = averages_along(trajectory, lambda p: built({"type": "uniform"}, p))
    assert torch.allclose(averages_along(trajectory, power_function(gamma=0)), uniform)


@pytest.mark.parametrize("settings", [{"sigma_rel": 0.1}, {"gamma": 6.94}])
def test_to_params_has_the_one_that_was_given(settings):
    average = power_function(**settings)(named_parameter(torch.ones(1)))
    assert average.to_params().as_dict() == {"type": "power_function", **settings}
