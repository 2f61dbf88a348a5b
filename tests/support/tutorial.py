"""
Runs the tutorial of the documentation from top to bottom. This makes its pictures again:

    python -m tests.support.tutorial
"""

import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List

from tests.support.documentation import DOCS, blocks, text_of
from tests.support.training_runs import REPOSITORY, run_command

TUTORIAL = DOCS / "tutorial.md"


def run_tutorial(directory: Path) -> Dict[str, Any]:
    """
    Writes the files of the page to `directory`, runs its commands there, and its Python in this
    process, whose working directory has to be there already.

    # Returns

    names : `Dict[str, Any]`
        What its Python has made.
    """
    names: Dict[str, Any] = {"__name__": "tutorial"}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for block in blocks(TUTORIAL):
        if block.title:
            (directory / block.title).write_text(block.text, encoding="utf-8")
        elif block.language == "bash":
            command = ["bash", "-e", "-c", block.text]
            finished = run_command(command, directory, {"PATH": path}, expected_returncode=None)
            assert finished.returncode == 0, block.text + finished.output[-5000:]
        elif block.language == "python":
            exec(compile(block.text, TUTORIAL.name, "exec"), names)
    return names


def pictures() -> List[Path]:
    """The files of the pictures on the page."""
    return [DOCS / found for found in re.findall(r"!\[[^]]*\]\(([^)]*)\)", text_of(TUTORIAL))]


def picture_in(directory: Path, picture: Path) -> Path:
    """Where the tutorial has made a picture of the page."""
    (found,) = directory.rglob(picture.name)
    return found


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        run_tutorial(Path(directory))
        for picture in pictures():
            picture.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(str(picture_in(Path(directory), picture)), str(picture))
            print(picture.relative_to(REPOSITORY))
        os.chdir(str(REPOSITORY))


if __name__ == "__main__":
    main()
