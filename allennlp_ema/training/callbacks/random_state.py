"""
The callback that makes a recovered training equal to an uninterrupted one.
"""

import contextlib
import functools
import logging
import random
from collections import deque
from typing import Any, Callable, Dict, Iterable, Iterator, List, Optional

import numpy
import torch
import torch.distributed as dist
from allennlp.common import Tqdm
from allennlp.common.util import is_distributed
from allennlp.data import DataLoader, TensorDict
from allennlp.modules.encoder_base import _EncoderBase
from allennlp.training import GradientDescentTrainer
from allennlp.training.callbacks import TrainerCallback

from allennlp_ema.common.from_params import ExplainedFromParams
from allennlp_ema.training.callbacks.partial_epoch import PartialEpoch
from allennlp_ema.training.replaced import replaced

logger = logging.getLogger(__name__)

GeneratorStates = Dict[str, Any]


@TrainerCallback.register("random_state")
class RandomStateCallback(ExplainedFromParams, TrainerCallback):
    """
    Makes a recovered training equal to an uninterrupted one. A training with dropout, shuffling and
    bucketing may be killed at any time and continued with `--recover`. Its weights, averages and
    metrics are then equal, bit for bit, to those of an uninterrupted training that has this
    callback too.

    The checkpoint holds the random generators of every worker: those of Python, numpy, torch and
    all CUDA devices of torch. The generators continue from these states at the first batch that is
    not skipped. Each data loader draws from its own generators, which are seeded for each epoch, so
    the order of its data does not depend on anything else that draws random numbers. A validation
    loader may carry its order over from one epoch to the next. So after `--recover` the callback
    iterates over the validation data once for each earlier validation.

    The checkpoint also holds what AllenNLP leaves out: the scale of `GradScaler`, the states that
    stateful encoders carry from batch to batch and, in the middle of an epoch, the sums of the
    losses and the counts of the model's metrics.

    The promise has limits:

    * Several worker processes of a loader (`num_workers`) return batches in the order in which they
      are ready, and spawned processes seed themselves.
    * CUDA kernels that add up in any order are not deterministic (see
      `torch.use_deterministic_algorithms`).
    * The callback does not save a `torch.Generator` that a model made itself.
    * A reader may return other data the second time.
    * The number of workers and the version of torch have to stay the same.

    A training with the callback also differs from one without it, because its data is shuffled in
    another order.

    ```python
    >>> from allennlp.training.callbacks import TrainerCallback
    >>> params = Params({"type": "random_state"})
    >>> type(TrainerCallback.from_params(params, serialization_dir="run")).__name__
    'RandomStateCallback'

    ```

    Registered as a `TrainerCallback` with name "random_state".

    # Parameters

    serialization_dir : `str`
        The trainer gives it.
    """

    def __init__(self, serialization_dir: str) -> None:
        super().__init__(serialization_dir)
        self._seed = random.getrandbits(64)
        # The epoch of each iteration over the validation data so far.
        self._validated: List[int] = []
        self._replayed: Optional[int] = None
        self._partial_epoch = PartialEpoch()
        self._loaded: Dict[str, Any] = {}
        # The state that this worker continues from when it has caught up with the checkpoint.
        self._ahead: Optional[Dict[str, Any]] = None
        self._states_of_workers: List[Any] = []
        self._until_the_end = contextlib.ExitStack()

    def on_start(
        self, trainer: GradientDescentTrainer, is_primary: bool = True, **kwargs: Any
    ) -> None:
        super().on_start(trainer, is_primary, **kwargs)
        if _position_of_checkpoint(trainer) > (0, 0):
            self._ahead = self._loaded_state_of_this_worker()
        if self._ahead is not None:
            self._seed = self._ahead["seed"]
            if trainer._scaler is not None and self._ahead["scaler"]:
                trainer._scaler.load_state_dict(self._ahead["scaler"])

        enter = self._until_the_end.enter_context
        enter(_drawing_apart(trainer.data_loader, self._training_seed, self._before_batch))
        if trainer._validation_data_loader is not None:
            enter(_drawing_apart(trainer._validation_data_loader, self._validation_seed))
        train_epoch = functools.partial(self._train_epoch_in_full, trainer._train_epoch)
        enter(replaced(trainer, "_train_epoch", train_epoch))
        if is_distributed() and trainer._checkpointer is not None:
            save = functools.partial(
                self._save_for_all_workers, trainer._checkpointer.save_checkpoint
            )
            enter(replaced(trainer._checkpointer, "save_checkpoint", save))

    def on_batch(
        self,
        trainer: GradientDescentTrainer,
        batch_inputs: List[TensorDict],
        batch_outputs: List[Dict[str, Any]],
        batch_metrics: Dict[str, Any],
        epoch: int,
        batch_number: int,
        is_training: bool,
        is_primary: bool = True,
        batch_grad_norm: Optional[float] = None,
        **kwargs: Any,
    ) -> None:
        if is_training:
            self._partial_epoch.add(batch_metrics, batch_outputs, len(batch_inputs))

    def on_end(
        self,
        trainer: GradientDescentTrainer,
        metrics: Optional[Dict[str, Any]] = None,
        epoch: Optional[int] = None,
        is_primary: bool = True,
        **kwargs: Any,
    ) -> None:
        self._until_the_end.close()

    def state_dict(self) -> Dict[str, Any]:
        if self.trainer is None:
            return {}
        return {"workers": self._states_of_workers or [self._state_of_this_worker()]}

    def load_state_dict(self, state_dict: Dict[str, Any]) -> None:
        self._loaded = state_dict

    def _state_of_this_worker(self) -> Dict[str, Any]:
        trainer = self.trainer
        assert trainer is not None
        is_within_epoch = trainer._batches_in_epoch_completed > 0
        return {
            "seed": self._seed,
            "validated": list(self._validated),
            "generators": _all_generators(),
            "epoch": self._partial_epoch.state_dict(trainer.model) if is_within_epoch else None,
            "scaler": {} if trainer._scaler is None else trainer._scaler.state_dict(),
            "encoders": {
                name: tuple(state.detach().cpu() for state in encoder._states)
                for name, encoder in trainer.model.named_modules()
                if isinstance(encoder, _EncoderBase) and encoder._states is not None
            },
        }

    def _loaded_state_of_this_worker(self) -> Optional[Dict[str, Any]]:
        workers = self._loaded.get("workers", [])
        num_workers = dist.get_world_size() if is_distributed() else 1
        if len(workers) == num_workers:
            return workers[dist.get_rank() if is_distributed() else 0]
        logger.warning(
            "The run cannot go on as if it had not been interrupted: the checkpoint has %s random "
            'state under "random_state", and there are %d workers',
            f"{len(workers)} workers'" if workers else "no",
            num_workers,
        )
        return None

    def _save_for_all_workers(self, save_checkpoint: Callable[..., None], trainer: Any) -> None:
        # Every worker calls this method, but only the primary asks its callbacks for their states.
        states: List[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(states, self._state_of_this_worker())
        self._states_of_workers = states
        try:
            save_checkpoint(trainer)
        finally:
            self._states_of_workers = []

    def _train_epoch_in_full(self, train_epoch: Callable[..., Any], epoch: int) -> Dict[str, Any]:
        assert self.trainer is not None
        self._partial_epoch = PartialEpoch()
        metrics = train_epoch(epoch)
        self._partial_epoch.complete(metrics, self.trainer)
        return metrics

    def _before_batch(self) -> None:
        trainer = self.trainer
        assert trainer is not None
        position = trainer._epochs_completed, trainer._batches_in_epoch_completed
        if self._ahead is None or position < _position_of_checkpoint(trainer):
            return
        state, self._ahead = self._ahead, None
        for self._replayed in Tqdm.tqdm(
            state["validated"],
            desc="going through the validation data again",
            disable=not (trainer._primary and state["validated"]),
        ):
            # Compared with `None`, because the truth value of a loader is its length, which it may
            # not have.
            if trainer._validation_data_loader is not None:
                deque(trainer._validation_data_loader, maxlen=0)
        self._replayed = None
        if state["epoch"] is not None:
            self._partial_epoch.load_state_dict(state["epoch"], trainer)
        # The state of a former version has no encoders.
        for name, states in state.get("encoders", {}).items():
            encoder: Any = trainer.model.get_submodule(name)
            device = next(encoder.parameters()).device
            encoder._states = tuple(each.to(device) for each in states)
        _set_all_generators(state["generators"])

    def _training_seed(self) -> str:
        assert self.trainer is not None
        return f"{self._seed} training {self.trainer._epochs_completed}"

    def _validation_seed(self) -> str:
        assert self.trainer is not None
        epoch = self.trainer._epochs_completed if self._replayed is None else self._replayed
        self._validated.append(epoch)
        return f"{self._seed} validation {epoch}"


def _position_of_checkpoint(trainer: GradientDescentTrainer) -> Any:
    return (
        trainer._start_after_epochs_completed,
        trainer._start_after_batches_in_epoch_completed,
    )


@contextlib.contextmanager
def _drawing_apart(
    loader: DataLoader, seed: Callable[[], str], before_batch: Callable[[], None] = lambda: None
) -> Iterator[None]:
    """
    A context in which `loader` draws from its own random generators. `seed` returns a new seed for
    each iteration over the loader.
    """
    plain: Any = type(loader)

    class DrawingApart(plain):
        def __iter__(self) -> Iterator[TensorDict]:
            return _drawn_apart(super().__iter__, seed(), before_batch)

        def __len__(self) -> int:
            # Some batch samplers shuffle to find out their length, and so draw random numbers.
            with _drawing_from(_generators()):
                return super().__len__()

        # Copies and worker processes get the plain class, because only the trainer's loader may
        # call `seed` and a local class cannot be pickled.
        def __reduce_ex__(self, protocol: Any) -> Any:
            return object.__new__, (plain,), self.__dict__

    if not hasattr(plain, "__len__"):
        del DrawingApart.__len__
    loader.__class__ = DrawingApart
    try:
        yield
    finally:
        loader.__class__ = plain


def _drawn_apart(
    start: Callable[[], Iterable[TensorDict]], seed: str, before_batch: Callable[[], None]
) -> Iterator[TensorDict]:
    generators = _seeded_generators(seed)
    batches: Optional[Iterator[TensorDict]] = None
    while True:
        before_batch()
        with _drawing_from(generators):
            batches = iter(start()) if batches is None else batches
            try:
                batch = next(batches)
            except StopIteration:
                return
        yield batch


@contextlib.contextmanager
def _drawing_from(generators: GeneratorStates) -> Iterator[None]:
    """A context that draws random numbers from `generators`, and updates their states."""
    outside = _generators()
    _set_generators(generators)
    try:
        yield
    finally:
        generators.update(_generators())
        _set_generators(outside)


def _seeded_generators(seed: str) -> GeneratorStates:
    generator = random.Random(seed)
    return {
        "numpy": numpy.random.RandomState(generator.getrandbits(32)).get_state(),
        "torch": torch.Generator().manual_seed(generator.getrandbits(63)).get_state(),
        "python": generator.getstate(),
    }


def _generators() -> GeneratorStates:
    return {
        "python": random.getstate(),
        "numpy": numpy.random.get_state(),
        "torch": torch.get_rng_state(),
    }


def _set_generators(states: GeneratorStates) -> None:
    random.setstate(states["python"])
    numpy.random.set_state(states["numpy"])
    torch.set_rng_state(states["torch"])


def _all_generators() -> GeneratorStates:
    """The states of all generators, in types that every `torch.load` accepts."""
    states = _generators()
    name, keys, *rest = states["numpy"]
    is_on_gpu = torch.cuda.is_available() and torch.cuda.is_initialized()
    return {
        **states,
        "numpy": (name, keys.tolist(), *rest),
        "cuda": torch.cuda.get_rng_state_all() if is_on_gpu else [],
    }


def _set_all_generators(states: GeneratorStates) -> None:
    _set_generators(states)
    for device, state in zip(range(torch.cuda.device_count()), states["cuda"]):
        torch.cuda.set_rng_state(state, device)
