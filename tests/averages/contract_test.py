"""What is selected to be assigned. The rest of the contract is in moving_average_test.py."""

import copy

import pytest
import torch
from allennlp.common.checks import ConfigurationError

from allennlp_ema.averages.attachment import Attachment
from tests.support.every_average import built
from tests.support.trajectories import move, named_parameter, random_walk

FAST = {"type": "exponential", "decay": {"type": "constant", "decay": 0.5}}
SLOW = {"type": "uniform"}
BANK = {"type": "bank", "active": "slow", "averages": {"fast": FAST, "slow": SLOW}}
NESTED = {"type": "bank", "active": "fast", "averages": {"fast": FAST, "inner": BANK}}
TRAJECTORY = random_walk(9)


def followed(params, num_updates=8):
    """An average that has followed the trajectory, and its parameters."""
    parameters = named_parameter(TRAJECTORY[0])
    average = built(params, parameters)
    for number in range(1, num_updates + 1):
        move(parameters, TRAJECTORY[number])
        average.apply(number)
    return average, parameters


@pytest.mark.parametrize(
    "params, names",
    [
        (FAST, ["exponential"]),
        ({"type": "swa"}, ["uniform"]),
        (BANK, ["fast", "slow"]),
        (NESTED, ["fast", "inner.fast", "inner.slow"]),
    ],
    ids=["one", "alias", "bank", "bank_in_a_bank"],
)
def test_each_member_is_assigned_by_its_name_and_raw_weights_stay_what_they_are(params, names):
    average, parameters = followed(params)
    members = average.named_members()
    assert list(members) == names and list(members.values()) == average.members()
    for name in [*names, "raw"]:
        expected = members[name].average("weight").clone() if name != "raw" else TRAJECTORY[8]
        average.select(name)
        assert average.selected == name
        with average.average_values():
            assert torch.equal(parameters[0][1], expected)
            with average.average_values():
                assert torch.equal(parameters[0][1], expected)
            assert average.is_assigned
            assert torch.equal(dict(average.named_raw_values())["weight"], TRAJECTORY[8])
        assert not average.is_assigned
        assert torch.equal(parameters[0][1], TRAJECTORY[8])
    average.select(None)
    with average.average_values():
        assert torch.equal(parameters[0][1], average.average("weight"))


@pytest.mark.parametrize("params", [FAST, BANK], ids=["one", "bank"])
def test_raw_weights_are_assigned_by_the_same_rules(params):
    average, parameters = followed(params)
    average.select("raw")
    for purpose in (average.restore, average.keep_average_value):
        with pytest.raises(RuntimeError, match="no averages are assigned"):
            purpose()
    average.assign_average_value()
    with pytest.raises(RuntimeError, match="before apply"):
        average.apply(9)
    with pytest.raises(RuntimeError, match="before select"):
        average.select(None)
    twin, (twins_parameter, _) = copy.deepcopy((average, (parameters[0][1], None)))
    assert twin.is_assigned and twin.selected == "raw"
    twin.restore()
    assert torch.equal(twins_parameter, TRAJECTORY[8])
    average.keep_average_value()
    assert not average.is_assigned
    average.apply(9)
    assert average.num_updates == 9 and torch.equal(parameters[0][1], TRAJECTORY[8])


def test_what_goes_with_an_average_stays_raw_with_the_raw_weights():
    assigned = []

    class Noted(Attachment):
        name = "noted"

        def assign(self, average):
            assigned.append(average)

    average, _ = followed(BANK)
    average.attach(Noted())
    for name, expected in (("raw", []), ("fast", [average.averages["fast"]])):
        average.select(name)
        with average.average_values():
            assert assigned == expected


def test_raw_weights_and_an_average_of_a_bank_exclude_each_other():
    average, parameters = followed(BANK)
    average.select("raw")
    with average.averages["fast"].average_values():
        held = parameters[0][1].clone()
        with pytest.raises(RuntimeError, match="another average of the bank"):
            average.assign_average_value()
    with average.average_values(), pytest.raises(RuntimeError, match="another average"):
        average.averages["fast"].assign_average_value()
    assert not torch.equal(held, TRAJECTORY[8]) and torch.equal(parameters[0][1], TRAJECTORY[8])


@pytest.mark.parametrize("name", ["raw", "fast"])
def test_all_else_stays_that_of_the_active_average(name):
    average, parameters = followed(BANK)
    slow = average.averages["slow"]
    expected = slow.average("weight").clone()
    average.select(name)
    assert torch.equal(average.average("weight"), expected)
    assert torch.equal(average.average(parameters[0][1]), expected)
    assert torch.equal(dict(average.named_averages())["weight"], expected)
    assert average.effective_window() == slow.effective_window() > 7.9
    assert average.decay_in_force == slow.decay_in_force
    assert average.to_params().params["active"] == "slow"


@pytest.mark.parametrize("params", [FAST, BANK, NESTED], ids=["one", "bank", "bank_in_a_bank"])
def test_it_is_in_the_state_and_only_if_there_is_any(params):
    average, _ = followed(params)
    plain = average.state_dict()
    assert "selected" not in plain
    for name in [*average.named_members(), "raw"]:
        average.select(name)
        other, _ = followed(params, num_updates=3)
        other.load_state_dict(average.state_dict())
        assert other.selected == name
        # What an earlier version wrote has none.
        other.load_state_dict(plain)
        assert other.selected is None


@pytest.mark.parametrize("params, name", [(FAST, "exponential"), (BANK, "fast")])
def test_a_state_that_is_loaded_while_another_is_assigned_leaves_nothing_assigned(params, name):
    average, parameters = followed(params)
    average.select("raw")
    state = average.state_dict()
    average.select(name)
    with average.average_values():
        average.load_state_dict(state)
        with pytest.raises(RuntimeError, match="another average"):
            average.assign_average_value()
    assert not average.is_assigned and average.selected == "raw"
    assert torch.equal(parameters[0][1], TRAJECTORY[8])


@pytest.mark.parametrize("params", [FAST, BANK], ids=["one", "bank"])
def test_unknown_names_are_refused_and_nothing_changed(params):
    average, _ = followed(params)
    known = ", ".join(f"'{name}'" for name in ["raw", *average.named_members()])
    message = f"\"selected\" is 'medium', but has to be one of {known}"
    with pytest.raises(ConfigurationError, match=message):
        average.select("medium")
    state = {**average.state_dict(copy=True), "selected": "medium"}
    average.apply(9)
    with pytest.raises(ConfigurationError, match=message):
        average.load_state_dict(state)
    assert average.selected is None and average.num_updates == 9


@pytest.mark.parametrize("name, expected", [("all", 3.0), ("raw", 5.0)])
def test_some_parameters_of_what_is_selected(name, expected):
    parameters = [(n, torch.nn.Parameter(torch.ones(1))) for n in ("a", "b")]
    averages = {"some": {**SLOW, "include": ["b"]}, "all": FAST}
    average = built({"type": "bank", "active": "some", "averages": averages}, parameters)
    for _, parameter in parameters:
        parameter.data.fill_(5.0)
    average.apply(1)
    average.select(name)
    average.assign_average_value(["b"])
    assert [p.item() for _, p in parameters] == [5.0, expected]
    average.restore()
    assert [p.item() for _, p in parameters] == [5.0, 5.0]


def test_raw_values_are_those_of_whatever_is_averaged():
    """Also of what another than the active average has, and is assigned."""
    parameters = [
        ("a", torch.nn.Parameter(torch.ones(1))),
        ("b", torch.nn.Parameter(torch.ones(1))),
    ]
    averages = {"some": {**SLOW, "include": ["a"]}, "all": FAST}
    average = built({"type": "bank", "active": "some", "averages": averages}, parameters)
    for _, parameter in parameters:
        parameter.data.fill_(5.0)
    average.apply(1)
    average.select("all")
    assert dict(average.named_raw_values()) == {"a": 5.0, "b": 5.0}
    with average.average_values():
        assert parameters[1][1] == 3.0
        assert dict(average.named_raw_values()) == {"a": 5.0, "b": 5.0}
