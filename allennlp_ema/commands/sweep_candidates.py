"""
The candidates of a sweep: averages of different lengths after different numbers of updates.
"""

import argparse
import json
from typing import Any, List, NamedTuple, Sequence, Set

from allennlp.common import Params
from allennlp.common.checks import ConfigurationError

from allennlp_ema.after_training.finished_training import FinishedTraining
from allennlp_ema.after_training.snapshot_synthesis import SnapshotSynthesis
from allennlp_ema.averages.snapshot_files import Snapshot
from allennlp_ema.averages.specifications import (
    Specification,
    build_average,
    spaced_values,
    with_value,
)
from allennlp_ema.common.documents import explained
from allennlp_ema.common.terminal import progress
from allennlp_ema.weighting.duration import Duration
from allennlp_ema.weighting.profiles import Combination

# Given instead of numbers of updates. It means the numbers of all snapshots.
ALL = "all"

# The default range of sigma_rel: slightly more than snapshots of 0.05 and 0.10 can make.
_SIGMA_REL = (0.02, 0.25)


class Candidate(NamedTuple):
    """
    # Parameters

    value : `Any`
        The value of the key that the sweep varies.
    specification : `Specification`
        The specification of the average with this value.
    synthesis : `SnapshotSynthesis`
        The synthesis after the wanted number of updates.
    combination : `Combination`
        The combination of snapshots that makes the average.
    """

    value: Any
    specification: Specification
    synthesis: SnapshotSynthesis
    combination: Combination


def requested_num_updates(
    given: Sequence[str], training: FinishedTraining, snapshots: Sequence[Snapshot]
) -> List[int]:
    """
    # Parameters

    given : `Sequence[str]`
        Numbers of updates, durations, or `ALL`. An empty sequence means the latest snapshot.
    training : `FinishedTraining`
        The training whose length resolves durations.
    snapshots : `Sequence[Snapshot]`

    # Returns

    nums_updates : `List[int]`
        The numbers of updates after which averages are evaluated, ascending.

    # Raises

    `ConfigurationError` : naming a text in `given` that is neither.
    """
    of_snapshots = {snapshot.num_updates for snapshot in snapshots}
    found: Set[int] = set() if given else {max(of_snapshots)}
    for text in given:
        if text == ALL:
            found |= of_snapshots
        else:
            found.add(int(text) if text.isdecimal() else _resolved(text, training))
    return sorted(found)


def _resolved(text: str, training: FinishedTraining) -> int:
    try:
        document = json.loads(text)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise ConfigurationError(
            f"--num-updates is {text!r}, but has to be a number of updates, a duration "
            f"('{{\"epochs\": 2}}' or '{{\"fraction\": 0.5}}') or {ALL}"
        )
    with explained("--num-updates"):
        duration = Duration.from_params(Params(document))
        return round(duration.resolve("--num-updates", training.length()))


def candidates(
    arguments: argparse.Namespace, key: str, syntheses: Sequence[SnapshotSynthesis]
) -> List[Candidate]:
    """
    # Returns

    candidates : `List[Candidate]`
        All lengths after the first number of updates, then all lengths after the next number.

    # Raises

    `ConfigurationError` : if the range of lengths is not given, or if no average can be made.
    """
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
    latest = syntheses[-1].num_updates
    values = spaced_values(key, start, end, arguments.points, latest)
    specifications = [with_value({"type": arguments.type}, key, value) for value in values]
    weightings = [build_average(specification).weighting for specification in specifications]
    found = [
        Candidate(value, specification, synthesis, synthesis.solve(weighting))
        for synthesis in progress(syntheses, desc="solving for profiles")
        for value, specification, weighting in zip(values, specifications, weightings)
    ]
    smallest = min(candidate.combination.residual for candidate in found)
    if smallest > arguments.max_residual:
        raise ConfigurationError(
            f"from these snapshots none of these averages comes out with a residual within "
            f"--max-residual {arguments.max_residual:g}; the smallest is {smallest:.3f}"
        )
    return found
