"""
What is trained: conditions (a task on some data) and runs (a condition, a configuration, a seed).
"""

from typing import List, NamedTuple, Optional

SEEDS = (1, 2, 3)
SCHEDULES = {"constant": "constant", "linear_decay": "linear to 0"}


class Condition(NamedTuple):
    """
    # Parameters

    letter : `str`
        The first letter of its rows' numbers.
    title : `str`
    task : `str`
        The name of the task's configuration file, without the ending.
    num_epochs : `int`
    evaluate_every : `int`, optional (default = `1`)
        How often every average is evaluated, in epochs.
    batch_size : `int`, optional (default = `64`)
    metric : `str`, optional (default = `"accuracy"`)
        The best epoch is the best by this one.
    second_metric : `str`, optional (default = `None`)
        Shown beside it.
    """

    letter: str
    title: str
    task: str
    num_epochs: int
    evaluate_every: int = 1
    batch_size: int = 64
    metric: str = "accuracy"
    second_metric: Optional[str] = None


CONDITIONS = {
    "tagger": Condition("T", "tagger", "tagger", num_epochs=10, evaluate_every=2),
    "parser": Condition(
        "P",
        "parser",
        "parser",
        num_epochs=10,
        evaluate_every=2,
        metric="LAS",
        second_metric="UAS",
    ),
    "transformer": Condition("A", "transformer", "transformer", num_epochs=20, evaluate_every=4),
    "long": Condition("L", "long run", "long", num_epochs=8, batch_size=16),
    "noisy": Condition("N", "wrong tags", "tagger", num_epochs=10, evaluate_every=2),
    "tenth": Condition("F", "little data", "tagger", num_epochs=40, evaluate_every=8),
    "overfitting": Condition("O", "overfitting", "overfitting", num_epochs=6),
}


class Run(NamedTuple):
    condition: str
    config: str
    seed: int

    @property
    def task(self) -> str:
        return CONDITIONS[self.condition].task

    def __str__(self) -> str:
        return f"{self.condition}-{self.config}-{self.seed}"


def _runs(condition: str, *configs: str) -> List[Run]:
    return [Run(condition, config, seed) for config in configs for seed in SEEDS]


# What matters most comes first, for whoever stops it early.
RUNS = [
    *_runs("tagger", *SCHEDULES),
    *_runs("long", *SCHEDULES),
    *_runs("parser", *SCHEDULES),
    *_runs("transformer", *SCHEDULES),
    *_runs("noisy", *SCHEDULES),
    *_runs("tenth", *SCHEDULES),
    *_runs("tagger", "last_50", "last_20", "last_10"),
    *_runs("tagger", "switch", "lookahead"),
    *_runs("parser", "switch"),
    *_runs("transformer", "switch"),
    *_runs("tagger", "snapshots"),
    Run("tagger", "soup", 1),
    Run("tagger", "raw_soup", 1),
    *_runs("overfitting", *SCHEDULES, "allennlp_exponential"),
    Run("overfitting", "recovered", 1),
    Run("overfitting", "recovered_allennlp_exponential", 1),
]
