"""
The metric by which models are compared.
"""

from typing import Any, Dict, List

from allennlp.common.checks import ConfigurationError

from allennlp_ema.common.nearest_names import did_you_mean


class SignedMetric:
    """
    The metric to compare models by: `"+accuracy"` if more is better, `"-loss"` if less is better.
    Several metrics are added up with their signs, as the trainer does it for a
    `"validation_metric"`.

    # Parameters

    names : `Union[str, List[str]]`
    key : `str`, optional (default = `"--metric"`)
        The option or key with the names, for messages.

    # Raises

    `ConfigurationError` : if a metric has no sign or no name.
    """

    def __init__(self, names: Any, key: str = "--metric") -> None:
        self.names: List[str] = names if isinstance(names, list) else [names]
        self._key = key
        self._given = names
        for name in self.names or [names]:
            if not isinstance(name, str) or name[:1] not in ("+", "-") or len(name) < 2:
                examples = (
                    "--metric +accuracy, --metric=-loss"
                    if key == "--metric"
                    else '"+accuracy", "-loss"'
                )
                raise ConfigurationError(
                    f"{key} is {names!r}, but has to be the name of a metric after a + if more of "
                    f"it is better, or else after a -: {examples}"
                )

    def value(self, metrics: Dict[str, Any], place: str) -> float:
        """
        # Parameters

        metrics : `Dict[str, Any]`
        place : `str`
            What the metrics are from, for messages.

        # Returns

        value : `float`
            The sum, which is larger for a better model.

        # Raises

        `ConfigurationError` : if a metric is missing or not a number.
        """
        values = []
        for name in self.names:
            if name[1:] not in metrics:
                raise ConfigurationError(
                    f"{self._key} is {self._given!r}, but {place} has {', '.join(sorted(metrics))}"
                    f"{did_you_mean(name[1:], metrics)}"
                )
            value = metrics[name[1:]]
            if not isinstance(value, (int, float)):
                raise ConfigurationError(
                    f"{self._key} is {self._given!r}, which is {value!r}, but has to be a single "
                    "number"
                )
            values.append(value if name[0] == "+" else -value)
        return float(sum(values))

    def __str__(self) -> str:
        return " ".join(self.names)

    def in_words(self, value: float) -> str:
        """The result of `value` in words."""
        if len(self.names) > 1:
            return f"{self} {value:.6g}"
        (name,) = self.names
        return f"{name[1:]} {value if name[0] == '+' else -value:.6g}"
