"""
The sources of the pages of the documentation, the README among them.
"""

import re
from pathlib import Path
from typing import Iterator, NamedTuple

from tests.support.training_runs import REPOSITORY

DOCS = REPOSITORY / "docs"
PAGES = [REPOSITORY / "README.md", *sorted(DOCS.rglob("*.md"))]


class Block(NamedTuple):
    """
    # Parameters

    language : `str`
        What stands behind the fence.
    title : `str`
        What `title="..."` says there, or nothing.
    text : `str`
    """

    language: str
    title: str
    text: str


def name_of(page: Path) -> str:
    """A page as it is called in the output of a test."""
    return page.relative_to(REPOSITORY).as_posix()


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in their order."""
    for fence in re.finditer(
        r'^```(\w+)(?: title="([^"]*)")?.*?\n(.*?)^```$', text_of(page), re.DOTALL | re.MULTILINE
    ):
        yield Block(fence[1], fence[2] or "", fence[3])
