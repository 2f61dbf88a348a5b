"""
A trained model whose weights can be replaced, and its evaluation by AllenNLP.
"""

import contextlib
import functools
import json
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Set

import torch
from allennlp.common.checks import ConfigurationError
from allennlp.common.util import prepare_environment
from allennlp.data import DataLoader, DatasetReader
from allennlp.evaluation import Evaluator
from allennlp.models.archival import Archive, load_archive
from allennlp.training import GradientDescentTrainer
from torch import Tensor

from allennlp_ema.after_training.finished_training import FinishedTraining
from allennlp_ema.common.documents import explained
from allennlp_ema.training.callbacks.recalibrated_statistics import RecalibratedStatistics
from allennlp_ema.training.callbacks.side_effects import same_data


class TrainedModel:
    """
    # Parameters

    training : `FinishedTraining`
    recalibration_data : `str`, optional (default = `None`)
        The data from which `recalibrated` computes the running statistics: a path, or a JSON object
        for a reader that needs several. `None` means that it does nothing.
    cuda_device : `int`, optional (default = `-1`)
        -1 is the CPU.

    # Raises

    `ConfigurationError` : if there is no such GPU, or if the weights of the training cannot be read
        or do not fit its model.
    """

    def __init__(
        self,
        training: FinishedTraining,
        recalibration_data: Optional[str] = None,
        cuda_device: int = -1,
    ) -> None:
        self._training = training
        self._cuda_device = cuda_device
        num_devices = torch.cuda.device_count()
        if cuda_device >= num_devices:
            raise ConfigurationError(
                f"--cuda-device is {cuda_device}, but has to be -1 (the CPU) or the number of a "
                f"GPU, counted from 0, of which there are {num_devices}"
            )
        self._archive = _loaded(training, cuda_device)
        self._recalibration_loader = (
            None
            if recalibration_data is None
            else self._data_loader(
                "data_loader", self._archive.dataset_reader, _json_of(recalibration_data)
            )
        )

    @property
    def weights(self) -> Dict[str, Tensor]:
        """The model's state. Its tensors may be changed in place."""
        return self._archive.model.state_dict()

    def load_weights(self, weights: Dict[str, Tensor]) -> None:
        """
        Copies `weights` into the model. As in AllenNLP, names that a module has in its
        `authorized_missing_keys` may be missing. They keep their values.

        # Raises

        `ConfigurationError` : naming what is missing, unexpected or of another shape.
        """
        try:
            missing, unexpected = self._archive.model.load_state_dict(weights, strict=False)
        except RuntimeError as error:
            raise ConfigurationError(f"the model does not load the weights: {error}") from error
        missing = [name for name in missing if name in self._archived_names]
        if missing or unexpected:
            raise ConfigurationError(
                "the model does not load the weights: missing are "
                f"{', '.join(missing) or 'none'}, unexpected are {', '.join(unexpected) or 'none'}"
            )

    @functools.cached_property
    def _archived_names(self) -> Set[str]:
        # AllenNLP has loaded these weights, so what is not among them is authorized to be missing.
        return set(self._training.best_weights())

    @contextlib.contextmanager
    def recalibrated(self) -> Iterator[None]:
        """
        A context in which the running statistics of batch norms are recomputed for the present
        weights, if recalibration data are given. It uses as many batches as the callback
        `"moving_average_buffers"` of the training.
        """
        if self._recalibration_loader is None:
            yield
            return
        self._seed()
        model = self._archive.model
        trainer = GradientDescentTrainer(
            model,
            torch.optim.SGD(model.parameters(), lr=0.0),
            self._recalibration_loader,
            cuda_device=self._cuda_device,
            run_confidence_checks=False,
        )
        num_batches = self._training.callback("moving_average_buffers").get("num_batches", 100)
        statistics = RecalibratedStatistics(trainer, num_batches)
        former = statistics.present()
        statistics.put(statistics.recalibrate())
        try:
            yield
        finally:
            statistics.put(former)

    def evaluate(self, data: Dict[str, DataLoader]) -> Dict[str, Any]:
        """The metrics of the model, computed as by `allennlp evaluate`."""
        self._seed()
        params = self._archive.config.duplicate().pop("evaluation", {})
        params["cuda_device"] = self._cuda_device
        with explained(self._training.config_file):
            evaluator = Evaluator.from_params(params)
        return {
            f"{prefix}{name}": value
            for prefix, loader in data.items()
            for name, value in evaluator(self._archive.model, same_data(loader)).items()
        }

    def validation_data(self, data: str) -> Dict[str, DataLoader]:
        """
        # Parameters

        data : `str`
            In the form of `allennlp evaluate`: a path, several paths separated by commas, or a JSON
            object for a reader that needs it.

        # Returns

        data_loaders : `Dict[str, DataLoader]`
            A loader of validation data for each path, by the prefix of the names of its metrics. A
            single path has an empty prefix.

        # Raises

        `ConfigurationError` : naming two paths that have the same prefix, or data that cannot be
            read.
        """
        config = self._archive.config
        has_own = config.get("validation_data_loader") is not None
        key = "validation_data_loader" if has_own else "data_loader"
        paths = data_paths(data)
        loaders: Dict[str, DataLoader] = {}
        found: Dict[str, Any] = {}
        for number, path in enumerate(paths):
            name = str(number) if isinstance(path, dict) else Path(path).stem
            prefix = f"{name}_" if len(paths) > 1 else ""
            if prefix in found:
                raise ConfigurationError(
                    f"the data {found[prefix]} and {path} would both have metrics "
                    f'"{prefix}*": give files of different names'
                )
            found[prefix] = path
            loaders[prefix] = self._data_loader(key, self._archive.validation_dataset_reader, path)
        return loaders

    def _seed(self) -> None:
        # All compared weights should get the same batches.
        with explained(self._training.config_file):
            prepare_environment(self._archive.config.duplicate())

    def _data_loader(self, key: str, reader: DatasetReader, path: Any) -> DataLoader:
        with explained(f'{self._training.config_file}: "{key}": {path}'):
            params = self._archive.config.duplicate().pop(key)
            data_loader = DataLoader.from_params(params, reader=reader, data_path=path)
            data_loader.index_with(self._archive.model.vocab)
        return data_loader


def data_paths(data: str) -> List[Any]:
    """Splits data in the form of `allennlp evaluate` into paths: strings or JSON objects."""
    try:
        paths = json.loads(f"[{data}]")
    except ValueError:
        paths = []
    # A file name may look like a JSON number.
    is_json = paths and all(isinstance(path, (dict, str)) for path in paths)
    return paths if is_json else data.split(",")


def _json_of(data: str) -> Any:
    paths = data_paths(data)
    return paths[0] if len(paths) == 1 else data


def _loaded(training: FinishedTraining, cuda_device: int) -> Archive:
    training.check_has_model()
    path = training.best_weights_file
    try:
        return load_archive(
            str(training.serialization_dir), cuda_device=cuda_device, weights_file=str(path)
        )
    except Exception as error:
        # If the file itself is broken, this raises the clearer error.
        training.best_weights()
        if isinstance(error, RuntimeError):
            raise ConfigurationError(f"the model does not load {path}: {error}") from error
        with explained(training.config_file):
            raise
