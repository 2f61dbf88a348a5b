"""
The pictures of `experiments/README.md`.
"""

import math
from statistics import mean
from typing import Any, List, Optional, Sequence

from matplotlib.figure import Figure

from experiments.measurements import (
    CONDITIONS,
    DEFAULT,
    RAW,
    SCHEDULES,
    WEIGHTS,
    Result,
    curve,
    rows,
)

DRAWN = [
    RAW,
    DEFAULT,
    "exponential, 1%",
    "exponential, 5%",
    "power function 0.05",
    "power function 0.20",
    "window, last quarter",
]

# In the picture of rows, so that the letters stay large enough to read.
PANELS_ACROSS = 4


def accuracy_by_epoch(results: Sequence[Result]) -> Figure:
    panels = panels_of(results)
    figure = Figure(figsize=(5 * len(SCHEDULES), 0.9 + 3.1 * len(panels)))
    axes = figure.subplots(len(panels), len(SCHEDULES), squeeze=False, sharey="row")
    for line, condition in zip(axes, panels):
        lowest = 100.0
        for axis, schedule in zip(line, SCHEDULES):
            for row in rows(results, condition):
                if row.config != schedule or row.weights not in DRAWN:
                    continue
                curves = [curve(run, row.weights) for run in row.runs.values()]
                values = [mean(e.value for e in at) for at in zip(*curves)]
                lowest = min([lowest, *values[2:]])
                axis.plot(
                    [e.epoch for e in curves[0]],
                    values,
                    color="black" if row.weights == RAW else f"C{DRAWN.index(row.weights)}",
                    linestyle="--" if row.weights == RAW else "-",
                    marker=".",
                    label=row.weights,
                )
            title = f"{CONDITIONS[condition].title}, learning rate {SCHEDULES[schedule]}"
            axis.set_title(title, fontsize=10)
            axis.set_xlabel("epoch")
            axis.grid(alpha=0.3)
        # What comes before is far below, and would press all the rest into one line.
        line[0].set_ylim(bottom=lowest - 0.5)
        line[0].set_ylabel(f"mean dev {CONDITIONS[condition].metric}, %")
    handles = {
        label: handle
        for line in axes
        for handle, label in zip(*line[0].get_legend_handles_labels())
    }
    _legend_below(figure, handles)
    return figure


def best_by_row(results: Sequence[Result]) -> Figure:
    panels = panels_of(results)
    there = {row.weights for condition in panels for row in rows(results, condition)}
    weights = [each for each in WEIGHTS if each in there]
    num_columns = min(PANELS_ACROSS, len(panels))
    num_lines = math.ceil(len(panels) / num_columns)
    size = 2.2 + 2.6 * num_columns, 1.0 + num_lines * (1.0 + 0.26 * len(weights))
    figure = Figure(figsize=size)
    axes = figure.subplots(num_lines, num_columns, squeeze=False, sharey=True).flat
    handles = {}
    for axis, condition in zip(axes, panels):
        for row in rows(results, condition):
            number = list(SCHEDULES).index(row.config)
            values = list(row.bests.values())
            height = weights.index(row.weights) + 0.3 * (number - 0.5)
            axis.plot(values, [height] * len(values), "o", color=f"C{number}", alpha=0.45, ms=4)
            (stroke,) = axis.plot(mean(values), height, "|", color=f"C{number}", ms=11, mew=2.5)
            handles[f"learning rate {SCHEDULES[row.config]}"] = stroke
        axis.set_title(CONDITIONS[condition].title, fontsize=10)
        axis.set_xlabel(f"best dev {CONDITIONS[condition].metric}, %")
        axis.locator_params(axis="x", nbins=4)
        axis.grid(alpha=0.3)
    axes[0].set_yticks(range(len(weights)))
    axes[0].set_yticklabels(weights)
    axes[0].invert_yaxis()
    for unused in axes[len(panels) :]:
        unused.remove()
    _legend_below(figure, handles, "points: seeds; strokes: their mean")
    return figure


def panels_of(results: Sequence[Result]) -> List[str]:
    """The conditions that have a panel of their own."""
    there = {r["condition"] for r in results if r["config"] in SCHEDULES}
    return [condition for condition in CONDITIONS if condition in there]


def _legend_below(figure: Figure, handles: Any, title: Optional[str] = None) -> None:
    inches = 0.7
    figure.tight_layout(rect=(0, inches / figure.get_size_inches()[1], 1, 1))
    figure.legend(handles.values(), handles, loc="lower center", ncol=4, title=title, frameon=False)
