"""
sweep.csv: the measurements of a sweep, written after each evaluation, from which it can continue.
"""

import contextlib
import csv
import io
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

from allennlp.common.checks import ConfigurationError

from allennlp_ema.common.files import written_whole

SYNTHESIZED, TRACKED, RAW = "synthesized", "in training", "raw"

# The columns of every file. The keys that sweeps vary stand between the first and the middle
# columns, and the metrics follow the last.
_FIRST = ["kind", "name"]
_MIDDLE = ["num_updates", "effective_window", "residual", "noise_amplification"]
_LAST = ["data", "evaluation"]


class Measurement(NamedTuple):
    """
    # Parameters

    kind : `str`
        `SYNTHESIZED`, `TRACKED` (a snapshot as it is) or `RAW`.
    name : `str`
    metrics : `Dict[str, Any]`
    num_updates : `Optional[int]`
        The number of the update after which the weights were taken, if it is known.
    value : `Optional[float]`
        The value of the key that the sweep varies.
    effective_window : `Optional[float]`
        In updates.
    residual : `Optional[float]`
    noise_amplification : `Optional[float]`
    evaluation : `str`
        The digest of everything that the metrics depend on.
    """

    kind: str
    name: str
    metrics: Dict[str, Any]
    num_updates: Optional[int] = None
    value: Optional[float] = None
    effective_window: Optional[float] = None
    residual: Optional[float] = None
    noise_amplification: Optional[float] = None
    evaluation: str = ""


class SweepValues:
    """
    The measurements in the file, and the new measurements of this sweep.

    # Parameters

    path : `Path`
        The file. It need not exist.
    key : `str`
        The key that this sweep varies.
    data : `str`
        The data that it evaluates on, in words.
    force : `bool`
        Whether to overwrite a file of another kind, or a file of a sweep on other data.

    # Raises

    `ConfigurationError` : if there is such a file, and `force` is not given.
    """

    def __init__(self, path: Path, key: str, data: str, force: bool) -> None:
        #: The measurements of this sweep, in order.
        self.measurements: List[Measurement] = []
        self._path = path
        self._data = data
        self._keys = [key]
        self._previous_rows: List[Dict[str, str]] = []
        # The metrics that are numbers, by the digest of the evaluation.
        self._metrics: Dict[str, Dict[str, Any]] = {}
        if path.is_file():
            self._read(force)

    def metrics_of(self, evaluation: str) -> Dict[str, Any]:
        """The metrics of an evaluation. Empty if it was not made yet."""
        return self._metrics.get(evaluation, {})

    def add(self, measurement: Measurement) -> None:
        """
        Adds a measurement and writes the file, completely or not at all. Earlier rows of other
        averages and updates follow the measurements of this sweep.
        """
        self.measurements.append(measurement)
        self._metrics[measurement.evaluation] = _numbers(measurement.metrics)
        rows = [self._row(each) for each in self.measurements]
        measured = {self._identity(row) for row in rows}
        rows += [row for row in self._previous_rows if self._identity(row) not in measured]
        text = io.StringIO()
        columns = [*_FIRST, *self._keys, *_MIDDLE, *_LAST]
        columns = list(dict.fromkeys([*columns, *(name for row in rows for name in row)]))
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        with written_whole(self._path) as partial:
            partial.write_text(text.getvalue(), encoding="utf-8")

    def _read(self, force: bool) -> None:
        try:
            with self._path.open(newline="", encoding="utf-8") as file:
                reader = csv.DictReader(file, restval="")
                columns = list(reader.fieldnames or [])
                rows = [row for row in reader if None not in row and row.get(_LAST[-1])]
        except (csv.Error, UnicodeDecodeError):
            columns = []
        if not {*_FIRST, *_MIDDLE, *_LAST} <= set(columns):
            if force:
                return
            raise ConfigurationError(
                f"{self._path} exists already, and no sweep can go on from it; --force overwrites "
                "it"
            )
        others = {row["data"] for row in rows if row["data"] != self._data}
        if others and not force:
            raise ConfigurationError(
                f"{self._path} exists already and is of {', '.join(sorted(others))}, not of "
                f"{self._data}; --force overwrites it"
            )
        names = columns[columns.index(_LAST[-1]) + 1 :]
        for row in rows:
            self._metrics[row["evaluation"]] = _numbers({name: row[name] for name in names})
        self._previous_rows = [row for row in rows if row["data"] == self._data]
        if self._previous_rows:
            keys = columns[len(_FIRST) : columns.index(_MIDDLE[0])]
            self._keys += [key for key in keys if key not in self._keys]

    def _row(self, measurement: Measurement) -> Dict[str, Any]:
        row = measurement._asdict()
        value, metrics = row.pop("value"), row.pop("metrics")
        return {**row, self._keys[0]: value, "data": self._data, **_numbers(metrics)}

    def _identity(self, row: Dict[str, Any]) -> Tuple[str, ...]:
        """The identity of a row's measurement, so that the file has each only once."""
        values = [row.get(column) for column in (*_FIRST, *self._keys, "num_updates", "data")]
        return tuple("" if value is None else str(value) for value in values)


def _numbers(metrics: Dict[str, Any]) -> Dict[str, float]:
    """The metrics that are numbers, or texts of numbers as in the file."""
    numbers = {}
    for name, value in metrics.items():
        if isinstance(value, (int, float, str)):
            with contextlib.suppress(ValueError):
                numbers[name] = float(value)
    return numbers
