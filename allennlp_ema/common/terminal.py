"""
Output for people on the terminal: progress bars and tables.
"""

import sys
from typing import Any, Iterable, Sequence

from allennlp.common import Tqdm
from rich.console import Console
from rich.table import Table

# The width of a table in a file, which is large enough that nothing is cut off.
_WIDTH_OF_FILES = 240


def progress(*arguments: Any, **keywords: Any) -> Any:
    """AllenNLP's progress bar, which appears only after one second."""
    return Tqdm.tqdm(*arguments, **{"delay": 1.0, **keywords})


def print_table(headers: Sequence[str], rows: Iterable[Sequence[str]], title: str = "") -> None:
    """
    # Parameters

    headers : `Sequence[str]`
    rows : `Iterable[Sequence[str]]`
        Each row has as many cells as there are headers.
    title : `str`, optional (default = `""`)
    """
    table = Table(title=title or None)
    for header in headers:
        table.add_column(header)
    for row in rows:
        table.add_row(*row)
    width = None if sys.stdout.isatty() else _WIDTH_OF_FILES
    Console(width=width, markup=False, highlight=False).print(table)


def in_bytes(num_bytes: int) -> str:
    """`num_bytes` in a unit that people can read."""
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if num_bytes >= size:
            return f"{num_bytes / size:.1f} {unit}"
    return f"{num_bytes} bytes"
