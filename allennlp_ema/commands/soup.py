"""
`allennlp average soup`: the mean of the models of several trainings.
"""

import argparse
from pathlib import Path
from typing import Any, Dict, List, Tuple

from allennlp.common.checks import ConfigurationError
from torch import Tensor

from allennlp_ema.after_training.archives import check_can_be_written
from allennlp_ema.after_training.finished_training import FinishedTraining
from allennlp_ema.after_training.metrics import chosen_metric
from allennlp_ema.after_training.soups import GreedySoup, uniform_soup
from allennlp_ema.after_training.trained_model import TrainedModel
from allennlp_ema.after_training.unpacked_archives import opened
from allennlp_ema.after_training.vocabularies import check_vocabularies
from allennlp_ema.commands.recalibration import (
    add_recalibration_arguments,
    archive_recalibrated,
)

# A model's state, and its provenance.
Soup = Tuple[Dict[str, Tensor], Dict[str, Any]]


def add_parser(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    description = """The mean of the models of several trainings, as an archive for `allennlp
                     evaluate` and `allennlp predict`. With --greedy, models are tried in the order
                     of their own metrics, and a model is left out if the mean becomes worse with it
                     on DATA. The configuration is that of the first model."""
    parser = commands.add_parser(
        "soup", description=description, help="Average the models of several trainings."
    )
    parser.add_argument(
        "models",
        metavar="RUN_OR_ARCHIVE",
        type=Path,
        nargs="+",
        help="the directories of the trainings, or archives of their models",
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, help="the archive to write (OUT.tar.gz)"
    )
    parser.add_argument("--greedy", metavar="DATA", help="the data to measure the models on")
    parser.add_argument(
        "--metric",
        action="append",
        help="the metric to compare by: --metric +accuracy, or --metric=-loss if lower is better; "
        'if given several times, their sum (else the "validation_metric" of the first training)',
    )
    add_recalibration_arguments(parser)
    parser.add_argument("--force", action="store_true", help="overwrite the archive")
    return parser


def run(arguments: argparse.Namespace) -> None:
    check_can_be_written(arguments.output, arguments.force)
    models: List[Path] = arguments.models
    if len(models) < 2:
        raise ConfigurationError(f"a soup is of at least two models, but {models[0]} is only one")
    if arguments.metric is not None and arguments.greedy is None:
        raise ConfigurationError("--metric is what --greedy DATA compares, which is not given")
    check_vocabularies(models)
    with opened(models[0]) as training:
        weights, provenance = (
            _uniform(models) if arguments.greedy is None else _greedy(arguments, training)
        )
        archive_recalibrated(arguments, training, weights, arguments.output, provenance)
    names = ", ".join(provenance["files"])
    print(f"{arguments.output}: the {provenance['kind']} of {names}")


def _uniform(models: List[Path]) -> Soup:
    return uniform_soup(models), {"kind": "uniform soup", "files": [str(path) for path in models]}


def _greedy(arguments: argparse.Namespace, training: FinishedTraining) -> Soup:
    metric = chosen_metric(arguments.metric, training)
    model = TrainedModel(training, arguments.recalibrate, arguments.cuda_device)
    data = model.validation_data(arguments.greedy)

    def measured() -> float:
        with model.recalibrated():
            return metric.value(model.evaluate(data), "the model")

    soup = GreedySoup(arguments.models, model, measured)
    alone = []
    for path, value in soup.measured_alone():
        alone.append((path, value))
        print(f"{path}: {metric.in_words(value)}", flush=True)
    steps = []
    for number, (path, value, is_kept) in enumerate(soup.steps(alone), 1):
        words = metric.in_words(value)
        verdict = "kept" if is_kept else "left out"
        print(f"step {number}, the soup with {path}: {words}, {verdict}", flush=True)
        steps.append({"file": str(path), "value": words, "is_kept": is_kept})
    return soup.weights(), {
        "kind": "greedy soup",
        "files": [str(path) for path in soup.kept],
        "data": arguments.greedy,
        "steps": steps,
    }
