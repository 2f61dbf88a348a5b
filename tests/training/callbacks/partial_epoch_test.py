import io
from collections import Counter
from types import SimpleNamespace
from typing import Any, Callable, Dict, List, Set

import pytest
import torch
from allennlp.data import Vocabulary
from allennlp.training import metrics
from allennlp.training.metrics import Metric

from allennlp_ema.training.callbacks.partial_epoch import PartialEpoch

VOCABULARY = Vocabulary(non_padded_namespaces=["labels"])
VOCABULARY.add_tokens_to_namespace(["O", "B-A", "I-A"], "labels")


class Seen(Metric):
    """What the metrics of AllenNLP do not keep, models' own may."""

    def __init__(self) -> None:
        self.words: Set[int] = set()
        self.counts: Dict[int, int] = Counter()
        self.latest: List[Any] = [None, (0, torch.zeros(1))]
        self.function: Callable[..., Any] = lambda value: value

    def __call__(self, values: torch.Tensor) -> None:
        self.words |= set(values.tolist())
        self.counts.update(values.tolist())
        self.latest[1] = (len(self.words), self.latest[1][1] + values.sum())

    def get_metric(self, reset: bool = False) -> Any:
        return sorted(self.words), sorted(self.counts.items()), self.function(self.latest)


def draw(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=generator)


def draw_labels(generator: torch.Generator, number: int, *shape: int) -> torch.Tensor:
    return torch.randint(number, shape, generator=generator)


# A metric, and from a generator what it is called with.
METRICS: Dict[str, Any] = {
    "accuracy": (
        metrics.CategoricalAccuracy,
        lambda g: (draw(g, 4, 3), draw_labels(g, 3, 4)),
    ),
    "f1": (lambda: metrics.F1Measure(1), lambda g: (draw(g, 4, 3), draw_labels(g, 3, 4))),
    "span_f1": (
        lambda: metrics.SpanBasedF1Measure(VOCABULARY, "labels"),
        lambda g: (draw(g, 2, 4, 3), draw_labels(g, 3, 2, 4)),
    ),
    "average": (metrics.Average, lambda g: (draw(g, 1).item(),)),
    "auc": (metrics.Auc, lambda g: (draw(g, 4), draw_labels(g, 2, 4))),
    "bleu": (metrics.BLEU, lambda g: (draw_labels(g, 5, 2, 6), draw_labels(g, 5, 2, 6))),
    "pearson": (metrics.PearsonCorrelation, lambda g: (draw(g, 4), draw(g, 4))),
    "rouge": (metrics.ROUGE, lambda g: (draw_labels(g, 5, 2, 6), draw_labels(g, 5, 2, 6))),
    "seen": (Seen, lambda g: (draw_labels(g, 9, 4),)),
}


def model_of(metric: Metric) -> Any:
    model: Any = torch.nn.Module()
    model.inner = torch.nn.Linear(1, 1)
    model.inner.metrics = {"by_name": [metric], "the_same": metric}
    return model


def continued(state: Dict[str, Any], model: Any, device: str = "cpu") -> PartialEpoch:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    epoch = PartialEpoch()
    trainer: Any = SimpleNamespace(model=model, cuda_device=torch.device(device))
    epoch.load_state_dict(torch.load(file), trainer)
    return epoch


@pytest.mark.parametrize("name", list(METRICS))
def test_metrics_go_on_with_what_they_have_counted(name: str) -> None:
    new_metric, arguments = METRICS[name]
    straight, recovered = new_metric(), new_metric()
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        straight(*arguments(generator))
    continued(PartialEpoch().state_dict(model_of(straight)), model_of(recovered))
    assert str(recovered.get_metric()) == str(straight.get_metric())
    for _ in range(3):
        together = arguments(generator)
        straight(*together)
        recovered(*together)
    assert str(recovered.get_metric(True)) == str(straight.get_metric(True))


def test_what_was_on_a_gpu_comes_back_there() -> None:
    metric = Seen()
    state = PartialEpoch().state_dict(model_of(metric))
    (attributes,) = state["metrics"]
    assert attributes["latest"][1] is False and "function" not in attributes
    attributes["latest"] = (attributes["latest"][0], True)
    continued(state, model_of(metric), device="meta")
    assert metric.latest[1][1].device.type == "meta"


def test_losses_are_summed_as_the_trainer_does() -> None:
    epoch, total, penalties = PartialEpoch(), 0.0, 0.0
    generator = torch.Generator().manual_seed(0)
    for number in range(20):
        if number == 10:
            epoch = continued(epoch.state_dict(model_of(Seen())), model_of(Seen()))
        loss, penalty = draw(generator, 1).item(), draw(generator, 2)
        total += loss
        for each in penalty:
            penalties += (each / 2).item()
        epoch.add({"batch_loss": loss}, [{"reg_loss": each} for each in penalty], 2)
    state = epoch.state_dict(model_of(Seen()))
    assert (state["loss"], state["reg_loss"]) == (total, penalties)
