import pytest
from allennlp.common.checks import ConfigurationError
from allennlp.training.metric_tracker import MetricTracker
from hypothesis import given
from hypothesis import strategies as st

from allennlp_ema.common.metrics import SignedMetric

METRICS = {"accuracy": 0.75, "loss": 2.5, "f1": [0.5, 0.25]}


@given(
    st.lists(
        st.sampled_from(["+accuracy", "-accuracy", "+loss", "-loss"]), min_size=1, unique=True
    ),
    st.floats(-10, 10),
    st.floats(-10, 10),
)
def test_a_list_is_by_the_trainers_own_rule(names, accuracy, loss):
    metrics = {"accuracy": accuracy, "loss": loss}
    expected = MetricTracker(names).combined_score(metrics)
    assert SignedMetric(names).value(metrics, "the model") == pytest.approx(expected)


def test_words_have_the_sign_of_the_metric_itself():
    for names, words in (
        ("+accuracy", "accuracy 0.75"),
        ("-loss", "loss 2.5"),
        (["+accuracy", "-loss"], "+accuracy -loss -1.75"),
    ):
        metric = SignedMetric(names)
        assert metric.in_words(metric.value(METRICS, "the model")) == words


@pytest.mark.parametrize("names", ["accuracy", "+", "", [], ["+accuracy", "loss"], [3], None, 3])
def test_names_without_a_sign_are_refused(names):
    with pytest.raises(
        ConfigurationError, match='^"metric" is .* after a -: "\\+accuracy", "-loss"$'
    ):
        SignedMetric(names, '"metric"')
    with pytest.raises(
        ConfigurationError, match="^--metric is .* a -: --metric \\+accuracy, --metric=-"
    ):
        SignedMetric(names)


def test_a_metric_that_is_missing_or_no_number_is_refused():
    with pytest.raises(ConfigurationError, match=r"is '\+f2', but x\.json has accuracy, f1, loss"):
        SignedMetric("+f2").value(METRICS, "x.json")
    with pytest.raises(ConfigurationError, match=r'f1, loss; did you mean "accuracy"\?$'):
        SignedMetric("+acuracy").value(METRICS, "x.json")
    with pytest.raises(ConfigurationError, match=r"is '\+f1', which is \[0.5, 0.25\], but"):
        SignedMetric("+f1").value(METRICS, "x.json")
