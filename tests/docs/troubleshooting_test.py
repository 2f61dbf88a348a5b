"""
Each error and warning that the package can give is on the page that explains them.
"""

import ast
import re
from typing import Iterator, List, Tuple

from tests.support.documentation import DOCS, text_of
from tests.support.training_runs import REPOSITORY

GIVEN_BY = {
    *("ConfigurationError", "RuntimeError", "NotImplementedError", "ModuleNotFoundError"),
    *("ArgumentTypeError", "warning", "warn"),
}
A_VALUE = "\0"


def message(node: ast.expr) -> str:
    """The text of a message, with `A_VALUE` for whatever is known at run time alone."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.sub(r"%(\.\d+f|[a-z])", A_VALUE, node.value.replace("%%", "%"))
    if isinstance(node, ast.JoinedStr):
        return "".join(map(message, node.values))
    if isinstance(node, ast.BinOp):
        return message(node.left) + message(node.right)
    return A_VALUE


def messages() -> Iterator[Tuple[str, str]]:
    """The longest fixed part of each message, and where it is given."""
    for path in sorted((REPOSITORY / "allennlp_ema").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and node.args:
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                fixed: List[str] = message(node.args[0]).split(A_VALUE)
                longest = max((in_one_line(part).strip(' "%:;,.') for part in fixed), key=len)
                if name in GIVEN_BY and " " in longest:
                    yield longest, f"{path.name}:{node.lineno}"


def in_one_line(text: str) -> str:
    return " ".join(text.split())


def test_each_message_is_explained() -> None:
    page = in_one_line(text_of(DOCS / "troubleshooting.md"))
    # Its beginning is enough to find it by; how a long message goes on may be left out.
    missing = [f"{where}: {part}" for part, where in messages() if part[:40] not in page]
    assert not missing, "\n".join(missing)


def test_messages_are_found() -> None:
    found = dict(messages())
    assert len(found) > 100
    # One without values, and one with a value in its midst, of which the longer part counts.
    assert "a soup is of at least two models, but" in found
    assert "cannot be combined" in str(list(found))
