"""
`allennlp average sweep`: averages of many lengths from the snapshots of one training, each
evaluated.
"""

import argparse
import json
import logging
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import numpy
from allennlp.common.checks import ConfigurationError
from allennlp.data import DataLoader

from allennlp_ema.after_training.archives import check_can_be_written, write_archive
from allennlp_ema.after_training.finished_training import FinishedTraining
from allennlp_ema.after_training.finite_values import InfiniteConstants
from allennlp_ema.after_training.metrics import SignedMetric, chosen_metric
from allennlp_ema.after_training.snapshot_synthesis import SnapshotSynthesis
from allennlp_ema.after_training.trained_model import TrainedModel
from allennlp_ema.averages.specifications import (
    LENGTH_KEYS,
    Specification,
    build_average,
    spaced_values,
    with_value,
)
from allennlp_ema.commands.recalibration import (
    add_recalibration_arguments,
    warn_of_statistics,
)
from allennlp_ema.commands.sweep_results import RAW, SYNTHESIZED, TRACKED, Measurement, SweepResults
from allennlp_ema.common.terminal import progress
from allennlp_ema.weighting.profiles import Combination

logger = logging.getLogger(__name__)

# A value of the key, the average with it, and how it is made.
Candidate = Tuple[Any, Specification, Combination]

# From where to where a power function goes: a little beyond what snapshots of 0.05 and 0.10 make.
_SIGMA_REL = (0.02, 0.25)


def add_parser(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    description = """Makes averages of many lengths from the snapshots of one training and evaluates
                     each as `allennlp evaluate` does. Prints a table and writes sweep.csv,
                     sweep.png and, with the best of them, sweep_best.tar.gz. What is not averaged,
                     buffers among it, is as it was after the same update, if the newest checkpoint
                     is of it, else that of best.th."""
    parser = commands.add_parser(
        "sweep", description=description, help="Find the best averaging length after training."
    )
    parser.add_argument(
        "serialization_dir", type=Path, help="the directory of the training, with its snapshots"
    )
    parser.add_argument(
        "data",
        metavar="DATA",
        help="what to evaluate on, as `allennlp evaluate` takes it: a file, several with commas "
        "between them, or JSON for a reader that needs it",
    )
    parser.add_argument(
        "--metric",
        action="append",
        help="what the best has most of, as in --metric +accuracy, or least, as in --metric=-loss; "
        'given several times, their sum (else the "validation_metric" of the training)',
    )
    parser.add_argument("--type", default="power_function", metavar="TYPE", help="of the averages")
    parser.add_argument(
        "--key",
        help="the key of this type that goes from one length to the next (else "
        + ", ".join(f"{key} of {name}" for name, key in LENGTH_KEYS.items())
        + "; half_life of exponential is a decay schedule)",
    )
    parser.add_argument(
        "--from", type=float, dest="start", help="its first value (sigma_rel: 0.02)"
    )
    parser.add_argument("--to", type=float, dest="end", help="its last value (sigma_rel: 0.25)")
    parser.add_argument("--points", type=int, default=12, help="how many values")
    parser.add_argument(
        "--num-updates",
        type=int,
        metavar="N",
        help="the averages after so many updates (else after those of the latest snapshot)",
    )
    parser.add_argument(
        "--max-residual",
        type=float,
        default=0.05,
        help="an average whose profile comes out with a larger relative error cannot be the best",
    )
    parser.add_argument(
        "--output-dir", type=Path, help="where to write (else into the directory of the training)"
    )
    add_recalibration_arguments(parser)
    parser.add_argument("--force", action="store_true", help="overwrite what is there")
    return parser


def run(arguments: argparse.Namespace) -> None:
    training = FinishedTraining(arguments.serialization_dir)
    directory = arguments.output_dir or arguments.serialization_dir
    values_file, picture, archive = (
        directory / name for name in ("sweep.csv", "sweep.png", "sweep_best.tar.gz")
    )
    for path in (values_file, picture, archive):
        check_can_be_written(path, arguments.force)
    metric = chosen_metric(arguments.metric, training)
    synthesis = SnapshotSynthesis(training.snapshots(), arguments.num_updates)
    key = arguments.key or LENGTH_KEYS.get(arguments.type, "")
    candidates = _candidates(arguments, key, synthesis)
    # Not after all evaluations, which would be for nothing if it failed.
    directory.mkdir(parents=True, exist_ok=True)

    model = TrainedModel(training, arguments.recalibrate, arguments.cuda_device)
    if arguments.recalibrate is None:
        warn_of_statistics(model.weights)
    data = model.validation_data(arguments.data)
    sweep = _Sweep(training, synthesis, model, data, metric)
    measurements = [*sweep.raw(), *sweep.tracked()]
    for number, (value, specification, combination) in enumerate(candidates, 1):
        print(f"{number} of {len(candidates)}: {json.dumps(specification)}", flush=True)
        measurements.append(sweep.synthesized(value, specification, combination))
    results = SweepResults(key, metric.names, arguments.max_residual, measurements)

    results.print_table()
    results.write_values(values_file)
    results.draw(picture)
    _, specification, combination = candidates[
        [value for value, _, _ in candidates].index(results.best.value)
    ]
    sweep.put(combination)
    with model.recalibrated():
        write_archive(
            training, model.weights, archive, synthesis.provenance(specification, combination)
        )
    print(f"{values_file}, {picture} and, with the best average, {archive}")


def _candidates(
    arguments: argparse.Namespace, key: str, synthesis: SnapshotSynthesis
) -> List[Candidate]:
    start, end = arguments.start, arguments.end
    if (arguments.type, key) == ("power_function", "sigma_rel"):
        start, end = (
            given if given is not None else default
            for given, default in zip((start, end), _SIGMA_REL)
        )
    if not key or start is None or end is None:
        raise ConfigurationError(
            f'for averages of type "{arguments.type}"'
            + (f' and their "{key}", --from and --to' if key else ", --key, --from and --to")
            + " have to be given"
        )
    if arguments.points < 1:
        raise ConfigurationError(f"--points is {arguments.points}, but has to be at least 1")
    values = spaced_values(key, start, end, arguments.points, synthesis.num_updates)
    candidates = []
    for value in progress(values, desc="solving for profiles"):
        specification = with_value({"type": arguments.type}, key, value)
        candidates.append(
            (value, specification, synthesis.solve(build_average(specification).weighting))
        )
    smallest = min(combination.residual for _, _, combination in candidates)
    if smallest > arguments.max_residual:
        raise ConfigurationError(
            f"from these snapshots none of these averages comes out with a residual within "
            f"--max-residual {arguments.max_residual:g}; the smallest is {smallest:.3f}"
        )
    return candidates


class _Sweep:
    """Measures one model with one set of weights after the other."""

    def __init__(
        self,
        training: FinishedTraining,
        synthesis: SnapshotSynthesis,
        model: TrainedModel,
        data: Dict[str, DataLoader],
        metric: SignedMetric,
    ) -> None:
        self._training = training
        self._synthesis = synthesis
        self._model = model
        self._data = data
        self._metric = metric
        self._weights = training.weights_around(synthesis.num_updates, synthesis.names)

    def raw(self) -> Iterator[Measurement]:
        try:
            raw = self._training.raw_weights()
            InfiniteConstants().check_state(raw.path, raw.weights)
        except ConfigurationError as error:
            logger.warning("There are no raw weights to compare with: %s", error)
            return
        after = "" if raw.num_updates is None else f" after update {raw.num_updates:,}"
        # With the statistics that were gathered for them.
        self._model.put(raw.weights)
        yield Measurement(RAW, f"raw weights{after}", self._metrics())

    def tracked(self) -> Iterator[Measurement]:
        """The snapshots that are as old as the averages of the sweep."""
        for index, snapshot in enumerate(self._synthesis.snapshots):
            if snapshot.num_updates == self._synthesis.num_updates:
                alone = numpy.eye(len(self._synthesis.snapshots))[index]
                self.put(Combination(alone, 0.0, snapshot.effective_window or 0.0))
                with self._model.recalibrated():
                    metrics = self._metrics()
                yield Measurement(
                    TRACKED,
                    f'"{snapshot.name}" as taken in training',
                    metrics,
                    effective_window=snapshot.effective_window,
                )

    def synthesized(
        self, value: Any, specification: Specification, combination: Combination
    ) -> Measurement:
        self.put(combination)
        with self._model.recalibrated():
            metrics = self._metrics()
        return Measurement(
            SYNTHESIZED,
            specification["type"],
            metrics,
            value,
            combination.effective_window,
            combination.residual,
            combination.noise_amplification,
        )

    def put(self, combination: Combination) -> None:
        self._synthesis.copy_into(self._weights, combination)
        self._model.put(self._weights)

    def _metrics(self) -> Dict[str, Any]:
        metrics = self._model.evaluate(self._data)
        # Whether they have what is wanted is known after the first.
        self._metric.value(metrics, "the model")
        return metrics
