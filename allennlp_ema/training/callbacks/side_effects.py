"""
Forward passes in the middle of a training, without side effects on it.
"""

import contextlib
import copy
import random
from functools import partial
from typing import Any, Dict, Iterator

import numpy
import torch
from allennlp.common.util import cycle_iterator_function
from allennlp.data import BatchSampler, DataLoader
from allennlp.data.data_loaders import MultiTaskDataLoader
from allennlp.data.data_loaders.multitask_data_loader import maybe_shuffle_instances
from allennlp.data.data_loaders.multitask_epoch_sampler import MultiTaskEpochSampler
from allennlp.models import Model
from allennlp.training.metrics import Metric


@contextlib.contextmanager
def without_side_effects(model: Model) -> Iterator[None]:
    """
    A context for forward passes that leave no trace in `model` and in the process, and compute no
    gradients. Afterwards every module has the attributes that it had before: the mode, a batch
    norm's momentum, the state of a stateful encoder, and metrics with all their counts. Every
    buffer has its values from before, and every random generator continues from its state from
    before. Parameters are not restored, nor is anything else that a module changes in place, for
    example a list.
    """
    modules = list(model.modules())
    attributes = [dict(vars(module)) for module in modules]
    buffers = [
        (module, key, buffer, buffer.detach().clone())
        for module in modules
        for key, buffer in module._buffers.items()
        if buffer is not None
    ]
    # Metrics may refer to parts of the model, which must not be copied with them.
    shared: Dict[int, Any] = {id(each): each for each in (*modules, *model.parameters())}
    shared[id(model.vocab)] = model.vocab
    devices = sorted({p.device.index for p in model.parameters() if p.is_cuda})
    python_state, numpy_state = random.getstate(), numpy.random.get_state()
    try:
        with torch.random.fork_rng(devices), torch.no_grad():
            for module in modules:
                for key, value in list(vars(module).items()):
                    if _has_metrics(value):
                        setattr(module, key, copy.deepcopy(value, shared))
            yield
    finally:
        random.setstate(python_state)
        numpy.random.set_state(numpy_state)
        for module, before in zip(modules, attributes):
            vars(module).clear()
            vars(module).update(before)
        with torch.no_grad():
            for module, key, buffer, value in buffers:
                # Only changed buffers are written, because an expanded buffer cannot be written to.
                if not torch.equal(buffer, value):
                    buffer.copy_(value)
                # A module may also have replaced the buffer by another tensor.
                module._buffers[key] = buffer


def _has_metrics(value: Any) -> bool:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return any(_has_metrics(each) for each in value)
    return isinstance(value, Metric)


def same_data(data_loader: DataLoader) -> DataLoader:
    """
    # Returns

    data_loader : `DataLoader`
        A loader of the same data, which may be iterated at any time, even in the middle of an
        epoch. The next batches of `data_loader` itself do not change.
    """
    other = copy.copy(data_loader)
    for key, value in vars(data_loader).items():
        # Loaders shuffle their lists in place, and samplers may keep counts.
        if isinstance(value, (list, BatchSampler, MultiTaskEpochSampler)):
            setattr(other, key, copy.copy(value))
    if hasattr(other, "_batch_generator"):
        # With `batches_per_epoch` this generator continues where the last epoch stopped.
        other._batch_generator = None
    if isinstance(other, MultiTaskDataLoader):
        other._iterators = {
            key: cycle_iterator_function(partial(maybe_shuffle_instances, each, other._shuffle))
            for key, each in other._loaders.items()
        }
    return other
