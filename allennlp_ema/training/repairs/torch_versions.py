"""
What AllenNLP 2.10.1 needs to run on a current torch.
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
    From torch 2.6 on, `torch.load` refuses whatever is not on its list, and numpy's scalars are
    not. AllenNLP's `cosine` scheduler computes the learning rate with numpy, so with it no
    checkpoint could be read and every `--recover` failed.
    """
    scalar: Any = numpy.float64(0).__reduce__()[0]
    numbers = [numpy.dtype(name) for name in ("float32", "float64", "int32", "int64", "bool")]
    torch.serialization.add_safe_globals(
        [
            # Numpy 1 and numpy 2 name the function differently in what they write.
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
    AllenNLP's `reduce_on_plateau` scheduler always passes `verbose`, which torch 2.7 removed, so
    with it no training started.
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
    AllenNLP has no tiny value of bfloat16 against divisions by zero, so with it most of its losses
    ended in a `TypeError`. The range is that of float32, and so is the value.
    """
    stock = nn_util.tiny_value_of_dtype

    @functools.wraps(stock)
    def tiny_value_of_dtype(dtype: torch.dtype) -> float:
        return stock(torch.float if dtype == torch.bfloat16 else dtype)

    modules: Tuple[Any, ...] = (nn_util, bimpm_matching)
    for module in modules:
        module.tiny_value_of_dtype = tiny_value_of_dtype
