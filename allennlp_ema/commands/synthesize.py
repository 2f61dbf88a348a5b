"""
`allennlp average synthesize`: makes an average of any type and length from snapshots.
"""

import argparse
import json
from pathlib import Path

from allennlp.common.checks import ConfigurationError

from allennlp_ema.after_training.archives import check_can_be_written
from allennlp_ema.after_training.finished_training import FinishedTraining
from allennlp_ema.after_training.snapshot_synthesis import SnapshotSynthesis
from allennlp_ema.averages.moving_average import MovingAverage
from allennlp_ema.averages.specifications import (
    Specification,
    build_average,
    nearest_within,
    with_value,
)
from allennlp_ema.commands.recalibration import (
    add_recalibration_arguments,
    archive_recalibrated,
)
from allennlp_ema.common.documents import explained
from allennlp_ema.common.terminal import print_table
from allennlp_ema.weighting.profiles import Combination


def add_parser(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    description = """Makes an average that was not taken in training, from snapshots that the
                     callback "moving_average_snapshots" took of other averages, as an archive for
                     `allennlp evaluate` and `allennlp predict`. Parameters and buffers that are not
                     averaged come from the newest checkpoint if it is of the same update, else from
                     best.th."""
    parser = commands.add_parser(
        "synthesize", description=description, help="Make any average from snapshots."
    )
    parser.add_argument(
        "serialization_dir", type=Path, help="the directory of the training, with its snapshots"
    )
    parser.add_argument(
        "--average",
        type=_specification,
        required=True,
        metavar="JSON",
        help='the average, as under "moving_average" in a configuration: '
        '\'{"type": "exponential", "decay": 0.999}\'',
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, help="the archive to write (OUT.tar.gz)"
    )
    parser.add_argument(
        "--num-updates",
        type=int,
        metavar="N",
        help="the average after this number of updates (else that of the latest snapshot)",
    )
    parser.add_argument(
        "--max-residual",
        type=float,
        default=0.05,
        help="refuse an average whose profile has a larger relative error (inf: refuse none)",
    )
    add_recalibration_arguments(parser)
    parser.add_argument("--force", action="store_true", help="overwrite the archive")
    return parser


def _specification(text: str) -> Specification:
    try:
        found = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is not a JSON object")
    for key in ("include", "exclude"):
        if key in found:
            raise argparse.ArgumentTypeError(
                f'"{key}" is {found[key]!r}, but what is averaged is what the snapshots hold'
            )
    specification = {"type": MovingAverage.default_implementation, **found}
    if not isinstance(specification["type"], str):
        raise argparse.ArgumentTypeError(
            f'"type" is {specification["type"]!r}, but has to be the name of an average'
        )
    return specification


def run(arguments: argparse.Namespace) -> None:
    training = FinishedTraining(arguments.serialization_dir)
    check_can_be_written(arguments.output, arguments.force)
    arguments.average = _with_resolved_durations(arguments.average, training)
    wanted = build_average(arguments.average)
    synthesis = SnapshotSynthesis(training.snapshots(), arguments.num_updates)
    training.check_has_model()
    combination = synthesis.solve(wanted.weighting)
    num_used = int(combination.coefficients.astype(bool).sum())
    print_table(
        ["average", "updates", "effective window", "residual", "noise amplification", "snapshots"],
        [
            [
                json.dumps(arguments.average),
                f"{synthesis.num_updates:,}",
                f"{combination.effective_window:,.1f} updates",
                f"{combination.residual:.4f}",
                f"{combination.noise_amplification:.2f}",
                f"{num_used} of {len(synthesis.snapshots)}",
            ]
        ],
    )
    if combination.residual > arguments.max_residual:
        raise ConfigurationError(_refusal(arguments, synthesis, combination))
    provenance = synthesis.provenance(arguments.average, combination)
    weights = training.weights_around(synthesis.num_updates, synthesis.names)
    synthesis.copy_into(weights, combination)
    archive_recalibrated(arguments, training, weights, arguments.output, provenance)
    print(f"{arguments.output}: {json.dumps(arguments.average)}")


def _with_resolved_durations(
    specification: Specification, training: FinishedTraining
) -> Specification:
    average = build_average(specification)
    if average.has_unresolved_durations:
        with explained("--average"):
            average.resolve(*training.length())
    for key, value in average.durations.resolved.items():
        specification = with_value(specification, key, value)
    return specification


def _refusal(
    arguments: argparse.Namespace, synthesis: SnapshotSynthesis, combination: Combination
) -> str:
    refusal = (
        f"from these snapshots {json.dumps(arguments.average)} comes out with a residual of "
        f"{combination.residual:.3f}, above --max-residual {arguments.max_residual:g}"
    )
    nearest = nearest_within(
        arguments.average,
        synthesis.num_updates,
        lambda average: synthesis.solve(average.weighting).residual,
        arguments.max_residual,
    )
    if nearest is not None:
        reached = synthesis.solve(build_average(nearest).weighting)
        refusal += (
            f"; what can be reached is {json.dumps(nearest)}, of an effective window of "
            f"{reached.effective_window:,.0f} updates in the place of "
            f"{combination.effective_window:,.0f}, with a residual of {reached.residual:.3f}"
        )
    return refusal + " (--max-residual inf takes any)"
