"""
`examples/slurm.sh` as Slurm runs it, with two nodes of one CPU each on this machine.
"""

import json
import os
import sys
from pathlib import Path

from tests.support.forked_trainings import workers_config
from tests.support.training_runs import REPOSITORY, best_weights, differences, run_command

SCONTROL = """#!/bin/bash
[ "$*" = "show hostnames first,second" ] && printf '127.0.0.1\\nsecond\\n'
"""
# Without a number of tasks it starts one on each node.
SRUN = """#!/bin/bash
[ "$1" = --kill-on-bad-exit=1 ] && shift || exit 2
SLURM_NODEID=1 "$@" & second=$!
SLURM_NODEID=0 "$@" && wait $second
"""


def run(directory: Path) -> str:
    """Submits the script."""
    environment = {
        "PATH": f"{directory / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "SLURM_JOB_NODELIST": "first,second",
        "SLURM_JOB_ID": str(os.getpid()),
        "SLURM_NNODES": "2",
    }
    script = str(REPOSITORY / "examples" / "slurm.sh")
    arguments = [str(directory / "config.json"), str(directory / "run")]
    return run_command(["bash", script, *arguments], environment=environment).output


def test_the_script_trains_on_two_nodes_and_goes_on(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    for name, text in (("scontrol", SCONTROL), ("srun", SRUN)):
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    config = workers_config(1, moving_average={"decay": 0.7}, num_epochs=1)
    (tmp_path / "config.json").write_text(json.dumps(config))
    run(tmp_path)
    nodes = [tmp_path / "run" / f"node{rank}" for rank in (0, 1)]
    assert all((node / "model.tar.gz").exists() for node in nodes)
    assert differences(*(dict(best_weights(node)) for node in nodes)) == []
    distributed = json.loads((nodes[1] / "config.json").read_text())["distributed"]
    assert distributed["num_nodes"] == 2 and distributed["primary_address"] == "127.0.0.1"
    # Submitted again, it recovers, without which AllenNLP would refuse the directories.
    before = dict(best_weights(nodes[1]))
    run(tmp_path)
    assert differences(dict(best_weights(nodes[1])), before) == []
