"""
Repairs without which AllenNLP 2.10.1 fails on current versions of torch.
"""

import functools
import inspect
from typing import Any, Tuple

import numpy
import torch
from allennlp.modules import bimpm_matching
from allennlp.nn import util as nn_util
from allennlp.training.learning_rate_schedulers import ReduceOnPlateauLearningRateScheduler
from torch.torch_version import TorchVersion


def torch_load_is_strict() -> bool:
    return TorchVersion(torch.__version__) >= "2.6"


def allow_numpy_numbers_in_checkpoints() -> None:
    """
    Since torch 2.6, `torch.load` refuses all types that are not on its list, numpy's scalars among
    them. AllenNLP's `cosine` scheduler computes the learning rate with numpy. So no checkpoint with
    it could be read, and every `--recover` failed.
    """
    scalar: Any = numpy.float64(0).__reduce__()[0]
    numbers = [numpy.dtype(name) for name in ("float32", "float64", "int32", "int64", "bool")]
    torch.serialization.add_safe_globals(
        [
            # Numpy 1 and numpy 2 write different names for this function.
            (scalar, "numpy.core.multiarray.scalar"),
            (scalar, "numpy._core.multiarray.scalar"),
            numpy.dtype,
            *(type(number) for number in numbers),
        ]
    )


def reduce_on_plateau_takes_no_verbose() -> bool:
    torch_scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau
    return "verbose" not in inspect.signature(torch_scheduler.__init__).parameters


def leave_verbose_out_of_reduce_on_plateau() -> None:
    """
    AllenNLP's `reduce_on_plateau` scheduler always passes `verbose`, which torch 2.7 removed. So no
    training with it started.
    """
    torch_scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau
    scheduler: Any = ReduceOnPlateauLearningRateScheduler
    signature = inspect.signature(scheduler.__init__)

    # `wraps` keeps the signature, which `FromParams` reads.
    @functools.wraps(scheduler.__init__)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        arguments = signature.bind(self, *args, **kwargs).arguments
        without_verbose = {k: v for k, v in arguments.items() if k not in ("self", "verbose")}
        super(scheduler, self).__init__(torch_scheduler(**without_verbose))

    scheduler.__init__ = __init__


def allow_losses_in_bfloat16() -> None:
    """
    Most of AllenNLP's losses failed with a `TypeError`, because there was no tiny value of bfloat16
    against divisions by zero. That of float32 fits, because both dtypes have the same range.
    """
    stock = nn_util.tiny_value_of_dtype

    @functools.wraps(stock)
    def tiny_value_of_dtype(dtype: torch.dtype) -> float:
        return stock(torch.float if dtype == torch.bfloat16 else dtype)

    modules: Tuple[Any, ...] = (nn_util, bimpm_matching)
    for module in modules:
        module.tiny_value_of_dtype = tiny_value_of_dtype
