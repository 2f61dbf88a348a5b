"""
Forward passes between two steps of a training that does not notice them.
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
    A context for forward passes whose traces are removed from `model` and from the process: no
    gradients; afterwards every module has the attributes (the mode, a batch norm's momentum, the
    state of a stateful encoder, metrics with all that they have counted) and the values in its
    buffers that it had before, and every random generator goes on from where it was. Parameters
    are not looked after, nor what else a module changes in place, a list say.
    """
    modules = list(model.modules())
    attributes = [dict(vars(module)) for module in modules]
    buffers = [
        (module, key, buffer, buffer.detach().clone())
        for module in modules
        for key, buffer in module._buffers.items()
        if buffer is not None
    ]
    # Whatever they refer to of the model is not theirs to be copied.
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
                # One that was expanded cannot be written to, which then nobody did.
                if not torch.equal(buffer, value):
                    buffer.copy_(value)
                # A module may also have put another tensor in its place.
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
        One of the same data, which may be iterated at any time, in the middle of an epoch too:
        what `data_loader` itself gives next does not change.
    """
    other = copy.copy(data_loader)
    for key, value in vars(data_loader).items():
        # Loaders shuffle their lists in place; samplers may keep count.
        if isinstance(value, (list, BatchSampler, MultiTaskEpochSampler)):
            setattr(other, key, copy.copy(value))
    if hasattr(other, "_batch_generator"):
        # From which an epoch of `batches_per_epoch` goes on where the last one stopped.
        other._batch_generator = None
    if isinstance(other, MultiTaskDataLoader):
        other._iterators = {
            key: cycle_iterator_function(partial(maybe_shuffle_instances, each, other._shuffle))
            for key, each in other._loaders.items()
        }
    return other
