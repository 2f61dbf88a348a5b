import pytest

from allennlp_ema.common.nearest_names import did_you_mean, nearest_name

KEYS = ["decay", "start_step", "update_every", "include", None, 3]


@pytest.mark.parametrize(
    "name, nearest",
    [
        ("deacy", "decay"),
        ("start_steps", "start_step"),
        ("Update_Every", "update_every"),
        ("updateevery", "update_every"),
        ("decay", "decay"),
        ("gamma", None),
        ("", None),
        (3, None),
        (None, None),
    ],
)
def test_is_what_is_written_most_alike(name, nearest):
    assert nearest_name(name, KEYS) == nearest


def test_one_letter_of_three_is_not_alike():
    assert nearest_name("gpu", ["cpu"]) is None


def test_ends_a_message():
    assert did_you_mean("deacy", KEYS) == '; did you mean "decay"?'
    assert did_you_mean("gamma", KEYS) == ""
