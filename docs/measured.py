"""
Takes the pages of `experiments` and `benchmarks` into the documentation, from where they are.
"""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

REPOSITORY = Path(__file__).parent.parent
FOLDERS = ("benchmarks", "experiments")


def on_files(files: Any, config: Any) -> None:
    for folder in FOLDERS:
        for path in [REPOSITORY / folder / "README.md", *(REPOSITORY / folder).rglob("*.png")]:
            name = path.relative_to(REPOSITORY).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(path)))


def on_page_markdown(markdown: str, **_: Any) -> str:
    # The sources, too, lead to where these pages are.
    return re.sub(rf"\]\(\.\./({'|'.join(FOLDERS)})/", r"](\1/", markdown)
