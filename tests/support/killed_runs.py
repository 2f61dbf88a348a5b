"""
Runs trainings in forks of one process and kills each while it writes a file: `python -m
tests.support.killed_runs RUNS`. The file RUNS holds a list of
[configuration, serialization directory, file name, count, when].
"""

import json
import os
import signal
import sys
from pathlib import Path

import allennlp_ema  # noqa: F401
from tests.support.interruption import kill_at_file
from tests.support.training_runs import train_here

if __name__ == "__main__":
    for config, directory, *file in json.loads(Path(sys.argv[1]).read_text()):
        process = os.fork()
        if process == 0:
            os.setsid()
            kill_at_file(*file)
            train_here(config, Path(directory))
            os._exit(0)
        _, status = os.waitpid(process, 0)
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, (file, status)
