"""
The reference has every public name, every registered type, and every option of the commands.
"""

import argparse
import re
from typing import Any, Dict, Set

import pytest
from allennlp.commands.subcommand import Subcommand
from allennlp.common import Registrable

import allennlp_ema
from tests.support.documentation import DOCS, text_of

PAGES = sorted((DOCS / "reference").glob("*.md"))
DOCUMENTED = {name for page in PAGES for name in re.findall(r"^::: (\S+)$", text_of(page), re.M)}
COMMANDS = text_of(DOCS / "reference" / "commands.md")


def named(path: str) -> Any:
    found: Any = allennlp_ema
    for part in path.split(".")[1:]:
        found = getattr(found, part)
    return found


def test_every_public_name_is_documented() -> None:
    assert {f"allennlp_ema.{name}" for name in allennlp_ema.__all__} <= DOCUMENTED


def test_what_is_documented_is_there() -> None:
    assert all(named(path).__doc__ for path in DOCUMENTED)


def test_every_registered_type_is_documented_by_its_name() -> None:
    documented = [named(path) for path in DOCUMENTED]
    names: Set[str] = set()
    for registry in Registrable._registry.values():
        for name, (cls, _) in registry.items():
            if cls.__module__.startswith("allennlp_ema."):
                assert cls in documented, name
                assert f'"{name}"' in (cls.__doc__ or ""), name
                names.add(name)
    assert {"exponential", "lawa", "half_life", "moving_average_monitor", "swapping"} <= names


def commands() -> Dict[str, argparse.ArgumentParser]:
    parser = argparse.ArgumentParser()
    average: Any = Subcommand.by_name("average")()
    within = average.add_subparser(parser.add_subparsers())
    (choices,) = (each.choices for each in within._actions if isinstance(each.choices, dict))
    return choices


@pytest.mark.parametrize("name", commands())
def test_every_option_of_a_command_is_documented_in_its_section(name: str) -> None:
    of_several = COMMANDS.partition("## Options of several commands")[2].partition("\n## ")[0]
    section = COMMANDS.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
    options = {each for action in commands()[name]._actions for each in action.option_strings}
    documented = set(re.findall(r"(?<![\w-])--?[a-z][\w-]*", section + of_several))
    assert options - {"-h", "--help"} <= documented
    # And nothing that is not, except what other commands have.
    assert set(re.findall(r"^\| `(--[\w-]+)", section, re.M)) <= options
