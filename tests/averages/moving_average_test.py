import io
import logging
import re
from fractions import Fraction
from typing import Any, Dict, Optional

import numpy
import pytest
import torch
from allennlp.common import FromParams, Lazy, Params
from allennlp.common.checks import ConfigurationError
from allennlp.training.moving_average import ExponentialMovingAverage as AllenNLPExponential
from allennlp.training.moving_average import MovingAverage as AllenNLPMovingAverage
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import Embedding, Linear, Module, Parameter

from allennlp_ema import (
    BankMovingAverage,
    ExponentialMovingAverage,
    MovingAverage,
    UniformMovingAverage,
)
from tests.support.allocations import bytes_taken
from tests.support.custom_average import InverseSquareRootMovingAverage
from tests.support.every_average import EVERY_AVERAGE, built
from tests.support.stock_loading import stock_loading
from tests.support.trajectories import averages_along, move, named_parameter, profile, random_walk

BASES = pytest.mark.parametrize("base", [MovingAverage, AllenNLPMovingAverage])
EVERY = pytest.mark.parametrize("params", EVERY_AVERAGE.values(), ids=EVERY_AVERAGE)
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


class Tagger(Module):
    """Parameters of two dtypes, two of them tied."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = Embedding(7, 4)
        self.encoder = Linear(4, 4).to(torch.bfloat16)
        self.projection = Linear(4, 7)
        self.projection.weight = self.embedding.weight


NAMES = [
    "embedding.weight",
    "encoder.weight",
    "encoder.bias",
    "projection.weight",
    "projection.bias",
]


def tagger(seed=0):
    torch.manual_seed(seed)
    return Tagger()


def named(model):
    parameters = dict(model.named_parameters())
    parameters["projection.weight"] = model.projection.weight
    return [(name, parameters[name]) for name in NAMES]


def train(model, average, num_updates, seed=0, first=1):
    generator = torch.Generator().manual_seed(seed)
    for number in range(first, first + num_updates):
        with torch.no_grad():
            for parameter in model.parameters():
                noise = torch.randn(parameter.shape, generator=generator)
                parameter.add_(noise.to(parameter.dtype), alpha=0.1)
        average.apply(number)


def values(named_tensors):
    return {name: tensor.detach().clone() for name, tensor in named_tensors}


def same(values, others):
    return list(values) == list(others) and all(
        values[name].dtype == others[name].dtype and torch.equal(values[name], others[name])
        for name in values
    )


def averages_of(average):
    """Those of each member of a bank."""
    if isinstance(average, BankMovingAverage):
        return {
            f"{member}/{name}": tensor.clone()
            for member in average.averages
            for name, tensor in average.named_averages(of=member)
        }
    return values(average.named_averages())


def saved_and_loaded(state):
    """Through a file, as a checkpoint goes."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file)


class TestRegistry:
    def test_both_classes_list_the_same_names(self):
        names = set(MovingAverage.list_available())
        assert names == set(AllenNLPMovingAverage.list_available())
        assert names >= {
            *("exponential", "uniform", "swa", "power_function", "polynomial", "window", "lawa"),
            "bank",
        }

    @BASES
    @pytest.mark.parametrize(
        "params",
        [
            {},
            "exponential",
            {"type": "exponential"},
            {"type": "allennlp_ema.ExponentialMovingAverage"},
            {"type": "allennlp_ema.averages.exponential.ExponentialMovingAverage"},
        ],
    )
    def test_every_way_to_name_the_exponential_average_gives_ours(self, base, params):
        params = Params(params) if isinstance(params, dict) else params
        average = base.from_params(params, parameters=named_parameter(torch.ones(2)))
        assert type(average) is ExponentialMovingAverage
        assert average.decay == 0.9999
        assert base.by_name("exponential") is ExponentialMovingAverage

    @BASES
    def test_in_the_place_where_the_trainer_has_it(self, base):
        class Trainer(FromParams):
            def __init__(self, moving_average: Lazy[base] = None) -> None:
                self.moving_average = moving_average and moving_average.construct(
                    parameters=named_parameter(torch.ones(2))
                )

        def from_params(params):
            return Trainer.from_params(Params(params)).moving_average

        for params in ({"moving_average": {}}, {"moving_average": "exponential"}):
            assert type(from_params(params)) is ExponentialMovingAverage
        assert type(from_params({"moving_average": "swa"})) is UniformMovingAverage
        assert from_params({"moving_average": None}) is None
        assert from_params({}) is None

    @BASES
    @pytest.mark.usefixtures("own_names")
    def test_what_is_registered_on_either_is_found_from_both(self, base):
        @base.register("own")
        class Own(MovingAverage):
            def averaging_weight(self, num_averaged: int, num_updates: Optional[int]) -> float:
                return 0.5

        for asked in (MovingAverage, AllenNLPMovingAverage):
            assert asked.by_name("own") is Own
            average = asked.from_params(
                Params({"type": "own", "start_step": 2}),
                parameters=named_parameter(torch.ones(2)),
            )
            assert type(average) is Own and average.start_step == 2

    @BASES
    @pytest.mark.usefixtures("own_names")
    def test_an_average_written_for_allennlps_own_class_still_runs(self, base):
        @AllenNLPMovingAverage.register("stock_style")
        class StockStyle(AllenNLPMovingAverage):
            def __init__(self, parameters, share: float = 0.5) -> None:
                super().__init__(parameters)
                self.share = share

            def apply(self, num_updates: Optional[int] = None) -> None:
                for name, parameter in self._parameters:
                    self._shadows[name].lerp_(parameter.data, self.share)

        parameters = named_parameter(torch.zeros(2))
        average = base.from_params(
            Params({"type": "stock_style", "share": 0.25}), parameters=parameters
        )
        move(parameters, torch.ones(2))
        average.apply(1)
        average.assign_average_value()
        assert torch.equal(parameters[0][1], torch.full((2,), 0.25))
        average.restore()
        assert torch.equal(parameters[0][1], torch.ones(2))


class TestInvalidSettings:
    @pytest.mark.parametrize(
        "settings, message",
        [
            ({"decay": 1.1}, '"decay" is 1.1, but has to be a finite number >= 0 and <= 1'),
            ({"decay": -0.1}, '"decay" is -0.1'),
            ({"decay": float("nan")}, '"decay" is nan'),
            ({"decay": "0.9"}, "0.9"),
            ({"decay": True}, "is true"),
            ({"decay": None}, '"decay" is null'),
            ({"numerator": -1}, '"numerator" is -1, but has to be a finite number >= 0'),
            ({"denominator": 0}, '"denominator" is 0, but has to be a finite number > 0'),
            ({"denominator": "ten"}, "ten"),
            ({"zero_debias": "yes"}, "yes"),
            ({"start_step": -1}, '"start_step" is -1, but has to be an integer >= 0'),
            ({"start_step": 1.5}, "1.5"),
            ({"update_every": 0}, '"update_every" is 0, but has to be an integer >= 1'),
            ({"update_every": "2"}, "2"),
            (
                {"shadow_dtype": "float16"},
                "\"shadow_dtype\" is 'float16', but has to be one of null, 'float32', 'float64'",
            ),
            (
                {"shadow_device": "gpu"},
                "\"shadow_device\" is 'gpu', but has to be one of null, 'cpu'",
            ),
            ({"include": ["nothing"]}, "\"include\" is ['nothing']"),
            ({"include": []}, '"include" is []'),
            ({"exclude": ["."]}, "\"exclude\" is ['.']"),
            ({"include": "weight"}, "['weight']"),
            ({"include": ["("]}, "\"include\" has '('"),
            ({"decya": 0.9}, "decya"),
        ],
        ids=str,
    )
    @pytest.mark.parametrize("how", ["from_params", "constructor"])
    def test_key_and_value_are_named(self, settings, message, how):
        parameters = named_parameter(torch.ones(2))
        error_type = ConfigurationError
        if how == "constructor" and "decya" in settings:
            error_type = TypeError
        with pytest.raises(error_type) as error:
            if how == "from_params":
                built({}, parameters, **settings)
            else:
                ExponentialMovingAverage(parameters, **settings)
        assert message in str(error.value)

    @pytest.mark.parametrize(
        "parameters, message",
        [
            ([], '"parameters" is empty'),
            ([torch.zeros(2)], '"parameters" has a Tensor, but has to have pairs of a name and'),
            (
                [("a", torch.ones(2)), ("b", torch.ones(2)), ("a", torch.ones(2))],
                'two parameters of the name "a"',
            ),
            ([("steps", torch.ones(2, dtype=torch.int64))], '"steps" is of dtype torch.int64'),
            ([("later", torch.ones(2, device="meta"))], '"later" is on the meta device'),
        ],
    )
    @EVERY
    def test_parameters_that_cannot_be_averaged_are_named(self, params, parameters, message):
        with pytest.raises(ConfigurationError, match=re.escape(message)):
            built(params, parameters)

    @EVERY
    def test_what_is_left_out_may_be_of_any_dtype(self, params):
        parameters = [("weight", torch.ones(2)), ("steps", torch.ones(2, dtype=torch.int64))]
        average = built(params, parameters, exclude=["steps"])
        assert [name for name, _ in average.named_averages()] == ["weight"]

    def test_a_regular_expression_of_several_that_matches_nothing_is_warned_of(self, caplog):
        built({"include": ["weight", "wieght"]}, named_parameter(torch.ones(2)))
        (warning,) = [each for each in caplog.records if each.levelno == logging.WARNING]
        assert warning.getMessage() == (
            '"include" has \'wieght\', which matches no parameter; did you mean "weight"?'
        )


class TestInfoLine:
    def line(self, caplog, params, parameters=None):
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="allennlp_ema"):
            built(params, parameters or named(tagger()))
        (record,) = [
            each for each in caplog.records if each.name.startswith("allennlp_ema.averages")
        ]
        assert record.levelno == logging.INFO
        return record.getMessage()

    def test_names_the_implementation_and_what_it_averages(self, caplog):
        line = self.line(caplog, {"decay": 0.999})
        assert line.startswith("allennlp_ema.averages.exponential.ExponentialMovingAverage")
        # 28 tied values, 16 and 4 of bfloat16, 7, each in 4 bytes.
        assert "4 parameters with 55 values, 220 bytes of float32" in line

    @pytest.mark.parametrize("decay, update", [(0.9999, "89,990"), (0.999, "8,990")])
    def test_says_from_which_update_on_the_decay_is_in_force(self, caplog, decay, update):
        line = self.line(caplog, {"decay": decay})
        assert f"decay {decay} in force from update {update} on" in line
        assert "(1 + n) / (10 + n)" in line

    def test_decay_in_force_counts_from_the_start(self, caplog):
        line = self.line(caplog, {"decay": 0.999, "start_step": 1000, "update_every": 5})
        assert "in force from update 9,990 on" in line
        assert line.endswith(", from update 1,000 on, at every 5th update")

    def test_a_decay_without_a_warm_up(self, caplog):
        assert self.line(caplog, {"decay": 0.1}).endswith("decay 0.1")
        schedule = {"type": "half_life", "half_life": 10}
        line = self.line(caplog, {"decay": schedule, "zero_debias": True})
        assert line.endswith("decay half_life(half_life=10.0), zero-debiased")

    def test_a_decay_that_never_binds(self, caplog):
        assert "holds below at every update" in self.line(caplog, {"decay": 1.0})

    def test_other_types_name_their_own_keys(self, caplog):
        assert self.line(caplog, {"type": "polynomial", "eta": 4}).endswith(
            '"polynomial", eta = 4.0'
        )

    def test_size_in_words(self, caplog):
        parameters = named_parameter(torch.ones(3 << 20))
        line = self.line(caplog, {"shadow_dtype": "float64"}, parameters)
        assert "1 parameters with 3,145,728 values, 24.0 MiB of float64" in line


class TestGuards:
    @EVERY
    def test_apply_while_assigned_changes_nothing(self, params):
        model = tagger()
        average = built(params, named(model))
        train(model, average, 5)
        average.assign_average_value()
        before = averages_of(average), values(named(model)), average.state_dict()
        with pytest.raises(RuntimeError, match="restore"):
            average.apply(6)
        assert average.num_updates == 5
        assert same(averages_of(average), before[0])
        assert same(values(named(model)), before[1])

    @EVERY
    def test_restore_without_assign_changes_nothing(self, params):
        model = tagger()
        average = built(params, named(model))
        train(model, average, 3)
        before = values(named(model))
        for _ in range(2):
            with pytest.raises(RuntimeError, match="nothing to restore"):
                average.restore()
            average.assign_average_value()
            average.restore()
        assert same(values(named(model)), before)

    @EVERY
    def test_nested_pairs_are_counted(self, params):
        model = tagger()
        average = built(params, named(model))
        train(model, average, 3)
        raw, averages = values(named(model)), values(average.named_averages())
        for _ in range(3):
            average.assign_average_value()
        for _ in range(2):
            average.restore()
            assert average.is_assigned
            for name, parameter in named(model):
                assert torch.equal(parameter, averages[name].to(parameter.dtype))
        average.restore()
        assert not average.is_assigned
        assert same(values(named(model)), raw)

    @EVERY
    def test_whatever_is_raised_with_averages_assigned_the_raw_values_come_back(self, params):
        model = tagger()
        average = built(params, named(model))
        train(model, average, 3)
        raw = values(named(model))
        for error in (ValueError, KeyboardInterrupt):
            with pytest.raises(error):
                with average.average_values():
                    with average.average_values():
                        assert not same(values(named(model)), raw)
                        raise error()
            assert not average.is_assigned
            assert same(values(named(model)), raw)


class TestAverages:
    @EVERY
    def test_by_name_by_parameter_and_never_a_copy(self, params):
        model = tagger()
        average = built(params, named(model))
        train(model, average, 3)
        for assigned in (False, True):
            if assigned:
                average.assign_average_value()
            assert [name for name, _ in average.named_averages()] == NAMES
            for (name, parameter), (_, value) in zip(named(model), average.named_averages()):
                for asked in (name, parameter):
                    found = average.average(asked)
                    assert found.data_ptr() == value.data_ptr()
                    assert torch.equal(found, value) and not found.requires_grad
            assert average.average("nonesuch") is None
            assert average.average(Parameter(torch.ones(2))) is None

    @EVERY
    def test_averages_and_raw_values_stay_what_they_are_while_assigned(self, params):
        model = tagger()
        average = built(params, named(model))
        train(model, average, 4)
        averages, raw = values(average.named_averages()), values(average.named_raw_values())
        assert same(raw, values(named(model)))
        with average.average_values():
            assert same(values(average.named_averages()), averages)
            assert same(values(average.named_raw_values()), raw)
            for name, parameter in named(model):
                assert torch.equal(parameter, averages[name].to(parameter.dtype))
        assert same(values(average.named_averages()), averages)

    def test_what_is_not_averaged_keeps_its_own_value(self):
        model = tagger()
        average = built({"include": ["^e"], "exclude": [r"bias$"]}, named(model))
        train(model, average, 3)
        raw = values(named(model))
        assert [name for name, _ in average.named_averages()] == NAMES[:2]
        assert average.average("encoder.bias") is None
        assert average.average(model.projection.bias) is None
        assert list(average.state_dict()["averages"]) == NAMES[:2]
        with average.average_values():
            for name, parameter in named(model):
                # The projection is tied to the embedding, which is averaged.
                is_averaged = name in (*NAMES[:2], "projection.weight")
                assert torch.equal(parameter, raw[name]) != is_averaged

    @pytest.mark.parametrize("regex", ["^encoder", "^module.encoder"])
    def test_names_may_be_given_with_or_without_the_prefix_of_a_wrapped_model(self, regex):
        prefixed = [("module." + name, parameter) for name, parameter in named(tagger())]
        included = built({"include": [regex]}, prefixed)
        excluded = built({"exclude": [regex]}, prefixed)
        of_encoder = ["module.encoder.weight", "module.encoder.bias"]
        assert [name for name, _ in included.named_averages()] == of_encoder
        assert [name for name, _ in excluded.named_averages()] == [
            name for name, _ in prefixed if name not in of_encoder
        ]

    @pytest.mark.parametrize("shadow_dtype", [None, "float32", "float64"])
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_dtype_of_the_averages(self, dtype, shadow_dtype):
        average = built({}, named_parameter(torch.ones(2, dtype=dtype)), shadow_dtype=shadow_dtype)
        expected = torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
        if shadow_dtype is not None:
            expected = getattr(torch, shadow_dtype)
        assert average.average("weight").dtype == expected

    def test_shadows_on_the_cpu_are_no_others_for_parameters_there(self):
        trajectory = random_walk(20, dtype=torch.float32)
        beside, on_cpu = (
            averages_along(trajectory, lambda p, d=d: ExponentialMovingAverage(p, shadow_device=d))
            for d in (None, "cpu")
        )
        assert torch.equal(beside, on_cpu)


class TestEveryAverage:
    """What holds for the update, the swap and the state holds for every type of average."""

    @EVERY
    @given(
        constant=st.lists(st.floats(-6e4, 6e4, width=16), max_size=5),
        dtype=st.sampled_from(DTYPES),
        shadow_dtype=st.sampled_from([None, "float32", "float64"]),
        start_step=st.integers(0, 4),
        update_every=st.integers(1, 3),
    )
    def test_average_of_a_constant_is_bit_equal_to_it(
        self, params, constant, dtype, shadow_dtype, start_step, update_every
    ):
        value = torch.tensor(constant, dtype=dtype)
        parameters = named_parameter(value)
        average = built(
            params,
            parameters,
            shadow_dtype=shadow_dtype,
            start_step=start_step,
            update_every=update_every,
        )
        for number in range(1, 12):
            average.apply(number)
            for tensor in averages_of(average).values():
                assert torch.equal(tensor, value.to(tensor.dtype))
        with average.average_values():
            assert torch.equal(parameters[0][1], value)

    @EVERY
    def test_update_and_swap_read_nothing_back_to_the_host(self, params, monkeypatch):
        model = tagger()
        average = built(params, named(model))
        for number in range(1, 4):
            average.apply(number)

        def read_back(*args: Any, **kwargs: Any) -> None:
            raise AssertionError("a tensor was read back to the host")

        for name in ("item", "tolist", "numpy", "cpu", "__float__", "__int__", "__bool__"):
            monkeypatch.setattr(torch.Tensor, name, read_back)
        for number in range(4, 8):
            average.apply(number)
        with average.average_values():
            pass
        monkeypatch.undo()
        for member in getattr(average, "averages", {"": average}).values():
            assert all(type(each) in (int, float) for each in member.counts)

    @EVERY
    def test_until_start_step_the_average_equals_the_parameters(self, params):
        trajectory = random_walk(12)
        averages = averages_along(trajectory, lambda p: built(params, p, start_step=8))
        assert torch.equal(averages[:8], trajectory[:8])
        assert not torch.equal(averages[9:], trajectory[9:])
        average = built(params, named_parameter(trajectory[0]), start_step=8)
        for number in range(1, 8):
            average.apply(number)
            assert average.num_averaged == 0 and average.decay_in_force is None
        average.apply(8)
        assert average.num_averaged == 1 and average.decay_in_force is not None

    @EVERY
    @pytest.mark.parametrize("start_step", [0, 5])
    def test_a_longer_interval_samples_the_updates_that_it_says(self, params, start_step):
        trajectory = random_walk(20)
        averages = averages_along(
            trajectory, lambda p: built(params, p, start_step=start_step, update_every=3)
        )
        for number in range(max(start_step, 1), 21):
            is_sampled = (number - start_step) % 3 == 0
            # Until there is a sample, an average that forgets its initial value follows.
            forgets = params is not EVERY_AVERAGE["exponential"]
            follows = number < 3 and start_step == 0 and forgets
            assert torch.equal(averages[number], averages[number - 1]) != (is_sampled or follows)

    @EVERY
    @pytest.mark.parametrize("start_step, update_every", [(0, 1), (0, 3), (4, 1), (4, 3), (1, 1)])
    def test_counting_on_its_own_is_counting_as_the_trainer_does(
        self, params, start_step, update_every
    ):
        if params is EVERY_AVERAGE["exponential"]:
            # A number has a warm-up where updates are numbered, and only there.
            params = {"decay": {"type": "warmup", "decay": 0.9}}
        trajectory = random_walk(16)
        numbered, unnumbered = (
            averages_along(
                trajectory,
                lambda p: built(params, p, start_step=start_step, update_every=update_every),
                numbers,
            )
            for numbers in (range(1, 17), [None] * 16)
        )
        assert torch.equal(numbered, unnumbered)

    @EVERY
    def test_to_params_and_back(self, params):
        for settings in (
            {},
            {"start_step": 3, "update_every": 2, "shadow_dtype": "float64"},
            {"shadow_device": "cpu", "include": ["weight", "b"], "exclude": ["bias"]},
        ):
            model = tagger()
            average = built(params, named(model), **settings)
            again = average.to_params()
            rebuilt = MovingAverage.from_params(again.duplicate(), parameters=named(model))
            assert type(rebuilt) is type(average)
            assert rebuilt.to_params().as_dict() == again.as_dict()
            train(model, average, 3)
            rebuilt.load_state_dict(average.state_dict())
            if not isinstance(average, BankMovingAverage):
                assert {**{"type": "exponential"}, **params, **settings} == without_defaults(again)

    @EVERY
    @pytest.mark.parametrize("update_every", [1, 3])
    def test_a_state_continues_as_if_nothing_had_happened(self, params, update_every):
        straight_model, model = tagger(), tagger()
        straight = built(params, named(straight_model), update_every=update_every, start_step=2)
        average = built(params, named(model), update_every=update_every, start_step=2)
        for num_updates, seed in ((1, 3), (4, 4), (1, 5), (1, 6), (5, 7)):
            first = average.num_updates + 1
            train(straight_model, straight, num_updates, seed, first)
            train(model, average, num_updates, seed, first)
            # As --recover: a model and an average of their own, made anew.
            recovered = tagger(seed=99)
            recovered.load_state_dict(saved_and_loaded(model.state_dict()))
            state = saved_and_loaded(average.state_dict())
            model = recovered
            average = built(params, named(model), update_every=update_every, start_step=2)
            average.load_state_dict(state)
            assert same(averages_of(average), averages_of(straight))
            assert average.num_updates == straight.num_updates
            assert average.num_averaged == straight.num_averaged
            assert average.decay_in_force == straight.decay_in_force
            assert average.effective_window() == straight.effective_window()
            assert same(values(named(model)), values(named(straight_model)))


def without_defaults(params: Params) -> Dict[str, Any]:
    params = params.as_dict()
    if isinstance(params.get("decay"), dict):
        params["decay"] = {"max_decay": 0.95, **params["decay"]}
    return params


class TestState:
    @EVERY
    def test_is_the_same_while_averages_are_assigned(self, params):
        model = tagger()
        average = built(params, named(model))
        train(model, average, 4)
        state = saved_and_loaded(average.state_dict())
        with average.average_values():
            assigned = saved_and_loaded(average.state_dict())
        assert flat(state) == flat(assigned)

    @EVERY
    @pytest.mark.parametrize("assigned", [False, True])
    def test_is_copied_into_the_tensors_that_are_there(self, params, assigned):
        model, other = tagger(), tagger(1)
        average, source = built(params, named(model)), built(params, named(other))
        train(other, source, 5, seed=1)
        train(model, average, 2)
        raw = values(named(model))
        places = {name: tensor.data_ptr() for name, tensor in average.named_averages()}
        if assigned:
            average.assign_average_value()
        average.load_state_dict(saved_and_loaded(source.state_dict()))
        assert same(averages_of(average), averages_of(source))
        if assigned:
            for name, parameter in named(model):
                assert torch.equal(parameter, source.average(name).to(parameter.dtype))
            average.restore()
        assert same(values(named(model)), raw)
        assert {name: t.data_ptr() for name, t in average.named_averages()} == places
        assert average.num_updates == 5

    def test_holds_one_copy_and_no_parameters(self):
        model = Linear(1000, 100)
        model_size = saved_size(model.state_dict())
        average = ExponentialMovingAverage(model.named_parameters())
        train(model, average, 2)
        assert set(average.state_dict()) == {"version", "type", "counts", "settings", "averages"}
        with average.average_values():
            assert saved_size(average.state_dict()) < 1.01 * model_size
        assert saved_size(average.state_dict()) < 1.01 * model_size
        assert saved_size(AllenNLPExponential(model.named_parameters()).state_dict()) > 2.9 * (
            model_size
        )

    def test_takes_one_copy_of_memory(self):
        model = Linear(4000, 4000)
        model_bytes = sum(p.numel() for p in model.parameters()) * 4
        average, taken = bytes_taken(lambda: ExponentialMovingAverage(model.named_parameters()))
        assert taken == model_bytes
        for call in (
            lambda: average.apply(1),
            average.assign_average_value,
            average.restore,
            average.state_dict,
        ):
            _, taken = bytes_taken(call)
            assert taken < model_bytes / 10
        _, taken = bytes_taken(lambda: AllenNLPExponential(model.named_parameters()))
        assert taken == 2 * model_bytes

    @EVERY
    @pytest.mark.parametrize(
        "prefix", ["module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod."]
    )
    def test_prefixes_of_wrapped_models_do_not_matter(self, params, prefix):
        model, wrapped = tagger(), tagger(1)
        average = built(params, named(model))
        of_wrapped = built(params, [(prefix + name, value) for name, value in named(wrapped)])
        train(model, average, 3)
        of_wrapped.load_state_dict(average.state_dict())
        assert list(averages_of(of_wrapped).values())
        for mine, others in zip(averages_of(average).values(), averages_of(of_wrapped).values()):
            assert torch.equal(mine, others)
        train(wrapped, of_wrapped, 3)
        average.load_state_dict(of_wrapped.state_dict())
        for mine, others in zip(averages_of(average).values(), averages_of(of_wrapped).values()):
            assert torch.equal(mine, others)

    def test_names_that_differ_in_a_prefix_only_stay_apart(self):
        parameters = [
            ("weight", Parameter(torch.ones(1))),
            ("module.weight", Parameter(torch.zeros(1))),
        ]
        average = ExponentialMovingAverage(parameters)
        average.load_state_dict(saved_and_loaded(average.state_dict()))
        assert average.average("weight") == 1.0 and average.average("module.weight") == 0.0

    @EVERY
    @pytest.mark.parametrize("damage", ["missing", "unexpected", "misshapen"])
    def test_a_state_for_other_parameters_is_refused_and_nothing_changed(self, params, damage):
        model, other = tagger(), tagger(1)
        parameters = named(other)
        if damage == "missing":
            del parameters[1]
            message = r'no entry for "encoder\.weight"'
        elif damage == "unexpected":
            parameters.append(("decoder.weight", Parameter(torch.ones(2))))
            message = r'entry "decoder\.weight"'
        else:
            parameters[1] = ("encoder.weight", Parameter(torch.ones(2, 8).bfloat16()))
            message = r'shape \(2, 8\) for "encoder\.weight", whose shape is \(4, 4\)'
        average, source = built(params, named(model)), built(params, parameters)
        train(model, average, 3)
        train(other, source, 4)
        before = averages_of(average)
        with pytest.raises(ConfigurationError, match=message):
            average.load_state_dict(source.state_dict())
        assert same(averages_of(average), before)
        assert average.num_updates == 3

    @pytest.mark.parametrize(
        "path, value, message",
        [
            (["counts", "num_updates"], None, 'counts of the average has no "num_updates"'),
            (["counts", "epochs"], 3, 'counts of the average has "epochs"'),
            (["more"], {}, 'state of the average has "more"'),
            (["settings", "decay"], 2.0, '"decay" is 2.0'),
            (["averages", "encoder.weight"], 3.0, 'has a float for "encoder.weight"'),
        ],
    )
    def test_a_damaged_state_is_refused_and_nothing_changed(self, path, value, message):
        model = tagger()
        average = built({"decay": 0.5}, named(model))
        train(model, average, 3)
        before = averages_of(average)
        state = saved_and_loaded(average.state_dict())
        state["averages"]["encoder.bias"].add_(1.0)
        part = state
        for key in path[:-1]:
            part = part[key]
        if value is None:
            del part[path[-1]]
        else:
            part[path[-1]] = value
        with pytest.raises(ConfigurationError, match=re.escape(message)):
            average.load_state_dict(state)
        assert same(averages_of(average), before)
        assert average.num_updates == 3 and average.decay == 0.5

    @EVERY
    def test_a_state_of_another_type_is_refused_and_nothing_changed(self, params):
        model = tagger()
        average = built(params, named(model))
        train(model, average, 3)
        before = averages_of(average)
        for other in EVERY_AVERAGE.values():
            other_type = other.get("type", "exponential")
            if other_type != params.get("type", "exponential"):
                with pytest.raises(ConfigurationError, match=f'type "{other_type}"'):
                    average.load_state_dict(built(other, named(tagger(1))).state_dict())
                assert same(averages_of(average), before)
                assert average.num_updates == 3

    @EVERY
    def test_what_is_no_state_is_refused(self, params):
        average = built(params, named(tagger()))
        with pytest.raises(ConfigurationError, match="version is None"):
            average.load_state_dict({})
        with pytest.raises(ConfigurationError, match="version is 99"):
            average.load_state_dict({**average.state_dict(), "version": 99})
        for key in average.state_dict():
            if key not in ("version", "type"):
                state = average.state_dict()
                del state[key]
                with pytest.raises(ConfigurationError, match=f'no "{key}"'):
                    average.load_state_dict(state)


def saved_size(state):
    file = io.BytesIO()
    torch.save(state, file)
    return file.tell()


def flat(state):
    """Everything in it, comparable."""
    if isinstance(state, dict):
        return {key: flat(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return [flat(value) for value in state]
    return (state.dtype, state.tolist()) if isinstance(state, torch.Tensor) else state


class TestStateOfAllenNLP:
    def stock(self, model, num_updates=3, seed=0):
        stock = AllenNLPExponential(named(model), decay=0.9)
        train(model, stock, num_updates, seed)
        return stock

    def test_loads_and_goes_on_as_allennlp_would_have(self, caplog):
        model, reference = tagger().float(), tagger().float()
        stock = self.stock(reference)
        state = saved_and_loaded(stock.state_dict())
        model.load_state_dict(reference.state_dict())
        average = built({"decay": 0.9}, named(model))
        average.load_state_dict(state)
        assert not [each for each in caplog.records if each.levelno >= logging.WARNING]
        assert same(values(average.named_averages()), values(stock._shadows.items()))
        train(model, average, 5, seed=1, first=4)
        train(reference, stock, 5, seed=1, first=4)
        assert same(values(named(model)), values(named(reference)))
        for name, value in average.named_averages():
            assert torch.allclose(value, stock._shadows[name], rtol=1e-6, atol=1e-6)

    def test_leaves_the_parameters_alone(self):
        reference = tagger()
        model = tagger(1)
        raw = values(named(model))
        stock = self.stock(reference)
        built({}, named(model)).load_state_dict(saved_and_loaded(stock.state_dict()))
        assert same(values(named(model)), raw)

    def test_averages_of_dead_parameters_are_left_alone_with_a_warning(self, caplog):
        first = tagger()
        stock = self.stock(first)
        # What `--recover` does: the state goes through a file into the average of a new model.
        model = tagger(1)
        model.load_state_dict(first.state_dict())
        recovered = AllenNLPExponential(named(model), decay=0.9)
        with stock_loading():
            recovered.load_state_dict(saved_and_loaded(stock.state_dict()))
        train(model, recovered, 3, seed=1, first=4)
        recovered.assign_average_value()
        dead = saved_and_loaded(recovered.state_dict())
        # Averages were assigned, but not to this model.
        assert not torch.equal(model.encoder.weight, dead["shadows"]["encoder.weight"])
        # The trainer makes the average before it gives the model its weights.
        restarted = tagger(2)
        average = built({"decay": 0.9}, named(restarted))
        restarted.load_state_dict(model.state_dict())
        average.load_state_dict(dead)
        (warning,) = [each for each in caplog.records if each.levelno == logging.WARNING]
        assert "averages of dead parameters" in warning.getMessage()
        assert "averaging begins anew from the model's present parameters" in warning.getMessage()
        for name, parameter in named(restarted):
            assert torch.equal(average.average(name), parameter.to(average.average(name).dtype))
        assert average.num_averaged == 0

    def test_what_is_not_averaged_here_does_not_matter(self):
        model = tagger()
        stock = self.stock(model)
        average = built({"include": ["^encoder"]}, named(model))
        average.load_state_dict(saved_and_loaded(stock.state_dict()))
        assert torch.equal(average.average("encoder.bias"), stock._shadows["encoder.bias"].float())

    def test_another_model_is_refused(self):
        stock = AllenNLPExponential([("other", Parameter(torch.ones(2)))])
        with pytest.raises(ConfigurationError, match="embedding.weight"):
            built({}, named(tagger())).load_state_dict(stock.state_dict())

    def test_its_averages_are_no_initial_values_to_forget(self):
        model = tagger()
        stock = self.stock(model)
        average = built({"decay": 0.5, "zero_debias": True}, named(model))
        average.load_state_dict(saved_and_loaded(stock.state_dict()))
        before = average.average("projection.bias").clone()
        average.apply()
        expected = (before + model.projection.bias) / 2
        assert torch.allclose(average.average("projection.bias"), expected)

    @pytest.mark.parametrize("name", ["uniform", "power_function", "polynomial", "window", "bank"])
    def test_only_the_exponential_average_continues_it(self, name):
        model = tagger()
        state = self.stock(model).state_dict()
        with pytest.raises(ConfigurationError, match="AllenNLP's own exponential|version is None"):
            built(EVERY_AVERAGE[name], named(model)).load_state_dict(state)


class TestNumbers:
    def test_what_is_in_force_and_how_long_the_window_is(self):
        average = built({"type": "exponential", "decay": 0.5}, named_parameter(torch.ones(1)))
        assert average.num_updates == 0 and average.num_averaged == 0
        assert average.decay_in_force is None and average.effective_window() is None
        shares = [Fraction(1)]
        for number in range(1, 30):
            average.apply(number)
            decay = min(Fraction(1, 2), Fraction(1 + number, 10 + number))
            shares = [share * decay for share in shares] + [1 - decay]
            assert average.decay_in_force == pytest.approx(float(decay))
            window = 1 / sum(share**2 for share in shares)
            assert average.effective_window() == pytest.approx(float(window))
        assert (average.num_updates, average.num_averaged) == (29, 29)

    def test_the_window_of_a_constant_decay(self):
        average = built(
            {"decay": {"type": "constant", "decay": 0.9}}, named_parameter(torch.ones(1))
        )
        for number in range(1, 300):
            average.apply(number)
        assert average.effective_window() == pytest.approx((1 + 0.9) / (1 - 0.9))

    @pytest.mark.parametrize("name, window", [("uniform", 12), ("window", 9)])
    def test_the_window_is_in_updates(self, name, window):
        average = built(EVERY_AVERAGE[name], named_parameter(torch.ones(1)), update_every=3)
        for number in range(1, 13):
            average.apply(number)
        assert average.effective_window() == pytest.approx(window)
        assert average.num_averaged == 4


class TestAverageOfOnesOwn:
    def test_one_method_is_all(self):
        trajectory = random_walk(6)
        averages = averages_along(trajectory, InverseSquareRootMovingAverage)
        expected = trajectory[0]
        for number in range(6):
            expected = expected + (trajectory[number + 1] - expected) / (number + 1) ** 0.5
            assert torch.allclose(averages[number + 1], expected, rtol=1e-14)

    def test_has_every_key_and_a_state(self):
        params = {"type": "inverse_square_root", "update_every": 2, "shadow_dtype": "float64"}
        model = tagger()
        average = built(params, named(model))
        assert average.to_params().as_dict() == params
        train(model, average, 4)
        assert average.num_averaged == 2
        again = built(params, named(tagger(1)))
        again.load_state_dict(saved_and_loaded(average.state_dict()))
        assert same(averages_of(again), averages_of(average))

    def test_is_named_in_full_where_it_has_no_name(self):
        class Half(MovingAverage):
            def averaging_weight(self, num_averaged: int, num_updates: Optional[int]) -> float:
                return 0.5

        average = Half(named_parameter(torch.ones(1)))
        assert average.state_dict()["type"] == f"{__name__}.{Half.__qualname__}"

    def test_a_rule_may_take_the_interval(self):
        seen = []

        class Rule(MovingAverage):
            def averaging_weight(
                self, num_averaged: int, num_updates: Optional[int], interval: int
            ) -> float:
                seen.append((num_averaged, num_updates, interval))
                return 1.0 - 0.9**interval

        averages = profile(lambda p: Rule(p, start_step=4, update_every=3), 10)
        # At start_step the update before is still the average.
        assert seen == [(0, 0, 1), (1, 3, 3), (2, 6, 3)]
        expected = torch.zeros(11, dtype=torch.float64)
        expected[3] = 0.9**7
        expected[4] = 0.1 * 0.9**6
        expected[7] = (1 - 0.9**3) * 0.9**3
        expected[10] = 1 - 0.9**3
        assert torch.allclose(averages, expected, rtol=1e-14)

    @pytest.mark.parametrize("number", [Fraction, numpy.float16])
    def test_a_weight_may_be_any_number(self, number):
        class Quarter(MovingAverage):
            def averaging_weight(self, num_averaged: int, num_updates: Optional[int]) -> float:
                return number(0.25)

        parameters = named_parameter(torch.zeros(1))
        average = Quarter(parameters)
        move(parameters, torch.ones(1))
        average.apply(1)
        assert average.average("weight") == 0.25
        assert {type(each) for each in average.state_dict()["counts"].values()} == {int, float}

    @pytest.mark.parametrize("weight", [1.5, -0.1, float("nan"), None, "0.5"])
    def test_what_is_no_weight_is_refused_and_nothing_changed(self, weight):
        class Wrong(MovingAverage):
            def averaging_weight(self, num_averaged: int, num_updates: Optional[int]) -> float:
                return 0.5 if num_averaged == 0 else weight

        parameters = named_parameter(torch.zeros(1))
        average = Wrong(parameters)
        move(parameters, torch.ones(1))
        average.apply(1)
        with pytest.raises(
            ConfigurationError,
            match=re.escape(f"Wrong.averaging_weight gives {weight!r} for num_averaged = 1"),
        ):
            average.apply(2)
        assert average.average("weight") == 0.5 and average.num_updates == 1
