"""
What a sweep over averaging lengths measured: as a table, a picture, and the best of it.
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

# How many values of the key fit above the picture.
_MOST_LABELS = 8


class SweepResults:
    """
    # Parameters

    key : `str`
        Which the sweep goes along.
    metric : `Union[str, List[str]]`
        With a `+` or `-` before it, or several of these, as in `"validation_metric"`.
    max_residual : `float`
        What is above it is not what it says, and so never the best.
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
        # One metric is shown as the model has it, several as their sum.
        is_single, first = len(self._metric.names) == 1, self._metric.names[0]
        self._name = first[1:] if is_single else str(self._metric)
        self._sign = -1.0 if is_single and first[0] == "-" else 1.0
        self._max_residual = max_residual
        self._measurements = measurements
        self._synthesized = [m for m in measurements if m.kind == SYNTHESIZED]

    @property
    def best(self) -> Measurement:
        """
        The best synthesized average among those that are what they say.

        # Raises

        `ConfigurationError` : if the metric of all of these is NaN.
        """
        # Whichever stands first is the greatest where NaN is compared.
        reached = [
            m for m in self._synthesized if self._is_reached(m) and not math.isnan(self._shown(m))
        ]
        if not reached:
            raise ConfigurationError(
                f'"{self._name}" is NaN for every average with a residual within '
                f"{self._max_residual:g}, but has to be a number for one to be the best"
            )
        return max(reached, key=lambda measurement: self._sign * self._shown(measurement))

    @property
    def index_of_best(self) -> int:
        """Of `best`, among the synthesized averages in their order."""
        return [measurement is self.best for measurement in self._synthesized].index(True)

    def _is_reached(self, measurement: Measurement) -> bool:
        return (measurement.residual or 0.0) <= self._max_residual

    def _shown(self, measurement: Measurement) -> float:
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
                    f"{self._shown(measurement):.4f}",
                    self._remark(measurement),
                ]
                for measurement in self._measurements
            ],
        )

    def _remark(self, measurement: Measurement) -> str:
        if not self._is_reached(measurement):
            return f"residual above {self._max_residual:g}"
        return "best" if measurement is self.best else ""

    def draw(self, path: Path) -> None:
        """
        Draws the metric against the averaging length, or for several numbers of updates the plane
        of both, whole or not at all.
        """
        # Takes its time, which every start of `allennlp` would pay.
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
        raw = [f"{m.name}: {self._shown(m):.4f}" for m in self._measurements if m.kind == RAW]
        axes.set_title("; ".join(raw), fontsize="medium")

    def _cell(self, m: Measurement) -> Cell:
        return Cell(m.num_updates or 0, m.value or 0, self._shown(m), self._is_reached(m))

    def _draw_lengths(self, figure: Any) -> None:
        from matplotlib.ticker import LogLocator, NullFormatter, NullLocator, StrMethodFormatter

        axes = figure.add_subplot()
        reached = [m for m in self._synthesized if self._is_reached(m)]
        beyond = [m for m in self._synthesized if not self._is_reached(m)]
        self._plot(axes, reached, "o-", color="tab:blue", label="made from snapshots")
        if beyond:
            label = f"the same, residual above {self._max_residual:g}"
            self._plot(axes, beyond, "o", color="tab:blue", markerfacecolor="white", label=label)
        colors = itertools.cycle(["tab:orange", "tab:green", "tab:purple", "tab:brown"])
        for m in self._measurements:
            if m.kind == RAW:
                axes.axhline(self._shown(m), color="tab:gray", linestyle="--", label=m.name)
            elif m.kind == TRACKED:
                color = next(colors)
                axes.axhline(self._shown(m), color=color, linestyle=":")
                self._plot(axes, [m], "s:", color=color, label=m.name)
        self._plot(
            axes,
            [self.best],
            "*",
            markersize=16,
            color="tab:red",
            zorder=3,
            label=f"best: {self._key} {self.best.value:.4g}, {self._shown(self.best):.4f}",
        )
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("averaging length: effective window (updates)")
        axes.set_ylabel(f"{self._name} ({'higher' if self._sign > 0 else 'lower'} is better)")
        axes.grid(alpha=0.3)
        figure.legend(loc="outside lower center", ncol=2)
        labelled = self._synthesized[:: math.ceil(len(self._synthesized) / _MOST_LABELS)]
        top: Any = axes.secondary_xaxis("top")
        top.set_xlabel(self._key)
        top.set_xticks(
            [m.effective_window for m in labelled], labels=[f"{m.value:.3g}" for m in labelled]
        )
        top.xaxis.set_minor_locator(NullLocator())

    def _plot(self, axes: Any, measurements: Sequence[Measurement], style: str, **how: Any) -> None:
        axes.plot(
            [m.effective_window for m in measurements],
            [self._shown(m) for m in measurements],
            style,
            **how,
        )


def _in_words(value: Optional[float], form: str) -> str:
    return "" if value is None else format(value, form)
