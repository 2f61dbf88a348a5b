"""
Which averages a sweep evaluates: of which lengths, after which updates, and how they are made.
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

# In the place of numbers of updates: those of the snapshots.
ALL = "all"

# From where to where a power function goes: a little beyond what snapshots of 0.05 and 0.10 make.
_SIGMA_REL = (0.02, 0.25)


class Candidate(NamedTuple):
    """
    # Parameters

    value : `Any`
        Of the key that the sweep goes along.
    specification : `Specification`
        The average with it.
    synthesis : `SnapshotSynthesis`
        After as many updates as it is wanted.
    combination : `Combination`
        How it is made.
    """

    value: Any
    specification: Specification
    synthesis: SnapshotSynthesis
    combination: Combination


def stops(
    given: Sequence[str], training: FinishedTraining, snapshots: Sequence[Snapshot]
) -> List[int]:
    """
    # Parameters

    given : `Sequence[str]`
        Numbers of updates, durations, or `ALL`. None at all means the latest snapshot.
    training : `FinishedTraining`
        Whose length durations are resolved with.
    snapshots : `Sequence[Snapshot]`

    # Returns

    nums_updates : `List[int]`
        After which averages are evaluated, ascending.

    # Raises

    `ConfigurationError` : naming what is something else.
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
        Of all lengths after the same update, then of the same ones after the next.

    # Raises

    `ConfigurationError` : if it is not said which lengths, or none can be made.
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
