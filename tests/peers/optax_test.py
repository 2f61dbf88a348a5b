import numpy
import pytest
import torch

from tests.support.every_average import built
from tests.support.trajectories import averages_along, random_walk

optax = pytest.importorskip("optax")
jax = pytest.importorskip("jax")


def test_ema_with_debias():
    trajectory = random_walk(200, dtype=torch.float32)
    params = {"decay": {"type": "constant", "decay": 0.99}, "zero_debias": True}
    ours = averages_along(trajectory, lambda parameters: built(params, parameters))
    ema = optax.ema(0.99, debias=True)
    state = ema.init(jax.numpy.zeros(5))
    for number, value in enumerate(trajectory[1:], start=1):
        theirs, state = ema.update(jax.numpy.asarray(value.numpy()), state)
        numpy.testing.assert_allclose(ours[number].numpy(), theirs, rtol=1e-4, atol=1e-5)


def test_incremental_update_is_the_plain_exponential_average():
    trajectory = random_walk(200, dtype=torch.float32)
    params = {"decay": {"type": "constant", "decay": 0.99}}
    ours = averages_along(trajectory, lambda parameters: built(params, parameters))
    theirs = jax.numpy.asarray(trajectory[0].numpy())
    for number, value in enumerate(trajectory[1:], start=1):
        theirs = optax.incremental_update(jax.numpy.asarray(value.numpy()), theirs, 1 - 0.99)
        numpy.testing.assert_allclose(ours[number].numpy(), theirs, rtol=1e-5, atol=1e-6)
