"""
`allennlp average checkpoints`: the mean of saved checkpoints.
"""

import argparse
from pathlib import Path
from typing import Any, Dict, List

from allennlp.common.checks import ConfigurationError
from torch import Tensor

from allennlp_ema.after_training.archives import check_can_be_written
from allennlp_ema.after_training.best_checkpoints import best_checkpoints
from allennlp_ema.after_training.checkpoint_mean import first_difference, mean_of_checkpoints
from allennlp_ema.after_training.finished_training import FinishedTraining
from allennlp_ema.after_training.metrics import chosen_metric
from allennlp_ema.commands.recalibration import (
    add_recalibration_arguments,
    archive_recalibrated,
)
from allennlp_ema.common.torch_files import load_dictionary


def add_parser(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    description = """The mean of saved checkpoints, as an archive for `allennlp evaluate` and
                     `allennlp predict`. Floating-point tensors are averaged in double precision.
                     Other tensors are those of the newest checkpoint. Of two checkpoints after the
                     same update, that of an epoch's last batch and that of the epoch, only the
                     latter counts, except with --files."""
    parser = commands.add_parser(
        "checkpoints", description=description, help="Average saved checkpoints."
    )
    parser.add_argument(
        "serialization_dir", type=Path, help="the directory of the training, with its checkpoints"
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, help="the archive to write (OUT.tar.gz)"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--last", type=int, metavar="N", help="the last N checkpoints (else all)")
    which.add_argument(
        "--epochs",
        type=int,
        nargs="+",
        metavar="E",
        help="the checkpoints after these numbers of epochs: 3 is model_state_e3_b0.th",
    )
    which.add_argument("--files", type=Path, nargs="+", help="these files, the newest last")
    which.add_argument(
        "--best",
        type=int,
        metavar="N",
        help="the N checkpoints with the best validation metrics, from metrics_epoch_*.json",
    )
    parser.add_argument(
        "--metric",
        action="append",
        help="the metric of --best: --metric +accuracy, or --metric=-loss if lower is better; if "
        'given several times, their sum (else the "validation_metric" of the training)',
    )
    add_recalibration_arguments(parser)
    parser.add_argument("--force", action="store_true", help="overwrite the archive")
    return parser


def run(arguments: argparse.Namespace) -> None:
    training = FinishedTraining(arguments.serialization_dir)
    check_can_be_written(arguments.output, arguments.force)
    if arguments.metric is not None and arguments.best is None:
        raise ConfigurationError("--metric is what --best N compares, which is not given")
    training.check_has_model()
    paths = _chosen(training, arguments)
    weights = mean_of_checkpoints(paths)
    if arguments.files is not None:
        _check_are_of_the_model(paths, weights, training)
    provenance = {"kind": "mean of checkpoints", "files": [path.name for path in paths]}
    archive_recalibrated(arguments, training, weights, arguments.output, provenance)
    names = ", ".join(path.name for path in paths)
    print(f"{arguments.output}: the mean of {len(paths)} checkpoints ({names})")


def _chosen(training: FinishedTraining, arguments: argparse.Namespace) -> List[Path]:
    if arguments.files is not None:
        return arguments.files
    if arguments.best is not None:
        return _best(training, arguments)
    if arguments.epochs is not None:
        found = training.checkpoints()
        for epoch in arguments.epochs:
            if (epoch, 0) not in found:
                raise ConfigurationError(
                    f"{training.serialization_dir} has no model_state_e{epoch}_b0.th; it has "
                    + ", ".join(path.name for path in found.values())
                )
        return [found[epoch, 0] for epoch in sorted(set(arguments.epochs))]
    paths = training.checkpoints_of_each_update()
    if arguments.last is None:
        return paths
    if not 1 <= arguments.last <= len(paths):
        raise ConfigurationError(
            f"--last is {arguments.last}, but {training.serialization_dir} has {len(paths)} "
            "checkpoints of different updates (the checkpointer keeps as many as its "
            '"keep_most_recent_by_count" says)'
        )
    return paths[-arguments.last :]


def _best(training: FinishedTraining, arguments: argparse.Namespace) -> List[Path]:
    metric = chosen_metric(arguments.metric, training)
    chosen = best_checkpoints(training, metric, arguments.best)
    for path, value in chosen:
        print(f"{path.name}: {metric.in_words(value)}")
    return [path for path, _ in chosen]


def _check_are_of_the_model(
    paths: List[Path], weights: Dict[str, Tensor], training: FinishedTraining
) -> None:
    # Without this check, a wrong file would only be noticed when the archive is loaded.
    of_model = training.best_weights_file
    if not of_model.is_file():
        of_model = list(training.checkpoints().values())[-1]
    forms, expected = map(_forms, (weights, load_dictionary(of_model)))
    difference = first_difference(paths[0], forms, of_model, expected)
    if difference is not None:
        raise ConfigurationError(f"--files: {difference}: it is not a checkpoint of this model")


def _forms(state: Dict[str, Any]) -> Dict[str, str]:
    # The dtype is left out, because loading converts it to the model's.
    return {
        name: f"a tensor {list(value.shape)}"
        if isinstance(value, Tensor)
        else f"a {type(value).__name__}"
        for name, value in state.items()
    }
