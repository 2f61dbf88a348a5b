"""
The option `--recalibrate`: computes the batch-norm statistics for the archived weights.
"""

import argparse
import logging
from pathlib import Path
from typing import Any, Dict

from torch import Tensor

from allennlp_ema.after_training.archives import write_archive
from allennlp_ema.after_training.finished_training import FinishedTraining
from allennlp_ema.after_training.trained_model import TrainedModel

logger = logging.getLogger(__name__)


def add_recalibration_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--recalibrate",
        metavar="DATA",
        help="recompute the running statistics of batch norms from these (training) data, as the "
        'callback "moving_average_buffers" does in training',
    )
    parser.add_argument("--cuda-device", type=int, default=-1, help="id of GPU to use (if any)")


def archive_recalibrated(
    arguments: argparse.Namespace,
    training: FinishedTraining,
    weights: Dict[str, Tensor],
    path: Path,
    provenance: Dict[str, Any],
) -> None:
    """Archives `weights` at `path`, with recomputed statistics if `--recalibrate` is given."""
    if arguments.recalibrate is None:
        warn_of_statistics(weights)
        write_archive(training, weights, path, provenance)
        return
    model = TrainedModel(training, arguments.recalibrate, arguments.cuda_device)
    model.load_weights(weights)
    with model.recalibrated():
        write_archive(training, model.weights, path, provenance)


def warn_of_statistics(weights: Dict[str, Tensor]) -> None:
    if any(name.endswith(".running_mean") for name in weights):
        logger.warning(
            "The model has batch norms, whose running statistics were gathered for other weights: "
            "--recalibrate DATA computes them anew"
        )
