import logging

import pytest
import torch
from allennlp.common import Lazy
from allennlp.common.checks import ConfigurationError

from allennlp_ema import (
    BankMovingAverage,
    MovingAverage,
    PolynomialMovingAverage,
    UniformMovingAverage,
)
from allennlp_ema.averages import contract
from tests.support.every_average import built
from tests.support.trajectories import averages_along, move, named_parameter, random_walk

FAST = {"type": "exponential", "decay": {"type": "half_life", "half_life": 2}}
SLOW = {"type": "polynomial", "eta": 4.0}
LAST = {"type": "window", "window_size": 2}


def bank(averages=None, active="slow", **settings):
    averages = {"fast": FAST, "slow": SLOW, "last": LAST} if averages is None else averages
    params = {"type": "bank", "averages": averages, "active": active, **settings}
    return lambda parameters: built(params, parameters)


def follow(average, parameters, trajectory, first=1):
    for number, value in enumerate(trajectory, start=first):
        move(parameters, value)
        average.apply(number)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("settings", [{}, {"start_step": 3, "update_every": 2}])
def test_each_member_is_the_average_that_it_would_be_alone(dtype, settings):
    trajectory = random_walk(20, dtype=dtype)
    parameters = named_parameter(trajectory[0])
    average = bank(**settings)(parameters)
    follow(average, parameters, trajectory[1:])
    for name, params in (("fast", FAST), ("slow", SLOW), ("last", LAST)):
        alone = averages_along(trajectory, lambda p, q=params: built(q, p, **settings))[-1]
        assert torch.allclose(average.average("weight", of=name), alone, rtol=1e-6)
        assert dict(average.named_averages(of=name))["weight"].dtype == torch.float32


def test_each_update_is_one_pass_over_the_parameters(monkeypatch):
    parameters = named_parameter(torch.zeros(3))
    average = bank()(parameters)
    passes = []
    update = contract.update

    def counted(shadow_weights, weights):
        passes.append(len(shadow_weights))
        update(shadow_weights, weights)

    monkeypatch.setattr(contract, "update", counted)
    average.apply(1)
    average.apply(2)
    assert passes == [3, 3]


@pytest.mark.parametrize("active", ["fast", "slow", "last"])
def test_the_active_one_is_assigned(active):
    trajectory = random_walk(9)
    parameters = named_parameter(trajectory[0])
    average = bank(active=active)(parameters)
    follow(average, parameters, trajectory[1:])
    expected = average.average("weight", of=active).clone()
    assert torch.equal(average.average("weight"), expected)
    assert torch.equal(dict(average.named_averages())["weight"], expected)
    with average.average_values():
        assert average.is_assigned
        assert torch.equal(parameters[0][1], expected)
    assert torch.equal(parameters[0][1], trajectory[-1])
    member = average.averages[active]
    assert average.num_updates == member.num_updates == 9
    assert average.decay_in_force == member.decay_in_force
    assert average.effective_window() == member.effective_window()


def test_the_others_can_be_assigned_by_name():
    trajectory = random_walk(9)
    parameters = named_parameter(trajectory[0])
    average = bank()(parameters)
    follow(average, parameters, trajectory[1:])
    expected = average.average(parameters[0][1], of="fast").clone()
    with average.averages["fast"].average_values():
        assert torch.equal(parameters[0][1], expected)
        with pytest.raises(RuntimeError, match="restore"):
            average.apply(10)
    assert torch.equal(parameters[0][1], trajectory[-1])
    assert not torch.equal(expected, average.average("weight"))


def test_another_may_become_active():
    trajectory = random_walk(9)
    parameters = named_parameter(trajectory[0])
    average = bank()(parameters)
    follow(average, parameters, trajectory[1:])
    average.active = "fast"
    with average.average_values():
        assert torch.equal(parameters[0][1], average.average("weight", of="fast"))


def test_a_key_of_the_bank_holds_for_the_members_that_do_not_have_it():
    averages = {"slow": SLOW, "sparse": {**SLOW, "update_every": 5}}
    average = bank(averages, update_every=2, shadow_dtype="float64", exclude=["bias"])(
        [*named_parameter(torch.zeros(1)), ("bias", torch.zeros(1))]
    )
    assert {name: each.update_every for name, each in average.averages.items()} == {
        "slow": 2,
        "sparse": 5,
    }
    for of in averages:
        assert [(n, v.dtype) for n, v in average.named_averages(of=of)] == [
            ("weight", torch.float64)
        ]


def test_members_may_average_different_parameters():
    first, second = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))
    averages = {"slow": {**SLOW, "include": ["a"]}, "fast": FAST}
    average = bank(averages)([("a", first), ("b", second)])
    with torch.no_grad():
        first.fill_(1.0)
        second.fill_(1.0)
    average.apply(1)
    assert average.average("b") is None and average.average("b", of="fast") > 0
    with average.average_values():
        assert first == average.average("a") and second == 1.0


@pytest.mark.parametrize("first, second", [("fast", "slow"), ("slow", "fast")])
def test_parameters_hold_one_average_at_a_time(first, second):
    parameters = named_parameter(torch.zeros(1))
    average = bank()(parameters)
    follow(average, parameters, [torch.zeros(1), torch.ones(1)])
    assigned, other = average.averages[first], average.averages[second]
    with assigned.average_values():
        assert average.is_assigned
        held = parameters[0][1].clone()
        with pytest.raises(RuntimeError, match="another average of the bank"):
            other.assign_average_value()
        with pytest.raises(RuntimeError, match="call restore"):
            average.apply(3)
        assert torch.equal(parameters[0][1], held)
        with assigned.average_values():
            assert torch.equal(parameters[0][1], held)
    assert parameters[0][1] == 1.0 and not average.is_assigned
    with other.average_values():
        assert parameters[0][1] != 1.0


def test_from_python():
    parameters = named_parameter(torch.zeros(1))
    average = BankMovingAverage(
        parameters,
        averages={
            "mean": UniformMovingAverage(parameters),
            "lazy": Lazy(PolynomialMovingAverage, eta=2.0, start_step=4),
        },
        active="mean",
        start_step=2,
    )
    assert average.averages["lazy"].eta == 2.0
    # What is said of the member itself counts, however it is said.
    assert average.averages["lazy"].start_step == 4
    assert average.averages["mean"].start_step == 0


def test_state_holds_all():
    trajectory = random_walk(9, dtype=torch.float32)
    parameters = named_parameter(trajectory[0])
    average = bank()(parameters)
    follow(average, parameters, trajectory[1:6])
    state = average.state_dict()
    assert set(state["averages"]) == {"fast", "slow", "last"}
    for name, member in average.averages.items():
        (held,) = state["averages"][name]["averages"].values()
        assert torch.equal(held, member.average("weight"))
    # Another member may be the active one from now on.
    others = named_parameter(trajectory[5])
    again = bank(active="fast")(others)
    again.load_state_dict(state)
    follow(average, parameters, trajectory[6:], first=6)
    follow(again, others, trajectory[6:], first=6)
    for name in average.averages:
        assert torch.equal(average.average("weight", of=name), again.average("weight", of=name))
        assert average.averages[name].counts == again.averages[name].counts


@pytest.mark.parametrize(
    "averages, message",
    [
        ({"slow": SLOW}, "the state is that of a bank of fast, slow, last, not of slow"),
        ({"fast": FAST, "slow": SLOW, "last": LAST, "more": SLOW}, "not of fast, slow, last, more"),
        ({"fast": FAST, "slow": SLOW, "last": SLOW}, 'type "window".*type "polynomial"'),
    ],
)
def test_state_of_another_bank_is_refused_and_nothing_changed(averages, message):
    source = bank()(named_parameter(torch.ones(1)))
    source.apply(1)
    average = bank(averages)(named_parameter(torch.zeros(1)))
    with pytest.raises(ConfigurationError, match=message):
        average.load_state_dict(source.state_dict())
    for name, member in average.averages.items():
        assert average.average("weight", of=name) == 0.0 and member.num_updates == 0


@pytest.mark.parametrize(
    "averages, active, message",
    [
        (
            {"slow": SLOW, "fast": FAST},
            "mean",
            "\"active\" is 'mean', but has to be one of 'slow', 'fast'",
        ),
        ({}, "slow", '"averages" is empty'),
        ({"slow": {"type": "polynomial", "eta": -1}}, "slow", '"eta" is -1'),
        ({"slow": {"type": "polynomial", "etaa": 1}}, "slow", 'unknown key "etaa"'),
        ({"slow": {"type": "nonesuch"}}, "slow", "nonesuch"),
    ],
)
def test_bad_input_is_named(averages, active, message):
    with pytest.raises(ConfigurationError) as error:
        bank(averages, active)(named_parameter(torch.ones(1)))
    assert message in str(error.value)


def test_an_average_that_is_none_of_ours_is_named():
    from allennlp.training.moving_average import ExponentialMovingAverage as AllenNLPExponential

    parameters = named_parameter(torch.ones(1))
    stock = AllenNLPExponential(parameters)
    with pytest.raises(ConfigurationError, match='"averages.stock" is a ExponentialMovingAverage'):
        BankMovingAverage(parameters, averages={"stock": stock}, active="stock")


def test_a_member_that_there_is_not_is_named():
    average = bank()(named_parameter(torch.ones(1)))
    with pytest.raises(ConfigurationError, match="\"of\" is 'nonesuch'"):
        average.average("weight", of="nonesuch")


def test_info_lines(caplog):
    with caplog.at_level(logging.INFO, logger="allennlp_ema"):
        bank()(named_parameter(torch.ones(1)))
    lines = [record.getMessage() for record in caplog.records]
    assert lines[-1] == (
        'A bank (allennlp_ema) holds the averages "fast", "slow", "last", of which "slow" is '
        "assigned"
    )
    # One for each member, with its memory.
    assert len(lines) == 4 and all("1 values" in line for line in lines[:3])


def test_a_member_is_not_updated_while_another_is_assigned():
    parameters = named_parameter(torch.zeros(3))
    average = bank()(parameters)
    follow(average, parameters, torch.ones(2, 3))
    before = average.averages["last"].counts
    average.averages["fast"].assign_average_value()
    with pytest.raises(RuntimeError, match=r"restore\(\) before apply\(\)"):
        average.averages["last"].apply()
    assert average.averages["last"].counts == before
    # Each knows the raw values, also while another is assigned.
    for each in (average, average.averages["fast"], average.averages["last"]):
        assert dict(each.named_raw_values())["weight"].tolist() == [1.0, 1.0, 1.0]
    average.averages["fast"].restore()
    average.averages["last"].apply()
    assert average.averages["last"].counts.num_averaged == 3


class EveryOther(UniformMovingAverage):
    def apply(self, num_updates=None):
        if num_updates % 2:
            super().apply(num_updates)


class WithoutKeys(MovingAverage):
    def __init__(self, parameters):
        super().__init__(parameters)


@pytest.mark.parametrize(
    "member, message",
    [
        (EveryOther, "is a EveryOther with an apply() of its own, but a bank calls only"),
        (WithoutKeys, 'is a WithoutKeys, which does not take the "update_every" of the bank'),
    ],
)
def test_what_a_bank_cannot_do_for_a_member_is_refused(member, message):
    averages = {"a": {"type": f"{__name__}.{member.__name__}"}}
    with pytest.raises(ConfigurationError) as raised:
        bank(averages, active="a", update_every=2)(named_parameter(torch.zeros(3)))
    assert f'"averages.a" {message}' in str(raised.value)


def test_an_average_without_a_weight_says_so():
    average = WithoutKeys(named_parameter(torch.zeros(3)))
    with pytest.raises(ConfigurationError, match="WithoutKeys has no averaging_weight"):
        average.apply()
