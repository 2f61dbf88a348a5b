"""
Synthesis: combines the snapshots of a run into averages that the run did not take.
"""

import contextlib
import json
from operator import attrgetter
from typing import Any, Dict, Iterator, Optional, Sequence, Tuple

import torch
from allennlp.common.checks import ConfigurationError
from safetensors import safe_open
from torch import Tensor

from allennlp_ema.after_training.finite_values import InfiniteConstants
from allennlp_ema.averages.snapshot_files import Snapshot
from allennlp_ema.averages.specifications import Specification, build_average
from allennlp_ema.common.documents import explained
from allennlp_ema.common.terminal import progress
from allennlp_ema.weighting.profiles import (
    AverageState,
    Combination,
    Synthesis,
    are_expected,
    expected_counts,
)
from allennlp_ema.weighting.weighting import Weighting


class SnapshotSynthesis:
    """
    Combines snapshots into other averages of the same run.

    # Parameters

    snapshots : `Sequence[Snapshot]`
        The snapshots of one run.
    num_updates : `int`, optional (default = `None`)
        The number of updates after which the averages are wanted. Later snapshots are not used.
        `None` means the number of the latest snapshot.

    # Raises

    `ConfigurationError` : naming a snapshot whose parameters differ from those of the others, or
        whose weights do not follow from its specification (because its decay was changed in
        training, or because it did not see all updates).
    """

    def __init__(self, snapshots: Sequence[Snapshot], num_updates: Optional[int] = None) -> None:
        latest = max(snapshot.num_updates for snapshot in snapshots)
        self.num_updates = latest if num_updates is None else num_updates
        if self.num_updates > latest:
            raise ConfigurationError(
                f"the latest snapshot is of update {latest:,}, so nothing is known of an average "
                f"after {self.num_updates:,} updates"
            )
        self.snapshots = [s for s in snapshots if s.num_updates <= self.num_updates]
        if not self.snapshots:
            earliest = min(snapshot.num_updates for snapshot in snapshots)
            raise ConfigurationError(
                f"the earliest snapshot is of update {earliest:,}, so there is none from the first "
                f"{self.num_updates:,} updates"
            )
        weightings: Dict[str, Weighting] = {}
        states = []
        for snapshot in self.snapshots:
            self._check_parameters(snapshot)
            key = json.dumps(snapshot.specification, sort_keys=True)
            if key not in weightings:
                with explained(snapshot.path):
                    average = build_average(snapshot.specification)
                    # Epochs whose updates were not yet counted end later. The weights until then
                    # are the same with any later end, and so with one after all snapshots.
                    average.resolve(num_updates_per_epoch=self.num_updates + 1)
                    weightings[key] = average.weighting
            states.append(AverageState(weightings[key], snapshot.num_updates))
        for weighting in weightings.values():
            self._check_counts(
                weighting,
                [s for s, state in zip(self.snapshots, states) if state.weighting is weighting],
            )
        self._synthesis = Synthesis(states)

    def _check_parameters(self, snapshot: Snapshot) -> None:
        first = self.snapshots[0]
        if snapshot.shapes == first.shapes:
            return
        for one, other in ((first, snapshot), (snapshot, first)):
            for name, shape in one.shapes.items():
                if other.shapes.get(name) != shape:
                    raise ConfigurationError(
                        f'{one.path} has the average of "{name}" {list(shape)}, which '
                        f"{other.path} has not: they cannot be combined"
                    )

    def _check_counts(self, weighting: Weighting, snapshots: Sequence[Snapshot]) -> None:
        snapshots = sorted(snapshots, key=attrgetter("num_updates"))
        numbers = [snapshot.num_updates for snapshot in snapshots]
        with explained(snapshots[-1].path):
            all_expected = expected_counts(weighting, numbers)
        for snapshot, expected in zip(snapshots, all_expected):
            if not are_expected(snapshot.counts, expected):
                raise ConfigurationError(
                    f"{snapshot.path}: the weights in this average are not known, as they are not "
                    f"those of {json.dumps(snapshot.specification)} after {snapshot.num_updates:,} "
                    "updates: either it was changed in training, or it did not see all of it"
                )

    @property
    def names(self) -> Dict[str, str]:
        """The names of the averaged parameters, each with the name of its averages in snapshots."""
        first = self.snapshots[0]
        return {**{name: name for name in first.shapes}, **first.tied}

    def solve(self, wanted: Weighting) -> Combination:
        """The combination of the snapshots that is closest to `wanted`."""
        return self._synthesis.solve(AverageState(wanted, self.num_updates))

    def provenance(self, specification: Specification, combination: Combination) -> Dict[str, Any]:
        """A record of how a synthesized average was made, in JSON values."""
        return {
            "kind": "synthesized",
            "average": specification,
            "num_updates": self.num_updates,
            "effective_window": combination.effective_window,
            "residual": combination.residual,
            "noise_amplification": combination.noise_amplification,
            "coefficients": {
                snapshot.path.name: x
                for snapshot, x in zip(self.snapshots, combination.coefficients.tolist())
                if x
            },
        }

    def combine(self, combination: Combination) -> Iterator[Tuple[str, Tensor]]:
        """
        # Returns

        values : `Iterator[Tuple[str, Tensor]]`
            The name of each averaged parameter, with the combination of its averages, computed in
            float64. They are computed one at a time to save memory.

        # Raises

        `ConfigurationError` : naming a snapshot and a parameter whose average has a NaN, or is
            infinite where the average in another snapshot is not.
        """
        constants = InfiniteConstants()
        with contextlib.ExitStack() as files:
            used = [
                (s.path, files.enter_context(safe_open(str(s.path), framework="numpy")), x)
                for s, x in zip(self.snapshots, combination.coefficients.tolist())
                if x
            ]
            for name, kept in progress(self.names.items(), desc="combining"):
                combined = torch.zeros(self.snapshots[0].shapes[kept], dtype=torch.float64)
                for path, file, x in used:
                    value = torch.as_tensor(file.get_tensor(kept))
                    constants.check(path, kept, value)
                    combined.add_(value.double(), alpha=x)
                constants.restore(kept, combined)
                yield name, combined

    def copy_into(self, weights: Dict[str, Tensor], combination: Combination) -> None:
        """
        Copies the combined averages into the state of a model, in place.

        # Raises

        `ConfigurationError` : if `weights` has no tensor of the same name and shape, or if
            `combine` raises it.
        """
        with torch.no_grad():
            for name, value in self.combine(combination):
                target = weights.get(name)
                if not isinstance(target, Tensor) or target.shape != value.shape:
                    raise ConfigurationError(
                        f'{self.snapshots[0].path} has the average of "{name}" '
                        f"{list(value.shape)}, which the model has not"
                    )
                target.copy_(value)
