"""
Attachments: other state of the model that belongs to an average, for example buffers.
"""

from typing import Any, Dict

from torch import Tensor


class Attachment:
    """
    State that belongs to an average. An attachment is called before each sample and when the
    averages are assigned or restored, and it has a part in the average's state.
    `MovingAverage.attach` adds an attachment to an average, or to each average of a bank. The
    argument `average` is the `MovingAverage` that is assigned, restored, saved or loaded. The
    methods of this base class do nothing.

    ```python
    class Temperature(Attachment):
        name = "temperature"

        def assign(self, average: MovingAverage) -> None:
            model.temperature = 0.5

        def restore(self, average: MovingAverage) -> None:
            model.temperature = 1.0
    ```
    """

    #: The key of its part of the state.
    name: str

    def tensors(self) -> Dict[str, Tensor]:
        """
        # Returns

        tensors : `Dict[str, Tensor]`
            Tensors, by name, that are averaged, assigned and restored as the parameters are. The
            state of the average includes their averages.
        """
        return {}

    def follow(self) -> None:
        """
        Called before its tensors are read or get other values. A module may have replaced one.
        """

    def before_sample(self) -> None:
        """Called before a sample of the parameters is taken."""

    def assign(self, average: Any) -> None:
        """Called after the values of `average` were assigned to the parameters."""

    def restore(self, average: Any) -> None:
        """
        Called before the parameters get their raw values again. It is also called after `assign`
        has failed, and a second time after `restore` has failed.
        """

    def keep(self, average: Any) -> None:
        """Called instead of `restore` when the assigned values are kept for good."""

    def state_dict(self, average: Any) -> Dict[str, Any]:
        return {}

    def load_state_dict(self, average: Any, state_dict: Dict[str, Any]) -> None:
        pass
