"""
What AllenNLP 2.10.1 needs on a current torch. Each repair says why, and is made only where it is
needed.
"""

import functools
import inspect
from typing import Any

import numpy
import torch
from allennlp.training.learning_rate_schedulers import ReduceOnPlateauLearningRateScheduler


def repair_allennlp() -> None:
    """Makes every repair that the installed torch calls for."""
    _let_checkpoints_hold_numpy_numbers()
    _leave_verbose_out_of_reduce_on_plateau()


def _let_checkpoints_hold_numpy_numbers() -> None:
    """
    From torch 2.6 on, `torch.load` refuses whatever is not on its list, and numpy's scalars are
    not. AllenNLP's `cosine` scheduler computes the learning rate with numpy, so with it no
    checkpoint could be read and every `--recover` failed.
    """
    if not hasattr(torch.serialization, "add_safe_globals"):
        return
    scalar: Any = numpy.float64(0).__reduce__()[0]
    numbers = [numpy.dtype(name) for name in ("float32", "float64", "int32", "int64", "bool")]
    torch.serialization.add_safe_globals([scalar, numpy.dtype, *(type(n) for n in numbers)])
    if scalar.__module__.startswith("numpy._core"):
        # Checkpoints written under numpy 1 name the function by its old place.
        torch.serialization.add_safe_globals([(scalar, "numpy.core.multiarray.scalar")])


def _leave_verbose_out_of_reduce_on_plateau() -> None:
    """
    AllenNLP's `reduce_on_plateau` scheduler always passes `verbose`, which torch 2.7 removed, so
    with it no training started.
    """
    torch_scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau
    if "verbose" in inspect.signature(torch_scheduler.__init__).parameters:
        return
    scheduler: Any = ReduceOnPlateauLearningRateScheduler

    # `wraps` keeps the signature, which `FromParams` reads.
    @functools.wraps(scheduler.__init__)
    def __init__(self: Any, optimizer: torch.optim.Optimizer, **kwargs: Any) -> None:
        kwargs.pop("verbose", None)
        super(scheduler, self).__init__(torch_scheduler(optimizer, **kwargs))

    scheduler.__init__ = __init__
