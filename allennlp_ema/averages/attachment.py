"""
Attachments: state of the averaged model that belongs to an average, buffers say.
"""

from typing import Any, Dict

from torch import Tensor


class Attachment:
    """
    Something that goes with an average: it learns of samples before they are taken, is swapped with
    the parameters, and has a part in the average's state. `MovingAverage.attach` adds one; to a
    bank, it goes with each of its averages. `average` is the `MovingAverage` that it goes with. All
    methods do nothing unless they are overridden.

    ```python
    class Temperature(Attachment):
        name = "temperature"

        def assign(self, average: MovingAverage) -> None:
            model.temperature = 0.5

        def restore(self, average: MovingAverage) -> None:
            model.temperature = 1.0
    ```
    """

    #: What its part of the state is called.
    name: str

    def tensors(self) -> Dict[str, Tensor]:
        """
        # Returns

        tensors : `Dict[str, Tensor]`
            Tensors that are averaged, assigned and restored as the parameters are, by a name. They
            are in the state of the average.
        """
        return {}

    def before_sample(self) -> None:
        """Called before a sample of the parameters is taken."""

    def assign(self, average: Any) -> None:
        """Called when the parameters have got the values of `average`."""

    def restore(self, average: Any) -> None:
        """
        Called before the parameters get their own values again, also when `assign` has failed, and
        a second time when this has.
        """

    def keep(self, average: Any) -> None:
        """Called in the place of `restore` when what is assigned is kept for good."""

    def state_dict(self, average: Any) -> Dict[str, Any]:
        return {}

    def load_state_dict(self, average: Any, state_dict: Dict[str, Any]) -> None:
        pass
