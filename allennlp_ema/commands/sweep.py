"""
`allennlp average sweep`: evaluates averages of many lengths, made from the snapshots of one
training.
"""

import argparse
import json
import logging
from pathlib import Path
from typing import Any, Callable, Dict, Optional

import numpy
from allennlp.common.checks import ConfigurationError

from allennlp_ema.after_training.archives import check_can_be_written, write_archive
from allennlp_ema.after_training.contents import (
    digest_of,
    digest_of_data,
    digest_of_file,
    digest_of_state,
)
from allennlp_ema.after_training.finished_training import FinishedTraining
from allennlp_ema.after_training.finite_values import InfiniteConstants
from allennlp_ema.after_training.metrics import chosen_metric
from allennlp_ema.after_training.snapshot_synthesis import SnapshotSynthesis
from allennlp_ema.after_training.trained_model import TrainedModel
from allennlp_ema.averages.specifications import LENGTH_KEYS
from allennlp_ema.commands.recalibration import (
    add_recalibration_arguments,
    warn_of_statistics,
)
from allennlp_ema.commands.sweep_candidates import Candidate, candidates, requested_num_updates
from allennlp_ema.commands.sweep_results import SweepResults
from allennlp_ema.commands.sweep_values import RAW, SYNTHESIZED, TRACKED, Measurement, SweepValues
from allennlp_ema.common.metrics import SignedMetric
from allennlp_ema.weighting.profiles import Combination

logger = logging.getLogger(__name__)


def add_parser(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    description = """Makes averages of many lengths, after one or several numbers of updates, from
                     the snapshots of one training, and evaluates each as `allennlp evaluate` does.
                     Prints a table and writes sweep.csv, sweep.png and, with the best average,
                     sweep_best.tar.gz. Parameters and buffers that are not averaged come from the
                     newest checkpoint if it is of the same update, else from best.th. Weights that
                     sweep.csv has already for the same data are not evaluated again, so a stopped
                     sweep continues, and a refined sweep evaluates only the new averages."""
    parser = commands.add_parser(
        "sweep", description=description, help="Find the best averaging length after training."
    )
    parser.add_argument(
        "serialization_dir", type=Path, help="the directory of the training, with its snapshots"
    )
    parser.add_argument(
        "data",
        metavar="DATA",
        help="the data to evaluate on, as for `allennlp evaluate`: a file, several files separated "
        "by commas, or JSON for a reader that needs it",
    )
    parser.add_argument(
        "--metric",
        action="append",
        help="the metric to compare by: --metric +accuracy, or --metric=-loss if lower is better; "
        'if given several times, their sum (else the "validation_metric" of the training)',
    )
    _add_arguments_of_averages(parser)
    parser.add_argument(
        "--max-residual",
        type=float,
        default=0.05,
        help="an average whose profile has a larger relative error cannot be the best",
    )
    parser.add_argument(
        "--output-dir", type=Path, help="where to write (else the directory of the training)"
    )
    add_recalibration_arguments(parser)
    parser.add_argument("--force", action="store_true", help="overwrite what is there")
    return parser


def _add_arguments_of_averages(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--type", default="power_function", metavar="TYPE", help="the averages' type"
    )
    parser.add_argument(
        "--key",
        help="the key of this type that sets the averaging length (else "
        + ", ".join(f"{key} of {name}" for name, key in LENGTH_KEYS.items())
        + "; half_life of exponential is a decay schedule)",
    )
    parser.add_argument(
        "--from", type=float, dest="start", help="its first value (sigma_rel: 0.02)"
    )
    parser.add_argument("--to", type=float, dest="end", help="its last value (sigma_rel: 0.25)")
    parser.add_argument("--points", type=int, default=12, help="the number of values")
    parser.add_argument(
        "--num-updates",
        nargs="+",
        default=[],
        metavar="N",
        help="evaluate the averages after each of these numbers of updates: numbers, "
        "'{\"epochs\": 2}', '{\"fraction\": 0.5}' of the training, or all, for the numbers of all "
        "snapshots (else that of the latest snapshot)",
    )


def run(arguments: argparse.Namespace) -> None:
    training = FinishedTraining(arguments.serialization_dir)
    directory = arguments.output_dir or arguments.serialization_dir
    values_file, picture, archive = (
        directory / name for name in ("sweep.csv", "sweep.png", "sweep_best.tar.gz")
    )
    for path in (picture, archive):
        check_can_be_written(path, arguments.force)
    check_can_be_written(values_file, force=True)
    key = arguments.key or LENGTH_KEYS.get(arguments.type, "")
    values = SweepValues(values_file, key, arguments.data, arguments.force)
    metric = chosen_metric(arguments.metric, training)
    snapshots = training.snapshots()
    nums_updates = requested_num_updates(arguments.num_updates, training, snapshots)
    syntheses = [SnapshotSynthesis(snapshots, number) for number in nums_updates]
    wanted = candidates(arguments, key, syntheses)
    # If this fails, it has to fail before the evaluations and not after them.
    directory.mkdir(parents=True, exist_ok=True)

    model = TrainedModel(training, arguments.recalibrate, arguments.cuda_device)
    if arguments.recalibrate is None:
        warn_of_statistics(model.weights)
    sweep = _Sweep(training, model, arguments, metric, values)
    sweep.measure_raw()
    synthesis = None
    for number, candidate in enumerate(wanted, 1):
        if candidate.synthesis is not synthesis:
            synthesis = candidate.synthesis
            sweep.measure_tracked(synthesis)
        words = f"{json.dumps(candidate.specification)} after {synthesis.num_updates:,} updates"
        print(f"{number} of {len(wanted)}: {words}", flush=True)
        sweep.measure(candidate)
    results = SweepResults(key, metric.names, arguments.max_residual, values.measurements)

    results.print_table()
    results.draw(picture)
    best = wanted[results.index_of_best]
    sweep.put(best.synthesis, best.combination)
    with model.recalibrated():
        provenance = best.synthesis.provenance(best.specification, best.combination)
        write_archive(training, model.weights, archive, provenance)
    print(f"{values_file}, {picture} and, with the best average, {archive}")


class _Sweep:
    """Evaluates a model with different weights, unless the file has the metrics already."""

    def __init__(
        self,
        training: FinishedTraining,
        model: TrainedModel,
        arguments: argparse.Namespace,
        metric: SignedMetric,
        values: SweepValues,
    ) -> None:
        self._training = training
        self._model = model
        self._data = model.validation_data(arguments.data)
        self._metric = metric
        self._values = values
        # The digests of everything but the weights that an evaluation depends on.
        self._setting_digests = [
            digest_of_file(training.config_file),
            digest_of_data(arguments.data),
            arguments.recalibrate and digest_of_data(arguments.recalibrate),
        ]
        self._digests: Dict[Path, str] = {}
        self._synthesis: Optional[SnapshotSynthesis] = None

    def measure_raw(self) -> None:
        try:
            raw = self._training.raw_weights()
            InfiniteConstants().check_state(raw.path, raw.weights)
        except ConfigurationError as error:
            logger.warning("There are no raw weights to compare with: %s", error)
            return
        after = "" if raw.num_updates is None else f" after update {raw.num_updates:,}"

        def evaluate() -> Dict[str, Any]:
            # Raw weights are not recalibrated, because their statistics fit them already.
            self._model.load_weights(raw.weights)
            return self._model.evaluate(self._data)

        self._measure(
            Measurement(RAW, f"raw weights{after}", {}, raw.num_updates),
            [RAW, digest_of_state(raw.weights)],
            evaluate,
        )

    def measure_tracked(self, synthesis: SnapshotSynthesis) -> None:
        """Evaluates the snapshots that were taken after as many updates as the averages."""
        for index, snapshot in enumerate(synthesis.snapshots):
            if snapshot.num_updates == synthesis.num_updates:
                alone = numpy.eye(len(synthesis.snapshots))[index]
                window = snapshot.effective_window
                self._measure_combination(
                    Measurement(
                        TRACKED,
                        f'"{snapshot.name}" as taken in training',
                        {},
                        snapshot.num_updates,
                        effective_window=window,
                    ),
                    synthesis,
                    Combination(alone, 0.0, window or 0.0),
                )

    def measure(self, candidate: Candidate) -> None:
        combination = candidate.combination
        self._measure_combination(
            Measurement(
                SYNTHESIZED,
                candidate.specification["type"],
                {},
                candidate.synthesis.num_updates,
                candidate.value,
                combination.effective_window,
                combination.residual,
                combination.noise_amplification,
            ),
            candidate.synthesis,
            combination,
        )

    def put(self, synthesis: SnapshotSynthesis, combination: Combination) -> None:
        """Puts the combined averages into the model."""
        self._prepare_weights(synthesis)
        synthesis.copy_into(self._weights, combination)
        self._model.load_weights(self._weights)

    def _measure_combination(
        self, measurement: Measurement, synthesis: SnapshotSynthesis, combination: Combination
    ) -> None:
        def evaluate() -> Dict[str, Any]:
            self.put(synthesis, combination)
            with self._model.recalibrated():
                return self._model.evaluate(self._data)

        self._prepare_weights(synthesis)
        content = [
            self._digest_of_others,
            *[
                [self._digest(snapshot.path), coefficient.hex()]
                for snapshot, coefficient in zip(
                    synthesis.snapshots, combination.coefficients.tolist()
                )
                if coefficient
            ],
        ]
        self._measure(measurement, content, evaluate)

    def _measure(
        self, measurement: Measurement, weights: Any, evaluate: Callable[[], Dict[str, Any]]
    ) -> None:
        evaluation = digest_of([self._setting_digests, weights])
        metrics = self._values.metrics_of(evaluation)
        if not all(name[1:] in metrics for name in self._metric.names):
            metrics = evaluate()
            # A missing metric has to be noticed after the first evaluation, not at the end.
            self._metric.value(metrics, "the model")
        self._values.add(measurement._replace(metrics=metrics, evaluation=evaluation))

    def _prepare_weights(self, synthesis: SnapshotSynthesis) -> None:
        """Reads the model's weights for the number of updates of `synthesis`."""
        if synthesis is self._synthesis:
            return
        self._synthesis = synthesis
        names = synthesis.names
        self._weights = self._training.weights_around(synthesis.num_updates, names)
        self._digest_of_others = digest_of_state(
            {name: value for name, value in self._weights.items() if name not in names}
        )

    def _digest(self, path: Path) -> str:
        if path not in self._digests:
            self._digests[path] = digest_of_file(path)
        return self._digests[path]
