"""
Soups: the mean of the models of several trainings (Wortsman et al. 2022, "Model soups").
"""

import math
from pathlib import Path
from typing import Callable, Dict, Iterator, List, NamedTuple, Sequence, Tuple

from allennlp.common.checks import ConfigurationError
from torch import Tensor

from allennlp_ema.after_training.checkpoint_mean import check_forms, forms_of, mean_of_states
from allennlp_ema.after_training.finite_values import InfiniteConstants
from allennlp_ema.after_training.trained_model import TrainedModel
from allennlp_ema.after_training.unpacked_archives import best_weights
from allennlp_ema.after_training.weight_sums import WeightSums
from allennlp_ema.common.terminal import progress


def uniform_soup(paths: Sequence[Path]) -> Dict[str, Tensor]:
    """
    # Parameters

    paths : `Sequence[Path]`
        The paths of trained models, see `unpacked_archives.opened`. The weights of only one model
        are in memory at a time, and the sums of all.

    # Returns

    state : `Dict[str, Tensor]`
        The means of all floating-point and complex tensors. All other entries are those of the
        first model.

    # Raises

    `ConfigurationError` : naming a model that cannot be read, or that has other names or shapes
        than another.
    """
    return mean_of_states(paths[::-1], best_weights)


class Step(NamedTuple):
    """
    # Parameters

    path : `Path`
        The path of the model that is tried.
    value : `float`
        The metric of the soup with this model. Higher is better.
    is_kept : `bool`
        Whether the model stays in the soup.
    """

    path: Path
    value: float
    is_kept: bool


class GreedySoup:
    """
    A soup that tries one model after the other, the best first. It keeps a model if the soup does
    not become worse with it (algorithm 1). Memory holds the weights of one model, the sums of the
    models that were kept, and the model that is measured.

    # Parameters

    paths : `Sequence[Path]`
        The paths of trained models, see `unpacked_archives.opened`.
    model : `TrainedModel`
        The model whose weights are replaced.
    measure : `Callable[[], float]`
        Measures the present metric of `model`. Higher is better.

    # Raises

    `ConfigurationError` : naming a model that cannot be read, or that has other names or shapes
        than the first.
    """

    def __init__(
        self, paths: Sequence[Path], model: TrainedModel, measure: Callable[[], float]
    ) -> None:
        self._paths = paths
        self._model = model
        self._measure = measure
        self._sums = WeightSums()
        self.kept: List[Path] = []
        # Models that do not fit are refused here, before the first is measured.
        constants = InfiniteConstants()
        first_forms: Dict[str, str] = {}
        for path in progress(paths, desc="comparing models"):
            forms = _checked_forms(path, constants)
            first_forms = first_forms or forms
            check_forms(path, forms, paths[0], first_forms)

    def measured_alone(self) -> Iterator[Tuple[Path, float]]:
        """Measures each model by itself."""
        for path in self._paths:
            self._model.load_weights(best_weights(path))
            yield path, self._measure()

    def steps(self, alone: Sequence[Tuple[Path, float]]) -> Iterator[Step]:
        """
        Makes the soup, one step at a time.

        # Parameters

        alone : `Sequence[Tuple[Path, float]]`
            The results of `measured_alone`.

        # Returns

        steps : `Iterator[Step]`
            Each step, after it was taken.
        """
        (first, best), *others = sorted(alone, key=lambda each: (math.isnan(each[1]), -each[1]))
        if math.isnan(best):
            raise ConfigurationError(
                "the metric of all models is NaN, but has to be a number for one to be the best"
            )
        state = best_weights(first)
        # The soup keeps the best model's values that are not averaged, such as integer buffers.
        self._model.load_weights(state)
        self._keep(first, state)
        yield Step(first, best, True)
        for path, _ in others:
            state.clear()
            state = best_weights(path)
            self._sums.write_mean(self._model.weights, state)
            value = self._measure()
            is_kept = value >= best
            if is_kept:
                best = value
                self._keep(path, state)
            yield Step(path, value, is_kept)

    def _keep(self, path: Path, state: Dict[str, Tensor]) -> None:
        self.kept.append(path)
        self._sums.add(state)

    def weights(self) -> Dict[str, Tensor]:
        """The state of the best model, with the means of the kept models."""
        state = best_weights(self.kept[0])
        self._sums.write_mean(state)
        return state


def _checked_forms(path: Path, constants: InfiniteConstants) -> Dict[str, str]:
    weights = best_weights(path)
    constants.check_state(path, weights)
    return forms_of(weights)
