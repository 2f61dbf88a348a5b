"""
Repairs of AllenNLP for trainings on several nodes, and for `--recover` with other workers.
"""

import functools
import os
from pathlib import Path
from typing import Any

from allennlp.common import Params
from allennlp.models.archival import CONFIG_NAME
from allennlp.training import util as training_util
from allennlp.training.checkpointer import Checkpointer

# The keys under "distributed" in a configuration that select the workers.
_WORKERS = ("cuda_devices", "num_nodes", "primary_address", "primary_port")


def remove_old_checkpoints_on_each_node() -> None:
    """
    Each node writes checkpoints into its own directory, but only the first node removed old ones.
    So the disks of the other nodes filled up.
    """
    checkpointer: Any = Checkpointer

    def is_primary_of_its_node(self: Any) -> bool:
        num_on_node = int(os.environ.get("ALLENNLP_PROCS_PER_NODE", 0))
        return (self._rank % num_on_node if num_on_node else self._rank) == 0

    checkpointer._is_primary = property(is_primary_of_its_node)


def continue_with_other_workers() -> None:
    """
    `--recover` refused a configuration with other `cuda_devices`, another number of nodes or
    another address of the first node. But a cluster may change these with each job.
    """
    module: Any = training_util
    create = module.create_serialization_dir

    @functools.wraps(create)
    def create_serialization_dir(
        params: Params, serialization_dir: Any, recover: bool, force: bool
    ) -> None:
        written = Path(serialization_dir) / CONFIG_NAME
        if recover and written.exists():
            before = Params.from_file(written).as_dict(quiet=True).get("distributed")
            params = params.duplicate()
            now = params.as_dict(quiet=True).get("distributed")
            if before and now:
                others = {key: value for key, value in now.items() if key not in _WORKERS}
                same = {key: before[key] for key in _WORKERS if key in before}
                params["distributed"] = {**others, **same}
        create(params, serialization_dir, recover, force)

    module.create_serialization_dir = create_serialization_dir
