"""
The rooms of the package: what may import what, and what stays at home.
"""

import ast
from pathlib import Path
from typing import Dict, Iterator, List, Set, Tuple

import pytest

import allennlp_ema

PACKAGE = Path(allennlp_ema.__file__).parent

# Each room may import from those before it, and from itself.
ROOMS = [
    "common",
    "weighting",
    "shadow_weights",
    "averages",
    "training",
    "after_training",
    "commands",
]
FILES = sorted(path for path in PACKAGE.rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


TREES = {module_name(path): ast.parse(path.read_text(encoding="utf-8")) for path in FILES}


def imports(tree: ast.AST) -> Iterator[Tuple[str, str]]:
    """The modules of this package that are imported, and the names from them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("allennlp_ema"):
            for name in node.names:
                yield str(node.module), name.name


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def test_arrows_point_down() -> None:
    for module, tree in TREES.items():
        if room(module) in ("", "__main__"):
            continue
        for target, _ in imports(tree):
            assert room(target) in ROOMS, f"{module} imports {target}, which is in no room"
            assert ROOMS.index(room(target)) <= ROOMS.index(room(module)), (module, target)


def test_no_module_imports_itself_in_a_circle() -> None:
    arrows: Dict[str, List[str]] = {}
    for module, tree in TREES.items():
        arrows[module] = [
            f"{target}.{name}" if f"{target}.{name}" in TREES else target
            for target, name in imports(tree)
        ]
    done: Set[str] = set()

    def visit(module: str, path: List[str]) -> None:
        assert module not in path, " -> ".join([*path, module])
        if module not in done:
            for target in arrows.get(module, []):
                if target != "allennlp_ema":
                    visit(target, [*path, module])
            done.add(module)

    for module in TREES:
        visit(module, [])


@pytest.mark.parametrize("folder", [PACKAGE, *(PACKAGE.parent / n for n in ("experiments",))])
def test_nobody_takes_what_another_module_keeps_for_itself(folder: Path) -> None:
    for path in folder.rglob("*.py"):
        for module, name in imports(ast.parse(path.read_text(encoding="utf-8"))):
            assert not name.startswith("_"), f"{path} takes {name} from {module}"


def test_numbers_and_configuration_know_no_tensors() -> None:
    for module, tree in TREES.items():
        if room(module) == "weighting":
            for node in ast.walk(tree):
                names = [a.name for a in getattr(node, "names", [])] + [
                    getattr(node, "module", "") or ""
                ]
                assert "torch" not in [str(name).split(".")[0] for name in names], module


def test_files_and_functions_can_be_read_at_once() -> None:
    too_long = []
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        if text.count("\n") > 350:
            too_long.append(f"{path.name}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                assert node.end_lineno is not None
                # What a function does, without what it says of itself.
                start = node.body[1 if ast.get_docstring(node) and node.body[1:] else 0].lineno
                if node.end_lineno - start + 1 > 50:
                    too_long.append(f"{path.name}: {node.name} has {node.end_lineno - start + 1}")
    assert not too_long


def test_each_file_says_what_it_is() -> None:
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        if text.strip():
            assert ast.get_docstring(ast.parse(text)), f"{path} has no docstring"
