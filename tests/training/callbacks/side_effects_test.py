import contextlib
import itertools
import random
from typing import Any, Callable, Dict, Iterator, List, Optional, Type

import numpy
import pytest
import torch
from allennlp.data import DataLoader, DatasetReader, Instance, Vocabulary
from allennlp.data.data_loaders import MultiProcessDataLoader, MultiTaskDataLoader, SimpleDataLoader
from allennlp.data.data_loaders.multitask_epoch_sampler import WeightedSampler
from allennlp.data.data_loaders.multitask_scheduler import RoundRobinScheduler
from allennlp.data.dataset_readers import MultiTaskDatasetReader
from allennlp.data.fields import LabelField, ListField
from allennlp.data.samplers import BucketBatchSampler
from allennlp.models import Model
from allennlp.training.metrics import Average

from allennlp_ema.training.callbacks.side_effects import same_data, without_side_effects

NUMBERS = range(13)


class NumbersReader(DatasetReader):
    def _read(self, file_path: str) -> Iterator[Instance]:
        first = int(file_path)
        for number in NUMBERS:
            label = LabelField(first + number, skip_indexing=True)
            yield Instance({"number": label, "length": ListField([label] * (1 + number % 5))})


class CountingSampler(BucketBatchSampler):
    """Begins each time with another batch."""

    num_times = 0

    def get_batch_indices(self, instances: Any) -> List[List[int]]:
        batches = list(super().get_batch_indices(instances))
        self.num_times += 1
        return batches[self.num_times % 5 :] + batches[: self.num_times % 5]


def simple(**arguments: Any) -> DataLoader:
    instances = list(NumbersReader().read("0"))
    return SimpleDataLoader(instances, 3, vocab=Vocabulary(), **arguments)


def multiprocess(**arguments: Any) -> DataLoader:
    if "batch_sampler" not in arguments:
        arguments["batch_size"] = 3
    loader = MultiProcessDataLoader(NumbersReader(), "0", quiet=True, **arguments)
    loader.index_with(Vocabulary())
    return loader


def multitask(**arguments: Any) -> DataLoader:
    loader = MultiTaskDataLoader(
        MultiTaskDatasetReader({"a": NumbersReader(), "b": NumbersReader()}),
        {"a": "0", "b": "100"},
        RoundRobinScheduler(batch_size=3),
        **arguments,
    )
    loader.index_with(Vocabulary())
    return loader


LOADERS: Dict[str, Callable[[], DataLoader]] = {
    "simple": lambda: simple(shuffle=True),
    "simple in parts": lambda: simple(shuffle=True, batches_per_epoch=2),
    "in memory": lambda: multiprocess(shuffle=True),
    "in parts": lambda: multiprocess(shuffle=True, batches_per_epoch=2),
    "lazy": lambda: multiprocess(shuffle=True, max_instances_in_memory=6),
    "bucket": lambda: multiprocess(
        batch_sampler=BucketBatchSampler(batch_size=3, sorting_keys=["length"])
    ),
    "counting bucket": lambda: multiprocess(
        batch_sampler=CountingSampler(batch_size=3, sorting_keys=["length"])
    ),
    "multitask": lambda: multitask(),
    "multitask in parts": lambda: multitask(
        instances_per_epoch=8, sampler=WeightedSampler({"a": 1.0, "b": 3.0})
    ),
}


def numbers_in(batches: Any) -> List[List[int]]:
    return [batch["number"].tolist() for batch in batches]


class CountingModel(Model):
    """Leaves traces wherever a forward pass can."""

    def __init__(self) -> None:
        super().__init__(Vocabulary())
        self.linear = torch.nn.Linear(2, 2)
        self.norm = torch.nn.BatchNorm1d(2)
        self.metric = Average()
        self.metrics_by_name = {"all": [self.metric], "own": Average()}
        self.num_calls = 0
        self.register_buffer("total", torch.zeros(2))
        self.register_buffer("last", torch.zeros(2))

    def forward(self, values: torch.Tensor) -> Dict[str, torch.Tensor]:
        hidden = torch.nn.functional.dropout(self.norm(self.linear(values)), training=self.training)
        self.total += hidden.detach().sum(0)
        self.last = hidden.detach().sum(0)
        self.num_calls += 1
        setattr(self, f"input_{self.num_calls}", values)
        self.metrics_by_name["all"][0](random.random() + numpy.random.rand())
        self.metrics_by_name["own"](1.0)
        return {"hidden": hidden}

    def get_metrics(self, reset: bool = False) -> Dict[str, float]:
        return {"metric": self.metric.get_metric(reset)}


def state_of_everything(model: CountingModel) -> List[Any]:
    return [
        [(name, module.training) for name, module in model.named_modules()],
        model.norm.momentum,
        model.num_calls,
        sorted(vars(model)),
        dict(vars(model.metric)),
        dict(vars(model.metrics_by_name["own"])),
        [(name, id(buffer), buffer.tolist()) for name, buffer in model.named_buffers()],
        random.getstate(),
        repr(numpy.random.get_state()),
        torch.get_rng_state().tolist(),
    ]


class TestUndisturbedTraining:
    @pytest.mark.parametrize("error", [None, KeyError])
    def test_forward_passes_leave_no_traces(self, error: Optional[Type[Exception]]) -> None:
        model = CountingModel()
        model(torch.randn(4, 2))
        model.norm.eval()
        metric = model.metric
        before = state_of_everything(model)
        with pytest.raises(error) if error else contextlib.nullcontext():
            with without_side_effects(model):
                model.train()
                model.norm.momentum = 0.5
                assert not model(torch.randn(4, 2))["hidden"].requires_grad
                during = state_of_everything(model)
                if error:
                    raise error
        assert state_of_everything(model) == before
        assert all(one != other for one, other in zip(before, during))
        assert model.metric is metric

    def test_a_buffer_that_was_expanded(self) -> None:
        model = CountingModel()
        model.register_buffer("scale", torch.ones(1).expand(2))
        with without_side_effects(model):
            model(torch.randn(4, 2))
        assert model.scale.tolist() == [1.0, 1.0] and model.total.tolist() == [0.0, 0.0]

    def test_metrics_go_on_from_what_they_have_counted_and_stay_shared(self) -> None:
        model = CountingModel()
        model.metrics_by_name["own"](3.0)
        with without_side_effects(model):
            model(torch.randn(4, 2))
            assert model.metrics_by_name["own"].get_metric() == 2.0
            assert model.metrics_by_name["all"][0] is model.metric
        assert model.metrics_by_name["own"].get_metric() == 3.0

    def test_metrics_do_not_take_the_model_along(self) -> None:
        model = CountingModel()
        model.metric.model = model
        model.metric.vocab = model.vocab
        with without_side_effects(model):
            assert model.metric.model is model
            assert model.metric.vocab is model.vocab


class TestSameData:
    @pytest.mark.parametrize("kind", LOADERS)
    @pytest.mark.parametrize("batches_before", [0, 1, 2])
    def test_the_loader_itself_goes_on_as_it_would(self, kind: str, batches_before: int) -> None:
        epochs = []
        for is_visited in (False, True):
            random.seed(3)
            loader = LOADERS[kind]()
            epochs.append([numbers_in(loader)])
            batches = iter(loader)
            epochs[-1].append(numbers_in(itertools.islice(batches, batches_before)))
            if is_visited:
                with without_side_effects(CountingModel()):
                    numbers_in(same_data(loader))
                    numbers_in(itertools.islice(same_data(loader), 2))
            epochs[-1] += [numbers_in(batches), numbers_in(loader), numbers_in(loader)]
        assert epochs[1] == epochs[0]
        assert epochs[0][0] != epochs[0][-1]

    @pytest.mark.parametrize("kind", [kind for kind in LOADERS if "parts" not in kind])
    def test_it_is_the_same_data(self, kind: str) -> None:
        loader = LOADERS[kind]()
        assert sorted(sum(numbers_in(same_data(loader)), [])) == sorted(sum(numbers_in(loader), []))

    @pytest.mark.parametrize("kind", [kind for kind in LOADERS if "parts" in kind])
    def test_it_has_as_many_batches_in_an_epoch(self, kind: str) -> None:
        loader = LOADERS[kind]()
        numbers_in(loader)
        assert len(numbers_in(same_data(loader))) == len(numbers_in(loader))
