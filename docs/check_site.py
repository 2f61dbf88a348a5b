"""
Checks what `make docs` has built: it asks nothing of a network, and docstrings came out as tables.

    python docs/check_site.py build/docs
"""

import re
import sys
from pathlib import Path
from typing import Iterator

LOADED = re.compile(
    r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']?(?:https?:)?//[^>]*>"
    r"|<link\b[^>]*\bhref=[\"']?(?:https?:)?//[^>]*>"
    r"|@import\s+(?:url\()?[\"']?(?:https?:)?//[^;]*|url\([\"']?(?:https?:)?//[^)]*\)"
)
UNREAD = re.compile(r"<h\d[^>]*>(?:Parameters|Returns|Raises)\b")


def problems(site: Path) -> Iterator[str]:
    for path in sorted([*site.rglob("*.html"), *site.rglob("*.css")]):
        text = path.read_text(encoding="utf-8")
        for found in LOADED.finditer(text):
            yield f"{path}: {found[0]} comes from a network"
        if UNREAD.search(text):
            yield f"{path}: a section of a docstring is no table"
    tables = (site / "reference" / "averages.html").read_text(encoding="utf-8").count("<table")
    if tables < 10:
        yield f"{site}: the reference has {tables} tables"


if __name__ == "__main__":
    sys.exit("\n".join(problems(Path(sys.argv[1]))) or None)
