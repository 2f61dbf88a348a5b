"""
`allennlp average show`: shows before training how an average will weight the updates.
"""

import argparse
import json
from pathlib import Path
from typing import Iterator, List, Optional, Tuple

from allennlp.common import Params
from allennlp.common.checks import ConfigurationError
from numpy import ndarray

from allennlp_ema.after_training.archives import check_can_be_written
from allennlp_ema.after_training.finished_training import check_config, configured_average
from allennlp_ema.averages import ExponentialMovingAverage
from allennlp_ema.averages.moving_average import MovingAverage
from allennlp_ema.averages.specifications import (
    Specification,
    build_averages,
    check_specification,
    specification_of,
)
from allennlp_ema.commands.average_picture import DrawnAverage, picture
from allennlp_ema.common.documents import explained, read_json
from allennlp_ema.common.files import written_whole
from allennlp_ema.common.nearest_names import did_you_mean
from allennlp_ema.common.terminal import print_table, progress
from allennlp_ema.weighting.equivalent_schedule import MAX_UPDATES, fall_in_words, summary
from allennlp_ema.weighting.profiles import AverageState, profile


def add_parser(commands: argparse._SubParsersAction) -> argparse.ArgumentParser:
    description = """Shows how averages weight the updates of a training: a table, and with -o a
                     picture of each update's share and, below it, of the learning rate that gives
                     the same weights (exactly, as long as the gradients are the same)."""
    parser = commands.add_parser(
        "show", description=description, help="Show an average before training with it."
    )
    parser.add_argument(
        "averages",
        nargs="+",
        metavar="AVERAGE",
        help='as under "moving_average" in a configuration: \'{"type": "exponential", "decay": '
        "0.999}'; only its type; or a configuration file (.jsonnet, .json) with an average. All "
        "averages of a bank are shown",
    )
    parser.add_argument(
        "--num-updates", type=int, required=True, metavar="N", help="the length of the training"
    )
    parser.add_argument(
        "--num-updates-per-epoch",
        type=int,
        metavar="N",
        help='necessary for an average with {"epochs": ...}',
    )
    parser.add_argument("-o", "--output", type=Path, help="the picture to write (OUT.png)")
    parser.add_argument("--force", action="store_true", help="overwrite the picture")
    return parser


def run(arguments: argparse.Namespace) -> None:
    _check_range("--num-updates", arguments.num_updates)
    if arguments.num_updates_per_epoch is not None:
        _check_range("--num-updates-per-epoch", arguments.num_updates_per_epoch)
    if arguments.output is not None:
        check_can_be_written(arguments.output, arguments.force)
    averages = [each for text in arguments.averages for each in _averages(text, arguments)]
    states = [AverageState(each.weighting, arguments.num_updates) for _, each in averages]
    profiles = [profile(state) for state in progress(states, desc="averages")]
    print_table(
        ["average"]
        + ["effective window", "initial value", "last tenth of updates", "mean age"]
        + ["decay in force", "as if the learning\nrate had fallen"],
        [
            [name, *_cells(average, state, shares)]
            for (name, average), state, shares in zip(averages, states, profiles)
        ],
        title=f"After {arguments.num_updates:,} updates",
    )
    if arguments.output is not None:
        drawn = [
            DrawnAverage(name, shares, average.update_every)
            for (name, average), shares in zip(averages, profiles)
        ]
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(arguments.output) as partial:
            partial.write_bytes(picture(drawn))
        print(arguments.output)


def _check_range(option: str, value: int) -> None:
    if not 1 <= value <= MAX_UPDATES:
        raise ConfigurationError(f"{option} is {value}, but has to be within 1 and {MAX_UPDATES:,}")


def _averages(text: str, arguments: argparse.Namespace) -> Iterator[Tuple[str, MovingAverage]]:
    """The averages of one argument with their names. Their durations are resolved."""
    place, specification = _read(text)
    with explained(place):
        for name, average in build_averages(specification).items():
            _resolve(average, arguments.num_updates, arguments.num_updates_per_epoch)
            words = json.dumps(specification_of(average))
            yield (f"{name}: {words}" if name else words), average


def _read(text: str) -> Tuple[str, Specification]:
    """The place of an argument's average, for messages, and its specification."""
    if text.lstrip().startswith("{"):
        return text, check_specification(text, read_json(text, text))
    path = Path(text)
    if path.suffix not in (".json", ".jsonnet"):
        names = MovingAverage.list_available()
        if text not in names:
            raise ConfigurationError(
                f"{text!r} is neither an object in JSON, nor the file of a configuration "
                f"(.jsonnet, .json), nor one of {', '.join(names)}{did_you_mean(text, names)}"
            )
        return text, {"type": text}
    if not path.is_file():
        raise ConfigurationError(f"{path}: there is no such file")
    with explained(path):
        config = Params.from_file(str(path)).as_dict(quiet=True)
    specification = configured_average(path, check_config(path, config))
    if specification is None:
        raise ConfigurationError(f'{path} has no average, no "moving_average" in its "trainer"')
    return str(path), specification


def _resolve(
    average: MovingAverage, num_updates: int, num_updates_per_epoch: Optional[int]
) -> None:
    if num_updates_per_epoch is None:
        for key, duration in average.durations.unresolved.items():
            if duration.epochs is not None:
                raise ConfigurationError(
                    f'"{key}" is {duration}: --num-updates-per-epoch has to say how many updates '
                    "an epoch has"
                )
        num_updates_per_epoch = num_updates
    average.resolve(num_updates_per_epoch, num_updates / num_updates_per_epoch)


def _cells(average: MovingAverage, state: AverageState, shares: ndarray) -> List[str]:
    numbers = summary(state, shares)
    window = numbers.effective_window
    return [
        "no sample yet" if window is None else f"{window:,.1f} updates",
        f"{numbers.initial_share:.2%}",
        f"{numbers.last_tenth_share:.2%}",
        f"{numbers.mean_age:,.1f} updates",
        _decay_in_words(average, state.num_updates),
        fall_in_words(numbers.updates_of_fall),
    ]


def _decay_in_words(average: MovingAverage, num_updates: int) -> str:
    if not isinstance(average, ExponentialMovingAverage) or num_updates < average.start_step:
        return ""
    first = average.schedule.in_force_from(num_updates - average.start_step)
    # The first update has the number 1.
    return "not yet" if first is None else f"from {max(1, average.start_step + first):,} on"
