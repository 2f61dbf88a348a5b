import re

import pytest
from allennlp.common.checks import ConfigurationError

from allennlp_ema.common.documents import check_kind, check_range, entry, explained, read_json


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "f.json is truncated or not JSON"),
        (b"\xff", "f.json is truncated or not JSON"),
        ("[" * 100_000, "f.json is truncated or not JSON"),
        ('{"a":' * 200 + "1" + "}" * 200, "f.json is nested more than 100 levels deep"),
    ],
    ids=["truncated", "bytes", "far too deep", "too deep"],
)
def test_what_is_no_document_is_named(text, message):
    with pytest.raises(ConfigurationError, match=message):
        read_json("f.json", text)
    assert read_json("f.json", '{"a": [1]}') == {"a": [1]}


@pytest.mark.parametrize(
    "value, kinds, message",
    [
        (True, (int,), "f is True, but has to be an integer"),
        (1.0, (int,), "f is 1.0, but has to be an integer"),
        (float("nan"), (float,), "f is nan, but has to be a finite number"),
        (float("inf"), (float,), "f is inf, but has to be a finite number"),
        ("1", (float, type(None)), "f is '1', but has to be a finite number or null"),
        ("\x1b[2J", (str,), r"f is '\x1b[2J', but has to be a string"),
        ("\ud800", (str,), r"f is '\ud800', but has to be a string"),
        ([], (dict, str), "f is [], but has to be an object or a string"),
    ],
    ids=str,
)
def test_a_value_of_another_kind_is_refused(value, kinds, message):
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        check_kind("f", value, *kinds)


def test_values_of_the_kind_come_back():
    for value, kind in ((5, int), (5, float), (0.5, float), ("a b", str), ([1], list), ({}, dict)):
        assert check_kind("f", value, kind) is value
    assert entry("f", {"a": None}, "a", int, type(None)) is None
    assert entry("f", {}, "a", int, type(None)) is None
    assert check_range("f", 5, 0, 5) == 5


def test_a_missing_key_and_a_value_out_of_range_are_named():
    with pytest.raises(ConfigurationError, match='f has no "a"'):
        entry("f", {}, "a", int)
    with pytest.raises(ConfigurationError, match="f is 6, but has to be within 0 and 5"):
        check_range("f", 6, 0, 5)


def test_whatever_is_raised_is_explained_but_for_what_explains_itself():
    for error, message in (
        (ZeroDivisionError("zero"), "f: ZeroDivisionError: zero"),
        (ConfigurationError("wrong"), "f: wrong"),
    ):
        with pytest.raises(ConfigurationError) as raised, explained("f"):
            raise error
        assert raised.value.message == message
    for own in (FileNotFoundError("missing"), MemoryError()):
        with pytest.raises(type(own)), explained("f"):
            raise own
