"""
What the pages point to is there: other pages and their sections, pictures, files and make targets.
"""

import re
from pathlib import Path
from typing import List, Tuple

import pytest

from tests.support.documentation import DOCS, PAGES, name_of, text_of
from tests.support.training_runs import REPOSITORY

MEASURED = [REPOSITORY / folder / "README.md" for folder in ("benchmarks", "experiments")]
FOLDERS = "allennlp_ema|benchmarks|docs|experiments|fixtures|requirements|tests|training_configs"


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", text_of(page), flags=re.DOTALL | re.MULTILINE)


def links(page: Path) -> List[str]:
    return re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`]*`", "", prose(page)))


def anchors(page: Path) -> List[str]:
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    plain = [re.sub(r"[^\w\s-]", "", heading).strip().lower() for heading in headings]
    return [re.sub(r"[-\s]+", "-", heading) for heading in plain]


@pytest.mark.parametrize("page", [*PAGES, *MEASURED], ids=name_of)
def test_no_link_is_broken(page: Path) -> None:
    for link in links(page):
        target, _, anchor = link.partition("#")
        if not target.startswith(("http://", "https://")):
            path = (page.parent / target).resolve() if target else page
            assert path.is_file(), f"{name_of(page)}: {link}"
            assert not anchor or anchor in anchors(path), f"{name_of(page)}: {link}"


def test_every_page_can_be_reached_from_the_first() -> None:
    reached = {DOCS / "index.md"}
    while True:
        found = {
            (page.parent / link.partition("#")[0]).resolve()
            for page in reached
            for link in links(page)
        }
        found = {page for page in found if page in PAGES} - reached
        if not found:
            break
        reached |= found
    # What is for those who work on this package has its place in the navigation alone.
    assert {name_of(page) for page in PAGES if DOCS in page.parents and page not in reached} <= {
        "docs/releasing.md",
        "docs/several_devices_sizes.md",
        "docs/reference/schedules.md",
        "docs/reference/trainer.md",
    }


def named(page: Path) -> List[Tuple[str, str]]:
    return re.findall(rf"(?<![\w/.-])(({FOLDERS})/[\w./-]*\w)", text_of(page))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_and_targets_that_are_named_are_there(page: Path) -> None:
    for path, _ in named(page):
        assert (REPOSITORY / path).exists(), f"{name_of(page)}: {path}"
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(
        r"`make ([\w-]+)|^ {4}(?:\w+=\S+ )?make ([\w-]+)", text_of(page), re.MULTILINE
    )
    for target in filter(None, (name for pair in targets for name in pair)):
        assert f"\n{target}:" in makefile, f"{name_of(page)}: make {target}"
