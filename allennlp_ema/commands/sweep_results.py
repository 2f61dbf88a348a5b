"""
The results of a sweep over averaging lengths: the table, the picture, and the best average.
"""

import itertools
import math
from pathlib import Path
from typing import Any, List, Optional, Sequence, Union

from allennlp.common.checks import ConfigurationError

from allennlp_ema.commands.sweep_plane import Cell, draw_plane
from allennlp_ema.commands.sweep_values import RAW, SYNTHESIZED, TRACKED, Measurement
from allennlp_ema.common.files import written_whole
from allennlp_ema.common.metrics import SignedMetric
from allennlp_ema.common.terminal import print_table

# The number of values of the key that fit above the picture.
_MAX_LABELS = 8


class SweepResults:
    """
    # Parameters

    key : `str`
        The key that the sweep varies.
    metric : `Union[str, List[str]]`
        One or several names with `+` or `-` before each, as in `"validation_metric"`.
    max_residual : `float`
        An average with a larger residual cannot be the best.
    measurements : `Sequence[Measurement]`
    """

    def __init__(
        self,
        key: str,
        metric: Union[str, List[str]],
        max_residual: float,
        measurements: Sequence[Measurement],
    ) -> None:
        self._key = key
        self._metric = SignedMetric(metric)
        # A single metric is shown as in the model. Several metrics are shown as their sum.
        is_single, first = len(self._metric.names) == 1, self._metric.names[0]
        self._name = first[1:] if is_single else str(self._metric)
        self._sign = -1.0 if is_single and first[0] == "-" else 1.0
        self._max_residual = max_residual
        self._measurements = measurements
        self._synthesized = [m for m in measurements if m.kind == SYNTHESIZED]

    @property
    def best(self) -> Measurement:
        """
        The best synthesized average with a residual within `max_residual`.

        # Raises

        `ConfigurationError` : if the metric of all these averages is NaN.
        """
        # `max` would return a NaN that comes first, because comparisons with NaN are false.
        accurate = [
            m for m in self._synthesized if self._is_accurate(m) and not math.isnan(self._value(m))
        ]
        if not accurate:
            raise ConfigurationError(
                f'"{self._name}" is NaN for every average with a residual within '
                f"{self._max_residual:g}, but has to be a number for one to be the best"
            )
        return max(accurate, key=lambda measurement: self._sign * self._value(measurement))

    @property
    def index_of_best(self) -> int:
        """The index of `best` among the synthesized averages."""
        return [measurement is self.best for measurement in self._synthesized].index(True)

    def _is_accurate(self, measurement: Measurement) -> bool:
        return (measurement.residual or 0.0) <= self._max_residual

    def _value(self, measurement: Measurement) -> float:
        return self._sign * self._metric.value(measurement.metrics, measurement.name)

    def print_table(self) -> None:
        print_table(
            ["average", self._key, "updates", "effective window", "residual", "noise amplification"]
            + [self._name, ""],
            [
                [
                    measurement.name,
                    _in_words(measurement.value, ".4g"),
                    _in_words(measurement.num_updates, ","),
                    _in_words(measurement.effective_window, ",.1f"),
                    _in_words(measurement.residual, ".4f"),
                    _in_words(measurement.noise_amplification, ".2f"),
                    f"{self._value(measurement):.4f}",
                    self._remark(measurement),
                ]
                for measurement in self._measurements
            ],
        )

    def _remark(self, measurement: Measurement) -> str:
        if not self._is_accurate(measurement):
            return f"residual above {self._max_residual:g}"
        return "best" if measurement is self.best else ""

    def draw(self, path: Path) -> None:
        """
        Draws the metric over the averaging length, or, for several numbers of updates, over both.
        The file is written completely or not at all.
        """
        # Importing matplotlib is slow, and `allennlp` imports this module at each start.
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8.0, 5.0), constrained_layout=True)
        if len({m.num_updates for m in self._synthesized}) > 1:
            self._draw_plane(figure)
        else:
            self._draw_lengths(figure)
        with written_whole(path) as partial:
            figure.savefig(str(partial), format="png", dpi=120)

    def _draw_plane(self, figure: Any) -> None:
        axes = draw_plane(
            figure,
            [self._cell(m) for m in self._synthesized],
            self._cell(self.best),
            self._key,
            self._name,
            self._sign > 0,
            f"residual above {self._max_residual:g}",
        )
        raw = [f"{m.name}: {self._value(m):.4f}" for m in self._measurements if m.kind == RAW]
        axes.set_title("; ".join(raw), fontsize="medium")

    def _cell(self, m: Measurement) -> Cell:
        return Cell(m.num_updates or 0, m.value or 0, self._value(m), self._is_accurate(m))

    def _draw_lengths(self, figure: Any) -> None:
        from matplotlib.ticker import LogLocator, NullFormatter, NullLocator, StrMethodFormatter

        axes = figure.add_subplot()
        accurate = [m for m in self._synthesized if self._is_accurate(m)]
        inaccurate = [m for m in self._synthesized if not self._is_accurate(m)]
        self._plot(axes, accurate, "o-", color="tab:blue", label="made from snapshots")
        if inaccurate:
            label = f"the same, residual above {self._max_residual:g}"
            self._plot(
                axes, inaccurate, "o", color="tab:blue", markerfacecolor="white", label=label
            )
        colors = itertools.cycle(["tab:orange", "tab:green", "tab:purple", "tab:brown"])
        for m in self._measurements:
            if m.kind == RAW:
                axes.axhline(self._value(m), color="tab:gray", linestyle="--", label=m.name)
            elif m.kind == TRACKED:
                color = next(colors)
                axes.axhline(self._value(m), color=color, linestyle=":")
                self._plot(axes, [m], "s:", color=color, label=m.name)
        self._plot(
            axes,
            [self.best],
            "*",
            markersize=16,
            color="tab:red",
            zorder=3,
            label=f"best: {self._key} {self.best.value:.4g}, {self._value(self.best):.4f}",
        )
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("averaging length: effective window (updates)")
        axes.set_ylabel(f"{self._name} ({'higher' if self._sign > 0 else 'lower'} is better)")
        axes.grid(alpha=0.3)
        figure.legend(loc="outside lower center", ncol=2)
        labelled = self._synthesized[:: math.ceil(len(self._synthesized) / _MAX_LABELS)]
        top: Any = axes.secondary_xaxis("top")
        top.set_xlabel(self._key)
        top.set_xticks(
            [m.effective_window for m in labelled], labels=[f"{m.value:.3g}" for m in labelled]
        )
        top.xaxis.set_minor_locator(NullLocator())

    def _plot(self, axes: Any, measurements: Sequence[Measurement], style: str, **how: Any) -> None:
        axes.plot(
            [m.effective_window for m in measurements],
            [self._value(m) for m in measurements],
            style,
            **how,
        )


def _in_words(value: Optional[float], form: str) -> str:
    return "" if value is None else format(value, form)
