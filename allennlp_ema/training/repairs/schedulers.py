"""
Repairs of AllenNLP's learning rate schedulers, without which `--recover` changes a training.
"""

import functools
from typing import Any, Dict

from allennlp.training.learning_rate_schedulers import (
    CombinedLearningRateScheduler,
    SlantedTriangular,
)


def restore_gradual_unfreezing() -> None:
    """
    `slanted_triangular` with `gradual_unfreezing` freezes all layers but the top one when it is
    built, and unfreezes one more after each epoch. Loading a state did not unfreeze them again, so
    the first epoch after `--recover` trained only the top layer.
    """
    scheduler: Any = SlantedTriangular
    load = scheduler.load_state_dict

    @functools.wraps(load)
    def load_state_dict(self: Any, state_dict: Dict[str, Any]) -> None:
        load(self, state_dict)
        if self.gradual_unfreezing:
            # The last group is the default one, which is empty.
            for number, group in enumerate(reversed(self.optimizer.param_groups)):
                for parameter in group["params"]:
                    parameter.requires_grad = number <= self.last_epoch + 1

    scheduler.load_state_dict = load_state_dict


def keep_what_combined_had_set() -> None:
    """
    A `combined` scheduler builds the scheduler in force anew when it loads a state. Most schedulers
    set the learning rate of their first step when they are built. So after `--recover` the learning
    rate was that of the first step, until the next epoch began or for ever. And layers that an
    earlier, finished scheduler had unfrozen were frozen again.
    """
    scheduler: Any = CombinedLearningRateScheduler
    get_state, load = scheduler.state_dict, scheduler.load_state_dict

    @functools.wraps(get_state)
    def state_dict(self: Any) -> Dict[str, Any]:
        groups = self.optimizer.param_groups
        trained = [[parameter.requires_grad for parameter in group["params"]] for group in groups]
        return {**get_state(self), "requires_grad": trained}

    @functools.wraps(load)
    def load_state_dict(self: Any, state_dict: Dict[str, Any]) -> None:
        # The optimizer's state was loaded before, so the groups hold the right values here.
        keys = self.param_group_field, self._initial_param_group_field
        groups = self.optimizer.param_groups
        loaded = [{key: group[key] for key in keys if key in group} for group in groups]
        load(self, state_dict)
        for group, values in zip(groups, loaded):
            group.update(values)
        for group, trained in zip(groups, state_dict.get("requires_grad", [])):
            for parameter, is_trained in zip(group["params"], trained):
                parameter.requires_grad = is_trained

    scheduler.state_dict, scheduler.load_state_dict = state_dict, load_state_dict
