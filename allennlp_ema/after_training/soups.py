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
        Of trained models, see `unpacked_archives.opened`. The weights of one at a time are in
        memory, beside the sums of all.

    # Returns

    state : `Dict[str, Tensor]`
        The state of the first with the means of all floating-point and complex tensors.

    # Raises

    `ConfigurationError` : naming the model that cannot be read, or whose names or shapes are not
        those of another.
    """
    return mean_of_states(paths[::-1], best_weights)


class Step(NamedTuple):
    """
    # Parameters

    path : `Path`
        Of the model that is tried.
    value : `float`
        The metric of the soup with it, the more the better.
    is_kept : `bool`
        Whether it stays in the soup.
    """

    path: Path
    value: float
    is_kept: bool


class GreedySoup:
    """
    A soup that tries one model after the other, the best first, and keeps each with which it is no
    worse (algorithm 1). The weights of one at a time are in memory, beside the sums of those that
    are kept and the model that is measured.

    # Parameters

    paths : `Sequence[Path]`
        Of trained models, see `unpacked_archives.opened`.
    model : `TrainedModel`
        Whose weights are exchanged.
    measure : `Callable[[], float]`
        Its metric at present, the more the better.

    # Raises

    `ConfigurationError` : naming the model that cannot be read, or whose names or shapes are not
        those of the first.
    """

    def __init__(
        self, paths: Sequence[Path], model: TrainedModel, measure: Callable[[], float]
    ) -> None:
        self._paths = paths
        self._model = model
        self._measure = measure
        self._sums = WeightSums()
        self.kept: List[Path] = []
        # Not after some of them were measured.
        constants = InfiniteConstants()
        first_forms: Dict[str, str] = {}
        for path in progress(paths, desc="comparing models"):
            forms = _checked_forms(path, constants)
            first_forms = first_forms or forms
            check_forms(path, forms, paths[0], first_forms)

    def measured_alone(self) -> Iterator[Tuple[Path, float]]:
        """Measures each model by itself."""
        for path in self._paths:
            self._model.put(best_weights(path))
            yield path, self._measure()

    def steps(self, alone: Sequence[Tuple[Path, float]]) -> Iterator[Step]:
        """
        Makes the soup.

        # Parameters

        alone : `Sequence[Tuple[Path, float]]`
            What `measured_alone` gave.

        # Returns

        steps : `Iterator[Step]`
            As they are taken.
        """
        (first, best), *others = sorted(alone, key=lambda each: (math.isnan(each[1]), -each[1]))
        if math.isnan(best):
            raise ConfigurationError(
                "the metric of all models is NaN, but has to be a number for one to be the best"
            )
        state = best_weights(first)
        # What is no weight, integer buffers, stays as it is in the best.
        self._model.put(state)
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
        """The state of the best model with the means of those that were kept."""
        state = best_weights(self.kept[0])
        self._sums.write_mean(state)
        return state


def _checked_forms(path: Path, constants: InfiniteConstants) -> Dict[str, str]:
    weights = best_weights(path)
    constants.check_state(path, weights)
    return forms_of(weights)
