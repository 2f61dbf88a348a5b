import pytest
import torch

from tests.support.every_average import built
from tests.support.trajectories import averages_along, random_walk

ema_pytorch = pytest.importorskip("ema_pytorch")


class Model(torch.nn.Module):
    def __init__(self, value):
        super().__init__()
        self.weight = torch.nn.Parameter(value.clone())


@pytest.mark.parametrize("update_after_step", [0, 20])
def test_inverse_power(update_after_step):
    trajectory = random_walk(100, dtype=torch.float32)
    params = {
        "decay": {"type": "inverse_power", "max_decay": 0.9},
        "start_step": update_after_step + 1,
    }
    ours = averages_along(trajectory, lambda parameters: built(params, parameters))
    model = Model(trajectory[0])
    theirs = ema_pytorch.EMA(model, beta=0.9, update_after_step=update_after_step, update_every=1)
    for step in range(1, 101):
        with torch.no_grad():
            model.weight.copy_(trajectory[step])
        theirs.update()
        assert torch.allclose(ours[step], theirs.ema_model.weight, rtol=1e-5, atol=1e-6)


def test_the_interval_of_a_power_function_average():
    """Where on average the weights come from: ours stays, theirs falls to the beginning."""
    num_updates = 10_000
    positions = torch.arange(num_updates + 1).double() / num_updates
    ours, theirs = {}, {}
    for interval in (1, 100):
        params = {"type": "power_function", "sigma_rel": 0.1, "update_every": interval}
        model = Model(positions[0])
        parameters = list(model.named_parameters())
        average = built(params, parameters)
        karras = ema_pytorch.KarrasEMA(model, sigma_rel=0.1, update_every=interval)
        for step in range(1, num_updates + 1):
            with torch.no_grad():
                model.weight.copy_(positions[step])
            average.apply(step)
            karras.update()
        ours[interval] = average.average("weight").item()
        theirs[interval] = karras.ema_model.weight.item()
    assert ours[1] == pytest.approx(0.888, abs=1e-3)
    # A sample stands for the 100 updates that it ends.
    assert ours[100] == pytest.approx(0.888 + 100 / num_updates / 2, abs=1e-3)
    assert theirs[1] == pytest.approx(0.888, abs=1e-3)
    assert theirs[100] == pytest.approx(0.073, abs=5e-3)
