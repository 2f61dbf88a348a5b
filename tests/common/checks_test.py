import re

import pytest
from allennlp.common.checks import ConfigurationError

from allennlp_ema.common.checks import check_choice, check_integer, check_number
from allennlp_ema.common.json_values import written


class TestCheckNumber:
    @pytest.mark.parametrize("value", [0, 1, 0.5])
    def test_gives_a_float(self, value):
        checked = check_number("decay", value, minimum=0, maximum=1)
        assert checked == value and type(checked) is float

    @pytest.mark.parametrize("value", [-1e-9, 1.1, float("nan"), float("inf"), True, "0.5", None])
    def test_names_key_value_and_what_is_allowed(self, value):
        expected = f'"decay" is {written(value)}, but has to be a finite number >= 0 and <= 1'
        with pytest.raises(ConfigurationError, match=re.escape(expected)):
            check_number("decay", value, minimum=0, maximum=1)

    @pytest.mark.parametrize("value", [0, 2])
    def test_exclusive_bounds(self, value):
        assert check_number("power", 1, above=0, below=2) == 1.0
        expected = f'"power" is {value}, but has to be a finite number > 0 and < 2'
        with pytest.raises(ConfigurationError, match=re.escape(expected)):
            check_number("power", value, above=0, below=2)


class TestCheckInteger:
    def test_gives_the_integer(self):
        assert check_integer("window_size", 1, minimum=1) == 1

    @pytest.mark.parametrize("value", [0, 2.0, "2", True, None])
    def test_names_key_value_and_what_is_allowed(self, value):
        expected = f'"window_size" is {written(value)}, but has to be an integer >= 1'
        with pytest.raises(ConfigurationError, match=re.escape(expected)):
            check_integer("window_size", value, minimum=1)


class TestCheckChoice:
    def test_gives_the_choice(self):
        assert check_choice("shadow_device", None, [None, "cpu"]) is None

    @pytest.mark.parametrize("value", ["gpu", 3, ["cpu"]])
    def test_names_key_value_and_what_is_allowed(self, value):
        expected = f"\"shadow_device\" is {value!r}, but has to be one of null, 'cpu'"
        with pytest.raises(ConfigurationError, match=f"^{re.escape(expected)}$"):
            check_choice("shadow_device", value, [None, "cpu"])

    def test_names_the_one_that_was_meant(self):
        expected = "\"mode\" is 'avrage', but has to be one of 'recalibrate', 'average'; did you "
        with pytest.raises(ConfigurationError, match=f'^{expected}mean "average"\\?$'):
            check_choice("mode", "avrage", ["recalibrate", "average"])
