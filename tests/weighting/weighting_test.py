from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allennlp_ema.weighting.weighting import AveragingCounts

weights_of_samples = st.lists(st.floats(0, 1), min_size=1, max_size=12)


def after(weights, zero_debias=False):
    counts = AveragingCounts()
    for number, weight in enumerate(weights, start=1):
        counts = counts.sample(number, weight, zero_debias)
    return counts


def shares(weights):
    """What the initial value and each sample count for in the average, exactly."""
    shares = [Fraction(1)]
    for weight in map(Fraction, weights):
        shares = [share * (1 - weight) for share in shares] + [weight]
    return shares


class TestAveragingCounts:
    def test_nothing_is_sampled_at_first(self):
        assert AveragingCounts() == (0, 0, 0.0, 1.0, 0.0)

    @given(weights_of_samples)
    def test_share_of_the_samples_and_sum_of_squares(self, weights):
        initial, *of_samples = shares(weights)
        counts = after(weights)
        assert counts.sampled_share == pytest.approx(float(1 - initial), abs=1e-14)
        assert counts.sum_of_squares == pytest.approx(
            float(initial**2 + sum(share**2 for share in of_samples)), abs=1e-14
        )
        assert counts.num_updates == counts.num_averaged == len(weights)
        assert counts.last_weight == weights[-1]

    @given(st.lists(st.floats(1e-6, 1), min_size=1, max_size=12))
    def test_zero_debias_divides_by_one_minus_the_product_of_all_decays(self, weights):
        product = Fraction(1)
        for number, weight in enumerate(weights, start=1):
            product *= 1 - Fraction(weight)
            debiased = after(weights[:number], zero_debias=True).last_weight
            assert debiased == pytest.approx(float(Fraction(weight) / (1 - product)), rel=1e-13)

    def test_zero_debias_is_not_lost_to_rounding_at_decays_close_to_1(self):
        weight = 1.0 - 0.99999
        counts = AveragingCounts()
        for number in range(1, 1001):
            counts = counts.sample(number, weight, zero_debias=True)
            if number in (1, 2, 10, 1000):
                share = 1 - (1 - Fraction(weight)) ** number
                assert counts.sampled_share == pytest.approx(float(share), rel=1e-13)
                assert counts.last_weight == pytest.approx(
                    float(Fraction(weight) / share), rel=1e-13
                )

    def test_a_weight_of_zero_before_any_sample_stays_zero(self):
        assert after([0.0, 0.0], zero_debias=True).last_weight == 0.0
        assert after([0.0, 0.25], zero_debias=True).last_weight == 1.0

    def test_an_update_without_a_sample_is_only_counted(self):
        counts = after([0.5, 0.25])
        assert counts.skip(7) == counts._replace(num_updates=7)
        assert counts.num_updates == 2

    def test_a_dict_and_back(self):
        counts = after([0.5, 0.1], zero_debias=True)
        assert AveragingCounts(**counts.as_dict()) == counts
        assert all(type(value) in (int, float) for value in counts.as_dict().values())
