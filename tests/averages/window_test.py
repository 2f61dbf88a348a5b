import logging

import pytest
import torch
from allennlp.common.checks import ConfigurationError

from allennlp_ema import WindowMovingAverage
from tests.support.every_average import built
from tests.support.trajectories import averages_along, move, named_parameter, profile, random_walk

pytestmark = pytest.mark.everywhere


def window(**settings):
    return lambda parameters: built({"type": "window", **settings}, parameters)


@pytest.mark.parametrize("window_size, update_every, start_step", [(3, 1, 0), (4, 3, 0), (3, 2, 5)])
def test_is_the_mean_of_the_last_samples(window_size, update_every, start_step):
    make = window(window_size=window_size, update_every=update_every, start_step=start_step)
    for num_updates in range(start_step + update_every, 30):
        sampled = [
            update
            for update in range(max(start_step, 1), num_updates + 1)
            if (update - start_step) % update_every == 0
        ][-window_size:]
        ours = profile(make, num_updates)
        assert ours.nonzero().flatten().tolist() == sampled
        assert torch.allclose(ours[sampled], torch.tensor(1.0).double() / len(sampled))


def test_does_not_drift():
    """Large values that have left the window leave nothing behind."""
    parameters = named_parameter(torch.zeros(4))
    average = window(window_size=5)(parameters)
    generator = torch.Generator().manual_seed(0)
    for number in range(1, 2001):
        move(parameters, torch.randn(4, generator=generator) * 1e6)
        average.apply(number)
    latest = torch.randn(5, 4, generator=generator) * 1e-3
    for number, value in enumerate(latest, start=2001):
        move(parameters, value)
        average.apply(number)
    expected = latest.double().mean(0)
    assert torch.allclose(average.average("weight").double(), expected, rtol=1e-5, atol=1e-9)


def test_is_the_same_however_often_it_is_asked_for():
    trajectory = random_walk(20, dtype=torch.float32)
    asked_each_time = averages_along(trajectory, window(window_size=4))[-1]
    parameters = named_parameter(trajectory[0])
    average = window(window_size=4)(parameters)
    for number, value in enumerate(trajectory[1:], start=1):
        move(parameters, value)
        average.apply(number)
    assert torch.equal(average.average("weight"), asked_each_time)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_mean_of_half_precision_samples_is_rounded_once(dtype):
    parameters = named_parameter(torch.zeros(64, dtype=dtype))
    average = window(window_size=7)(parameters)
    generator = torch.Generator().manual_seed(0)
    samples = torch.randn(7, 64, generator=generator).to(dtype)
    for number, sample in enumerate(samples, start=1):
        move(parameters, sample)
        average.apply(number)
    mean = samples.double().mean(0)
    assert torch.allclose(average.average("weight").double(), mean, rtol=1e-5, atol=1e-6)
    with average.average_values():
        assert torch.equal(parameters[0][1], average.average("weight").to(dtype))


def test_info_line_says_what_memory_the_samples_take(caplog):
    with caplog.at_level(logging.INFO, logger="allennlp_ema"):
        window(window_size=8)(named_parameter(torch.ones(1 << 18, dtype=torch.float16)))
    (record,) = caplog.records
    assert "262,144 values, 1.0 MiB of float32, and 4.0 MiB for a window of 8" in record.message


def test_state_holds_the_samples():
    parameters = named_parameter(torch.zeros(2))
    average = window(window_size=3)(parameters)
    for number in range(1, 6):
        move(parameters, torch.full((2,), float(number)))
        average.apply(number)
        samples = average.state_dict()["samples"]
        assert [sample["weight"][0].item() for sample in samples] == [
            float(update) for update in range(max(1, number - 2), number + 1)
        ]


def test_state_of_another_window_size_is_refused_and_nothing_changed():
    source, average = (window(window_size=n)(named_parameter(torch.zeros(1))) for n in (3, 4))
    for number in range(1, 6):
        source.apply(number)
    with pytest.raises(ConfigurationError, match='"window_size" is 4, but the state has 3 samples'):
        average.load_state_dict(source.state_dict())
    assert average.num_averaged == 0


def test_misshapen_sample_is_refused_and_nothing_changed():
    average = window()(named_parameter(torch.zeros(1)))
    average.apply(1)
    state = average.state_dict()
    state["samples"] = [{"weight": torch.ones(2)}]
    state["averages"] = {"weight": torch.ones(1)}
    with pytest.raises(ConfigurationError, match='"samples" has shape'):
        average.load_state_dict(state)
    assert average.average("weight") == 0.0


def test_both_names():
    average = built({"type": "lawa", "window_size": 2}, named_parameter(torch.ones(1)))
    assert type(average) is WindowMovingAverage
    assert average.to_params().as_dict() == {"type": "window", "window_size": 2}
    assert window()(named_parameter(torch.ones(1))).window_size == 10
