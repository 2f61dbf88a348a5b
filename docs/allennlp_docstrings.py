"""
Reads docstrings in AllenNLP's form, whose sections are headings of Markdown, as numpy's.
"""

import re
from typing import Any

from griffe import Extension

HEADING = re.compile(r"^# (Parameters|Returns|Raises)$", re.MULTILINE)
# "name : `type`, optional (default = `value`)"
PARAMETER = re.compile(
    r"^([\w*]+) : `(.*?)`(?:, optional)?(?: \(default = `?(.*?)`?\))?$", re.MULTILINE
)
# "`type` : when", or "`type`" with what it is in the next lines
TYPE_ALONE = re.compile(r"^`(\w+)`(?: : (.*))?$", re.MULTILINE)


def numpys(docstring: str) -> str:
    """The same docstring in numpy's form."""
    before, *sections = HEADING.split(docstring)
    text = before.replace("```python\n>>>", "```pycon\n>>>")
    for heading, section in zip(sections[::2], sections[1::2]):
        section = PARAMETER.sub(_parameter, section)
        if heading == "Raises":
            # What is not about an exception goes on about the one before, or about all of them.
            section = re.sub(r"^(?=[^`\s])", "    ", section, flags=re.MULTILINE)
        section = TYPE_ALONE.sub(lambda found: f"{found[1]}\n    {found[2] or ''}", section)
        text += f"{heading}\n{'-' * len(heading)}\n{section.strip()}\n\n"
    return text


def _parameter(found: Any) -> str:
    return f"{found[1]} : {found[2]}" + (f", default: {found[3]}" if found[3] else "")


class AllenNLPDocstrings(Extension):
    def on_object(self, *, obj: Any, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = numpys(obj.docstring.value)
