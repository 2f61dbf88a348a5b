from typing import Dict, List, Optional, Union

import pytest
from allennlp.common import Lazy, Params, Registrable
from allennlp.common.checks import ConfigurationError

from allennlp_ema.common.from_params import (
    ExplainedFromParams,
    constructor_arguments,
    registered_name,
)


class Rate(ExplainedFromParams, Registrable):
    default_implementation = "fixed"


@Rate.register("constant")
@Rate.register("fixed")
class FixedRate(Rate):
    def __init__(self, value: float) -> None:
        if value < 0:
            raise ConfigurationError(f'"value" is {value!r}')
        self.value = value

    def _to_params(self):
        return {"type": registered_name(self, Rate), **constructor_arguments(self)}


class Base(ExplainedFromParams):
    def __init__(self, names: Optional[List[str]] = None, size: int = 1) -> None:
        self.names = names
        self.size = size


class Deep(ExplainedFromParams):
    def __init__(self, rate: Union[float, Rate]) -> None:
        self.rate = rate


class Broken(ExplainedFromParams):
    def __init__(self) -> None:
        raise TypeError("broken inside")


class Thing(Base):
    def __init__(
        self,
        rate: Union[float, Rate] = 1.0,
        rates: Optional[Dict[str, Rate]] = None,
        later: Optional[Lazy[Rate]] = None,
        deep: Optional[Lazy[Deep]] = None,
        broken: Optional[Union[int, Broken]] = None,
        **kwargs,
    ) -> None:
        super().__init__(**kwargs)
        self._rate = rate
        self.rates = rates
        self.later = later
        if deep is not None:
            deep.construct()


class TestExplainedFromParams:
    def test_builds_what_allennlp_builds(self):
        thing = Thing.from_params(
            Params(
                {
                    "rate": {"value": 0.5},
                    "rates": {"a": {"type": "constant", "value": 2}},
                    "names": ["x"],
                    "size": 3,
                }
            )
        )
        assert thing._rate.value == 0.5 and thing.rates["a"].value == 2
        assert thing.names == ["x"] and thing.size == 3

    @pytest.mark.parametrize(
        "params, message",
        [
            (
                {"sise": 3},
                'unknown key "sise" for Thing; its keys are broken, deep, later, names, rate, '
                'rates, size; did you mean "size"?',
            ),
            ({"names": "x"}, "\"names\" is 'x', but has to be a list of strings: ['x']"),
            ({"size": "3"}, "\"size\" is '3', but has to be an integer"),
            ({"rate": {"value": -1}}, '"rate": "value" is -1'),
            (
                {"rate": {"valve": 1}},
                '"rate": unknown key "valve" for FixedRate; its keys are value; did you mean '
                '"value"?',
            ),
            ({"rate": "fast"}, "\"rate\" is 'fast', but has to be a number or an object: "),
            ({"rates": {"a": {"value": -1}}}, '"rates.a": "value" is -1'),
            ({"rates": {"a": 3}}, '"rates.a" is 3, but has to be an object: {"type": ...}'),
            (
                {"rate": {"type": "constnat"}},
                "\"rate\": \"type\" is 'constnat', but has to be one of 'fixed', 'constant', or a "
                'class of yours: --include-package loads it; did you mean "constant"?',
            ),
            ({"rate": {"type": "no.such.Rate"}}, "unable to import module no.such"),
            ({"deep": {"rate": {"value": -1}}}, '"deep.rate": "value" is -1'),
            ({"broken": {}}, "broken inside"),
        ],
    )
    def test_errors_name_key_value_and_cause(self, params, message):
        with pytest.raises(ConfigurationError) as error:
            Thing.from_params(Params(params))
        assert message in str(error.value)
        assert "Failed to construct" not in str(error.value)

    def test_an_object_is_what_it_stands_for(self):
        with pytest.raises(ConfigurationError, match="^3 is given, but it has to be an object: "):
            Rate.from_params(3)

    def test_given_params_are_left_alone_by_the_explanation(self):
        params = {"rate": {"value": 0.5}, "size": 2}
        Thing.from_params(Params(params).duplicate())
        assert params == {"rate": {"value": 0.5}, "size": 2}

    def test_errors_that_are_not_about_the_configuration_stay_what_they_are(self):
        with pytest.raises(TypeError, match="^broken inside$"):
            Broken.from_params(Params({}))


class TestConstructorArguments:
    def test_are_those_that_differ_from_their_defaults(self):
        rate = FixedRate(2.0)
        assert constructor_arguments(Thing()) == {}
        assert constructor_arguments(Thing(rate, size=2, names=["x"])) == {
            "rate": rate,
            "size": 2,
            "names": ["x"],
        }

    def test_go_into_params_with_what_they_hold(self):
        assert FixedRate(2.0).to_params().as_dict() == {"type": "fixed", "value": 2.0}


class TestRegisteredName:
    def test_is_the_one_that_was_registered_first(self):
        assert registered_name(FixedRate(1.0), Rate) == "fixed"

    def test_or_else_the_fully_qualified_one(self):
        class Unregistered(FixedRate):
            pass

        expected = f"{__name__}.{Unregistered.__qualname__}"
        assert registered_name(Unregistered(1.0), Rate) == expected
