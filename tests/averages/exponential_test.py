import json
import math

import pytest
import torch
from allennlp.common import Params
from allennlp.common.checks import ConfigurationError
from allennlp.training.moving_average import ExponentialMovingAverage as AllenNLPExponential
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import Linear

from allennlp_ema import DecaySchedule, ExponentialMovingAverage
from tests.support.every_average import built
from tests.support.trajectories import (
    averages_along,
    move,
    named_parameter,
    profile,
    random_walk,
    weighted_along,
)


def exponential(**settings):
    return lambda parameters: built({"type": "exponential", **settings}, parameters)


@pytest.mark.everywhere
class TestAsAllenNLPsOwn:
    @settings(max_examples=40)
    @given(
        seed=st.integers(0, 10**6),
        decay=st.floats(0, 1),
        numerator=st.floats(0, 20),
        denominator=st.floats(1, 20),
        numbered=st.booleans(),
        dtype=st.sampled_from([torch.float32, torch.float64]),
    )
    def test_same_values(self, seed, decay, numerator, denominator, numbered, dtype):
        trajectory = random_walk(30, dtype=dtype, seed=seed)
        keys = {"decay": decay, "numerator": numerator, "denominator": denominator}
        numbers = range(1, 31) if numbered else [None] * 30
        ours = averages_along(trajectory, exponential(**keys), numbers)
        stock = averages_along(trajectory, lambda p: AllenNLPExponential(p, **keys), numbers)
        rounding = 30 * torch.finfo(dtype).eps * trajectory.abs().max().item()
        assert torch.allclose(ours, stock, rtol=0, atol=rounding)

    def test_default_settings_are_the_same(self):
        trajectory = random_walk(50)
        assert torch.allclose(
            averages_along(trajectory, ExponentialMovingAverage),
            averages_along(trajectory, AllenNLPExponential),
            rtol=1e-13,
        )


class TestAsTensorFlows:
    """`tf.train.ExponentialMovingAverage`, from the documentation of TensorFlow 2."""

    def test_without_and_with_num_updates(self):
        trajectory = random_walk(40)
        ours = averages_along(trajectory, exponential(decay=0.9), [None] * 40)
        assert torch.allclose(ours, weighted_along(trajectory, [0.1] * 40))
        ours = averages_along(trajectory, exponential(decay=0.7))
        decays = [min(0.7, (1 + n) / (10 + n)) for n in range(1, 41)]
        assert decays[0] == 2 / 11 and decays[-1] == 0.7
        assert torch.allclose(ours, weighted_along(trajectory, [1 - d for d in decays]))

    def test_zero_debias_of_tensors(self):
        trajectory = random_walk(40)
        ours = averages_along(trajectory, exponential(decay=0.9, zero_debias=True), [None] * 40)
        biased = torch.zeros(5, dtype=torch.float64)
        for number, value in enumerate(trajectory[1:], start=1):
            biased -= (biased - value) * (1 - 0.9)
            assert torch.allclose(ours[number], biased / (1 - 0.9**number))

    def test_zero_debias_with_num_updates_divides_by_the_product_of_the_decays(self):
        ours = profile(exponential(decay=0.7, zero_debias=True), 40)
        decays = torch.tensor([min(0.7, (1 + n) / (10 + n)) for n in range(1, 41)]).double()
        later = torch.cat([decays.flip(0).cumprod(0).flip(0)[1:], torch.ones(1).double()])
        expected = (1 - decays) * later / (1 - decays.prod())
        assert ours[0] == 0.0
        assert torch.allclose(ours[1:], expected) and ours.sum() == pytest.approx(1.0)

    @pytest.mark.parametrize("decay", [0.9, 0.99999])
    def test_zero_debias_at_any_decay_starts_with_the_first_sample(self, decay):
        trajectory = random_walk(100)
        ours = averages_along(trajectory, exponential(decay=decay, zero_debias=True), [None] * 100)
        assert torch.equal(ours[1], trajectory[1])
        if decay == 0.99999:
            assert torch.allclose(ours[100], trajectory[1:].mean(0), rtol=1e-3, atol=1e-4)

    @pytest.mark.parametrize("numbered", [False, True])
    def test_decay_as_a_variable(self, numbered):
        trajectory = random_walk(60)
        parameters = named_parameter(trajectory[0])
        average = ExponentialMovingAverage(parameters, decay=0.5)
        weights = []
        for number, value in enumerate(trajectory[1:], start=1):
            if number == 31:
                average.decay = 0.6
            decay = 0.5 if number < 31 else 0.6
            weights.append(1 - (min(decay, (1 + number) / (10 + number)) if numbered else decay))
            move(parameters, value)
            average.apply(number if numbered else None)
            assert average.decay == decay
            assert average.decay_in_force == pytest.approx(1 - weights[-1])
        expected = weighted_along(trajectory, weights)[-1]
        assert torch.allclose(average.average("weight"), expected)
        restored = ExponentialMovingAverage(named_parameter(trajectory[0]), decay=0.5)
        restored.load_state_dict(average.state_dict())
        assert restored.decay == 0.6
        assert restored.to_params()["decay"] == 0.6

    @pytest.mark.parametrize("decay", [1.5, float("nan"), "0.9", None])
    def test_no_decay_is_taken_that_is_none(self, decay):
        average = ExponentialMovingAverage(named_parameter(torch.ones(1)), decay=0.5)
        with pytest.raises(ConfigurationError, match='"decay" is'):
            average.decay = decay
        assert average.decay == 0.5


class TestAsTensorFlowAddons:
    """`tfa.optimizers.MovingAverage`, whose updates are numbered from 0, the trainer's from 1."""

    @pytest.mark.parametrize("first", [0, 1])
    @pytest.mark.parametrize("start_step", [0, 12])
    @pytest.mark.parametrize("dynamic_decay", [False, True])
    def test_start_step_and_dynamic_decay(self, start_step, dynamic_decay, first):
        trajectory = random_walk(40)

        def decay(step):
            if step < start_step:
                return 0.0
            since_start = step - start_step
            return min(0.8, (1 + since_start) / (10 + since_start)) if dynamic_decay else 0.8

        of_ours = 0.8 if dynamic_decay else {"type": "constant", "decay": 0.8}
        ours = averages_along(
            trajectory,
            exponential(decay=of_ours, start_step=start_step + first),
            range(first, first + 40),
        )
        expected = weighted_along(trajectory, [1 - decay(step) for step in range(40)])
        assert torch.allclose(ours, expected)
        assert torch.equal(ours[1 : start_step + 1], trajectory[1 : start_step + 1])


class TestAsTorchs:
    @pytest.mark.skipif(
        not hasattr(torch.optim.swa_utils, "get_ema_multi_avg_fn"), reason="came with torch 2.1"
    )
    def test_averaged_model_with_get_ema_multi_avg_fn(self):
        from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

        model = Linear(3, 2)
        theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
        # AveragedModel starts from the parameters after the first update.
        settings = {"decay": {"type": "constant", "decay": 0.9}, "start_step": 2}
        ours = built(settings, model.named_parameters())
        for number in range(1, 30):
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(torch.randn(parameter.shape), alpha=0.1)
            theirs.update_parameters(model)
            ours.apply(number)
            for name, parameter in theirs.module.named_parameters():
                assert torch.allclose(ours.average(name), parameter, rtol=1e-6, atol=1e-6)


class TestAsOthers:
    """By their published formulas; `tests/peers` compares with the libraries themselves."""

    def test_optax_ema_with_debias(self):
        trajectory = random_walk(40)
        settings = {"decay": {"type": "constant", "decay": 0.9}, "zero_debias": True}
        ours = averages_along(trajectory, exponential(**settings))
        moment = torch.zeros(5, dtype=torch.float64)
        for count, value in enumerate(trajectory[1:], start=1):
            moment = 0.9 * moment + 0.1 * value
            assert torch.allclose(ours[count], moment / (1 - 0.9**count))

    @pytest.mark.parametrize("update_after_step", [0, 15])
    def test_inverse_power_of_timm_and_ema_pytorch(self, update_after_step):
        trajectory = random_walk(60)

        def decay(step):
            step = max(0, step - update_after_step - 1)
            value = 1 - (1 + step / 2.0) ** -0.75
            return max(min(value, 0.9), 0.0) if step > 0 else 0.0

        schedule = {"type": "inverse_power", "max_decay": 0.9, "inv_gamma": 2.0, "power": 0.75}
        ours = averages_along(
            trajectory, exponential(decay=schedule, start_step=update_after_step + 1)
        )
        expected = weighted_along(trajectory, [1 - decay(step) for step in range(1, 61)])
        assert torch.allclose(ours, expected)

    def test_byol(self):
        trajectory = random_walk(50)
        schedule = {"type": "cosine", "start": 0.9, "num_updates": 30}
        ours = averages_along(trajectory, exponential(decay=schedule))
        weights = [0.1 * (math.cos(math.pi * min(k, 30) / 30) + 1) / 2 for k in range(1, 51)]
        assert torch.allclose(ours, weighted_along(trajectory, weights))
        assert torch.equal(ours[30], ours[50])


class TestInterval:
    @pytest.mark.parametrize("interval", [1, 4, 12])
    @pytest.mark.parametrize("start_step", [0, 3])
    def test_the_curve_in_updates_is_the_same(self, interval, start_step):
        decay = {"type": "constant", "decay": 0.9}
        num_updates = start_step + 48
        ours = profile(
            exponential(decay=decay, update_every=interval, start_step=start_step), num_updates
        )
        expected = torch.zeros(num_updates + 1, dtype=torch.float64)
        for sample in range(start_step + interval, num_updates + 1, interval):
            expected[sample] = (1 - 0.9**interval) * 0.9 ** (num_updates - sample)
        if start_step:
            expected[start_step - 1] = 0.9**49
            expected[start_step] = 0.1 * 0.9**48
        else:
            expected[0] = 0.9**48
        assert torch.allclose(ours, expected, rtol=1e-12)

    @pytest.mark.parametrize(
        "schedule",
        [
            0.9,
            {"type": "warmup", "decay": 0.9},
            {"type": "inverse_power"},
            {"type": "half_life", "half_life": 5},
            {"type": "cosine", "num_updates": 30, "start": 0.5, "end": 0.9},
            {"type": "power_function", "gamma": 3.0},
        ],
        ids=str,
    )
    @pytest.mark.parametrize("start_step", [0, 6])
    def test_what_is_left_at_a_sample_is_what_every_update_would_have_left(
        self, schedule, start_step
    ):
        at_each, at_every_6th = (
            profile(exponential(decay=schedule, update_every=k, start_step=start_step), 36)
            for k in (1, 6)
        )
        for sample in range(start_step, 36, 6):
            assert at_every_6th[: sample + 1].sum() == pytest.approx(
                at_each[: sample + 1].sum().item(), rel=1e-12, abs=1e-15
            )


class TestLongHorizons:
    """
    The error of the average after 20,000 updates relative to how far it moved, on a random walk in
    steps of 1e-3 of 64 values of order 1.
    """

    def displacement_errors(self, decay, make_average):
        generator = torch.Generator().manual_seed(0)
        initial = torch.randn(64, generator=generator)
        ours, theirs = named_parameter(initial), named_parameter(initial)
        average = make_average(ours)
        stock = AllenNLPExponential(theirs, decay=decay)
        reference = initial.double()
        for steps in torch.randn(20, 1000, 64, generator=generator) * 1e-3:
            for step in steps:
                with torch.no_grad():
                    ours[0][1].add_(step)
                    theirs[0][1].add_(step)
                average.apply()
                stock.apply()
                reference += (1 - decay) * (ours[0][1].detach().double() - reference)
        moved = (reference - initial).norm()
        return [
            ((value.double() - reference).norm() / moved).item()
            for value in (average.average("weight"), stock._shadows["weight"])
        ]

    def test_float32_at_a_decay_of_0_9999(self):
        ours, stock = self.displacement_errors(0.9999, exponential(decay=0.9999))
        assert ours < 5e-5
        # 1.7e-3 on another such walk, and not always alike.
        assert 5e-4 < stock < 5e-3

    def test_float64_shadows_at_a_decay_of_0_99999(self):
        ours, stock = self.displacement_errors(
            0.99999, exponential(decay=0.99999, shadow_dtype="float64")
        )
        assert ours < 1e-6
        assert 5e-3 < stock < 5e-2


class TestHalfPrecision:
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_arrives_where_allennlps_own_never_moves(self, dtype):
        parameters = named_parameter(torch.full((3,), 0.5, dtype=dtype))
        stock = AllenNLPExponential(parameters, decay=0.9999)
        average = exponential(decay=0.9999)(parameters)
        move(parameters, torch.ones(3))
        left = 0.5
        for _ in range(20_000):
            average.apply()
            left *= 0.9999
        for _ in range(100):
            stock.apply()
        assert torch.equal(stock._shadows["weight"], torch.full((3,), 0.5, dtype=dtype))
        assert average.average("weight").dtype == torch.float32
        assert torch.allclose(average.average("weight"), torch.tensor(1 - left), rtol=1e-5)
        with average.average_values():
            assert torch.equal(parameters[0][1], average.average("weight").to(dtype))
            assert parameters[0][1][0] > 0.9
        assert torch.equal(parameters[0][1], torch.ones(3, dtype=dtype))


class TestSchedule:
    def test_takes_the_place_of_a_number(self):
        class LinearDecay(DecaySchedule):
            def __call__(self, num_updates: int) -> float:
                return num_updates / 100

        trajectory = random_walk(40)
        ours = averages_along(trajectory, lambda p: ExponentialMovingAverage(p, LinearDecay()))
        expected = weighted_along(trajectory, [1 - n / 100 for n in range(1, 41)])
        assert torch.allclose(ours, expected)

    def test_that_starts_with_no_decay_is_refused_at_construction(self):
        class Wrong(DecaySchedule):
            def __call__(self, num_updates: int) -> float:
                return 1.0 + num_updates

        with pytest.raises(ConfigurationError, match="Wrong gives 2.0 at update 1"):
            ExponentialMovingAverage(named_parameter(torch.ones(1)), Wrong())

    @pytest.mark.parametrize("wrong", [float("nan"), 1.25])
    def test_that_gives_no_decay_later_is_refused_then_and_nothing_changed(self, wrong):
        class WrongLater(DecaySchedule):
            def __call__(self, num_updates: int) -> float:
                return 0.5 if num_updates < 3 else wrong

        parameters = named_parameter(torch.zeros(1))
        average = ExponentialMovingAverage(parameters, WrongLater())
        move(parameters, torch.ones(1))
        average.apply(1)
        average.apply(2)
        with pytest.raises(ConfigurationError, match=f'"decay": .* gives {wrong} at update 3'):
            average.apply(3)
        assert average.average("weight") == 0.75 and average.num_updates == 2

    def test_is_not_replaced_by_the_number_of_a_state(self):
        parameters = named_parameter(torch.ones(1))
        state = exponential(decay=0.9)(parameters).state_dict()
        average = exponential(decay={"type": "half_life", "half_life": 10})(parameters)
        average.load_state_dict(state)
        assert isinstance(average.decay, DecaySchedule)

    def test_counts_from_start_step(self):
        schedule = {"type": "cosine", "start": 0.5, "end": 0.9, "num_updates": 20}
        average = exponential(decay=schedule, start_step=10)(named_parameter(torch.ones(1)))
        for number in range(1, 31):
            average.apply(number)
            expected = 0.9 - 0.4 * (math.cos(math.pi * (number - 10) / 20) + 1) / 2
            if number >= 10:
                assert average.decay_in_force == pytest.approx(expected)


def with_decay(decay, **keys):
    return ExponentialMovingAverage([("weight", torch.ones(1))], decay=decay, **keys)


class TestDecayOfAState:
    def warnings_of_loading(self, average, decay, caplog):
        state = with_decay(decay).state_dict()
        average.load_state_dict(state)
        return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]

    def test_another_than_the_configured_one_is_in_force_and_said(self, caplog):
        average = with_decay(0.9, numerator=2.0)
        (warning,) = self.warnings_of_loading(average, 0.999, caplog)
        assert average.decay == 0.999
        assert "The decay in force is 0.999, from the state" in warning and "not 0.9 as" in warning
        schedule = warning[warning.index("{") :]
        configured = with_decay(DecaySchedule.from_params(Params(json.loads(schedule))))
        # What it says to write keeps the configured one, with its warm-up, and is silent.
        caplog.clear()
        assert self.warnings_of_loading(configured, 0.999, caplog) == []
        expected = [with_decay(0.9, numerator=2.0).averaging_weight(0, n) for n in (1, 20, 500)]
        assert [configured.averaging_weight(0, n) for n in (1, 20, 500)] == expected

    def test_the_same_is_not(self, caplog):
        assert self.warnings_of_loading(with_decay(0.9), 0.9, caplog) == []
