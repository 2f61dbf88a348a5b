import pytest
import torch

from tests.support.every_average import built
from tests.support.trajectories import averages_along, random_walk

timm_utils = pytest.importorskip("timm.utils")


class Model(torch.nn.Module):
    def __init__(self, value):
        super().__init__()
        self.weight = torch.nn.Parameter(value.clone())


@pytest.mark.parametrize("update_after_step", [0, 20])
@pytest.mark.parametrize("use_warmup", [False, True])
def test_model_ema_v3(use_warmup, update_after_step):
    trajectory = random_walk(100, dtype=torch.float32)
    decay = {"type": "constant", "decay": 0.9}
    if use_warmup:
        decay = {"type": "inverse_power", "max_decay": 0.9, "inv_gamma": 2.0, "power": 0.75}
    # In timm the first update with a decay is the one after these.
    start_step = update_after_step + 1 + (not use_warmup)
    params = {"decay": decay, "start_step": start_step}
    ours = averages_along(trajectory, lambda parameters: built(params, parameters))
    model = Model(trajectory[0])
    theirs = timm_utils.ModelEmaV3(
        model,
        decay=0.9,
        use_warmup=use_warmup,
        warmup_gamma=2.0,
        warmup_power=0.75,
        update_after_step=update_after_step,
    )
    for step in range(1, 101):
        with torch.no_grad():
            model.weight.copy_(trajectory[step])
        theirs.update(model, step=step)
        assert torch.allclose(ours[step], theirs.module.weight, rtol=1e-5, atol=1e-6)
