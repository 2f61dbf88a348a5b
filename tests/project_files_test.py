"""
What the files for contributors say to run is there to be run.
"""

import re
from pathlib import Path
from typing import Any, Iterator, Set

import pytest
import yaml

REPOSITORY = Path(__file__).parent.parent


def targets() -> Set[str]:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    lines = re.findall(r"^\.PHONY: (.*)$", makefile, flags=re.MULTILINE)
    return {target for line in lines for target in line.split()}


def named_in(text: str) -> Set[str]:
    """The targets that follow `make`, its options and variables aside."""
    return set(re.findall(r"\bmake (?:--?\S+ )*([a-z][a-z-]*)\b(?!=)", text))


def commands(workflow: Any) -> Iterator[str]:
    for job in workflow["jobs"].values():
        matrix = job.get("strategy", {}).get("matrix", {})
        for step in job["steps"]:
            run = step.get("run", "")
            values = matrix.get("target", [None]) if "matrix.target" in run else [None]
            for value in values:
                yield run.replace("${{ matrix.target }}", str(value))


def test_the_workflow_makes_what_the_makefile_has() -> None:
    text = (REPOSITORY / ".github" / "workflows" / "checks.yml").read_text(encoding="utf-8")
    workflow = yaml.safe_load(text)
    run = list(commands(workflow))
    made = {target for command in run for target in named_in(command)}
    assert {"test", "lint", "docs", "dist"} <= made <= targets()
    # Nothing but make: what is checked there can be checked anywhere.
    assert all(command.startswith("make ") for command in run if command)


def test_the_workflow_has_each_python() -> None:
    text = (REPOSITORY / ".github" / "workflows" / "checks.yml").read_text(encoding="utf-8")
    pythons = yaml.safe_load(text)["jobs"]["test"]["strategy"]["matrix"]["python"]
    locks = (REPOSITORY / "requirements").glob("python*.txt")
    assert {f"python{python}.txt" for python in pythons} == {lock.name for lock in locks}


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "docs/releasing.md", ".ci/run", "Makefile"])
def test_each_target_that_is_named_is_there(name: str) -> None:
    text = (REPOSITORY / name).read_text(encoding="utf-8")
    if name != ".ci/run":
        # Commands, and no sentences.
        text = "\n".join(re.findall(r"`[^`]+`|^(?:#? {3,}).*$", text, flags=re.MULTILINE))
    named = named_in(text)
    assert named and named <= targets()


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "docs/releasing.md"])
def test_each_file_that_is_named_is_there(name: str) -> None:
    text = (REPOSITORY / name).read_text(encoding="utf-8")
    for path in re.findall(r"`([\w.]+(?:/[\w.]*)+)`", text):
        assert "NAME" in path or (REPOSITORY / path).exists(), path


def test_the_issue_templates_have_what_the_form_needs() -> None:
    templates = sorted((REPOSITORY / ".github" / "ISSUE_TEMPLATE").glob("*.md"))
    assert templates
    for template in templates:
        _, head, _ = template.read_text(encoding="utf-8").split("---\n", 2)
        assert {"name", "about"} <= set(yaml.safe_load(head))
