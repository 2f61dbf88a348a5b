import math

import pytest
from allennlp.common import Params
from allennlp.common.checks import ConfigurationError
from hypothesis import given
from hypothesis import strategies as st

from allennlp_ema.weighting.decay_schedules import (
    ConstantDecay,
    CosineDecay,
    DecaySchedule,
    HalfLifeDecay,
    InversePowerDecay,
    PowerFunctionDecay,
    WarmupDecay,
)
from allennlp_ema.weighting.relative_width import gamma_to_sigma_rel, sigma_rel_to_gamma

pytestmark = pytest.mark.everywhere

# For each schedule a configuration, and its formula as published.
SCHEDULES = {
    "constant": ({"decay": 0.99}, lambda n: 0.99),
    "warmup": (
        {"decay": 0.9, "numerator": 2, "denominator": 20},
        lambda n: min(0.9, (2 + n) / (20 + n)),
    ),
    "inverse_power": (
        {"max_decay": 0.95, "min_decay": 0.3, "inv_gamma": 2.0, "power": 0.75},
        lambda n: min(0.95, max(0.3, 1 - (1 + n / 2) ** -0.75)),
    ),
    "half_life": ({"half_life": 12}, lambda n: 0.5 ** (1 / 12)),
    # BYOL: 1 - (1 - start) * (cos(pi * n / length) + 1) / 2
    "cosine": (
        {"start": 0.9, "end": 1.0, "num_updates": 30},
        lambda n: 1 - 0.1 * (math.cos(math.pi * min(n, 30) / 30) + 1) / 2,
    ),
    # Karras et al. 2023, eq. 127
    "power_function": ({"gamma": 6.94}, lambda n: (1 - 1 / n) ** 7.94 if n else 0.0),
}


def schedule(name):
    return DecaySchedule.from_params(Params({"type": name, **SCHEDULES[name][0]}))


def test_these_are_all_schedules():
    assert set(DecaySchedule.list_available()) == set(SCHEDULES)


@pytest.mark.parametrize("name", SCHEDULES)
class TestEverySchedule:
    def test_formula(self, name):
        formula = SCHEDULES[name][1]
        for n in (0, 1, 2, 3, 10, 29, 30, 31, 1000, 10**6):
            assert schedule(name)(n) == pytest.approx(formula(n), rel=1e-12, abs=1e-15)

    @given(n=st.integers(0, 50), interval=st.integers(1, 20))
    def test_over_an_interval_it_is_the_product(self, name, n, interval):
        formula = SCHEDULES[name][1]
        updates = range(max(n - interval + 1, 0), n + 1)
        expected = math.prod(formula(update) for update in updates)
        if name in ("constant", "half_life"):
            # A constant needs no update count, and so does not know of a first update either.
            expected = formula(n) ** interval
        assert schedule(name).over(n, interval) == pytest.approx(expected, rel=1e-11, abs=1e-15)

    def test_to_params_and_back(self, name):
        params = schedule(name).to_params()
        assert params["type"] == name
        again = DecaySchedule.from_params(params.duplicate())
        assert type(again) is type(schedule(name))
        assert again.to_params().as_dict() == params.as_dict()
        assert [again(n) for n in range(40)] == [schedule(name)(n) for n in range(40)]

    def test_in_words(self, name):
        key, value = next(iter(SCHEDULES[name][0].items()))
        assert str(schedule(name)).startswith(f"{name}(")
        assert f"{key}={value:g}" in str(schedule(name)).replace(".0", "")


class TestWarmupDecay:
    @pytest.mark.parametrize("decay, update", [(0.9999, 89_990), (0.999, 8_990), (0.9, 80)])
    def test_binds_from_what_nine_over_one_minus_decay_says(self, decay, update):
        assert WarmupDecay(decay).binds_from() == update

    @given(
        decay=st.floats(0, 0.995),
        numerator=st.floats(0, 20),
        denominator=st.floats(0.01, 20),
    )
    def test_binds_from_the_first_update_at_which_decay_is_in_force(
        self, decay, numerator, denominator
    ):
        warmup = WarmupDecay(decay, numerator, denominator)
        first = next(n for n in range(10_000) if warmup(n) == decay)
        assert warmup.binds_from() == first

    def test_a_decay_of_1_is_never_in_force(self):
        assert WarmupDecay(1.0).binds_from() is None
        assert WarmupDecay(1.0, numerator=10.0).binds_from() == 0


class TestInForceFrom:
    @pytest.mark.parametrize(
        "schedule, first",
        [
            (ConstantDecay(0.9), 0),
            (HalfLifeDecay(8), 0),
            (WarmupDecay(0.9), 80),
            (WarmupDecay(0.999), None),
            # 1 - (1 + n)^-1 is 0.75 at 3.
            (InversePowerDecay(max_decay=0.75, power=1.0), 3),
            (CosineDecay(num_updates=70), 70),
            (CosineDecay(num_updates=100), None),
            (PowerFunctionDecay(gamma=4.0), None),
        ],
        ids=str,
    )
    def test_within_100_updates(self, schedule, first):
        assert schedule.in_force_from(100) == first


class TestHalfLifeDecay:
    def test_after_a_half_life_half_is_left(self):
        assert HalfLifeDecay(1000).over(5000, 1000) == pytest.approx(0.5, rel=1e-12)


class TestInversePowerDecay:
    def test_defaults(self):
        # As in timm's ModelEmaV3 and ema-pytorch: 1 - (1 + n)^(-2/3), at most 0.9999.
        assert InversePowerDecay()(0) == 0.0
        assert InversePowerDecay()(7) == pytest.approx(0.75)
        assert InversePowerDecay()(10**9) == 0.9999


class TestCosineDecay:
    def test_ends_at_its_ends(self):
        schedule = CosineDecay(num_updates=100)
        assert schedule(0) == pytest.approx(0.996, rel=1e-15)
        assert schedule(50) == pytest.approx(0.998, rel=1e-15)
        assert schedule(100) == schedule(101) == schedule(10**9) == 1.0


class TestPowerFunctionDecay:
    # Karras et al. 2023, section 3.1, name these pairs.
    @pytest.mark.parametrize("sigma_rel, gamma", [(0.05, 16.97), (0.10, 6.94)])
    def test_published_pairs(self, sigma_rel, gamma):
        assert sigma_rel_to_gamma(sigma_rel) == pytest.approx(gamma, abs=0.005)
        assert PowerFunctionDecay(sigma_rel=sigma_rel).exponent == sigma_rel_to_gamma(sigma_rel)

    @given(st.floats(0, 1000))
    def test_sigma_rel_and_gamma_are_each_others_inverse(self, gamma):
        sigma_rel = gamma_to_sigma_rel(gamma)
        if sigma_rel < 12**-0.5:
            assert sigma_rel_to_gamma(sigma_rel) == pytest.approx(gamma, rel=1e-6, abs=1e-6)

    def test_sigma_rel_is_the_standard_deviation_of_the_profile(self):
        # By integrals over [0, 1] of the density (gamma + 1) t^gamma.
        gamma = 6.94
        mean, mean_square = (gamma + 1) / (gamma + 2), (gamma + 1) / (gamma + 3)
        assert gamma_to_sigma_rel(gamma) == pytest.approx(math.sqrt(mean_square - mean**2))

    def test_nothing_before_the_first_update_counts(self):
        assert PowerFunctionDecay(gamma=2.0)(1) == 0.0
        assert PowerFunctionDecay(gamma=2.0).over(100, 100) == 0.0


@pytest.mark.parametrize(
    "params, message",
    [
        ({"type": "constant", "decay": 1.5}, '"decay" is 1.5'),
        ({"type": "constant", "decay": float("nan")}, '"decay" is nan'),
        ({"type": "constant", "decay": "0.9"}, "decay"),
        ({"type": "constant", "decays": 0.9}, 'unknown key "decays"'),
        ({"type": "constant"}, '"decay" is required'),
        ({"type": "warmup", "numerator": -1.0}, '"numerator" is -1.0'),
        ({"type": "warmup", "denominator": 0}, '"denominator" is 0'),
        ({"type": "inverse_power", "power": 0.0}, '"power" is 0.0'),
        ({"type": "inverse_power", "inv_gamma": 0.0}, '"inv_gamma" is 0.0'),
        ({"type": "inverse_power", "min_decay": 0.9, "max_decay": 0.8}, '"min_decay" is 0.9'),
        ({"type": "half_life", "half_life": 0}, '"half_life" is 0'),
        ({"type": "half_life", "half_life": float("inf")}, '"half_life" is inf'),
        ({"type": "cosine", "num_updates": 0}, '"num_updates" is 0'),
        ({"type": "cosine", "num_updates": 10, "start": -0.1}, '"start" is -0.1'),
        ({"type": "cosine", "num_updates": 10, "end": 1.1}, '"end" is 1.1'),
        ({"type": "power_function"}, 'exactly one of "sigma_rel" and "gamma"'),
        (
            {"type": "power_function", "sigma_rel": 0.1, "gamma": 6.94},
            'exactly one of "sigma_rel" and "gamma"',
        ),
        ({"type": "power_function", "sigma_rel": 0.28868}, '"sigma_rel" is 0.28868'),
        ({"type": "power_function", "sigma_rel": 0.0}, '"sigma_rel" is 0.0'),
        ({"type": "power_function", "gamma": -0.5}, '"gamma" is -0.5'),
        ({"type": "nonesuch"}, "nonesuch"),
    ],
)
def test_bad_input_is_named(params, message):
    with pytest.raises(ConfigurationError) as error:
        DecaySchedule.from_params(Params(params))
    assert message in str(error.value)


class TestScheduleOfOnesOwn:
    @pytest.mark.parametrize("decay", [1.5, -0.1, float("nan"), None, "0.9"])
    def test_what_is_no_decay_is_refused_with_its_update(self, decay):
        class Wrong(DecaySchedule):
            def __call__(self, num_updates):
                return 0.9 if num_updates < 3 else decay

        assert Wrong().over(2, 2) == pytest.approx(0.81)
        with pytest.raises(ConfigurationError, match=f"Wrong gives {decay!r} at update 3"):
            Wrong().over(4, 3)

    @pytest.mark.usefixtures("own_names")
    def test_by_name(self):
        @DecaySchedule.register("scaled_square_root")
        class ScaledSquareRootDecay(DecaySchedule):
            def __init__(self, scale: float = 1.0) -> None:
                self.scale = scale

            def __call__(self, num_updates: int) -> float:
                return 1.0 - self.scale / math.sqrt(num_updates + 1)

        params = {"type": "scaled_square_root", "scale": 0.5}
        schedule = DecaySchedule.from_params(Params(dict(params)))
        assert schedule.over(3, 2) == pytest.approx((1 - 0.5 / 3**0.5) * 0.75)
        assert schedule.to_params().as_dict() == params
        assert str(schedule) == "scaled_square_root(scale=0.5)"
        with pytest.raises(ConfigurationError, match='unknown key "scales"'):
            DecaySchedule.from_params(Params({"type": "scaled_square_root", "scales": 0.5}))


def test_constant_needs_no_update_count():
    assert ConstantDecay(0.9).over(0, 3) == pytest.approx(0.729)
