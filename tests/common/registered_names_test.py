import subprocess
import sys
from typing import Any, Dict, List, Optional, Tuple, Union

import pytest
from allennlp.common import FromParams, Lazy, Registrable
from allennlp.common.checks import ConfigurationError

from allennlp_ema.common.registered_names import check_names

pytestmark = pytest.mark.everywhere


class Shape(Registrable):
    default_implementation = "circle"


class Colour(Registrable):
    pass


@Colour.register("red")
class Red(Colour):
    pass


@Shape.register("circle")
class Circle(Shape):
    def __init__(self, radius: Union[float, Colour] = 1.0, anything: Any = None) -> None:
        pass


class Plain(FromParams):
    def __init__(self, colour: Colour) -> None:
        pass


@Shape.register("group")
@Shape.register("group_of", constructor="of")
class Group(Shape):
    def __init__(
        self,
        shapes: Optional[List[Shape]] = None,
        named: Optional[Dict[str, Lazy[Shape]]] = None,
        pairs: Optional[List[Tuple[str, Colour]]] = None,
        plain: Optional[Plain] = None,
    ) -> None:
        pass

    @classmethod
    def of(cls, colour: Colour) -> "Group":
        return cls()


HERE = __name__
POPEN = {"type": "subprocess.Popen", "args": ["touch", "executed"]}


@pytest.mark.parametrize(
    "given",
    [
        {},
        "circle",
        {"type": "group", "shapes": ["circle", {"type": "circle"}, {}]},
        {"type": "group", "named": {"a": {"radius": 3.0}, "b": "circle"}},
        {"type": "group", "pairs": [["subprocess.Popen", "red"]]},
        {"type": "group_of", "colour": "red"},
        {"type": f"{HERE}.Group", "plain": {"colour": f"{HERE}.Red"}},
        {"radius": {"type": "red"}, "anything": POPEN},
        # Left to AllenNLP, which has no such name.
        {"type": "nothing", "shapes": [POPEN]},
        {"radius": "nothing"},
        5,
    ],
    ids=str,
)
def test_what_is_registered_or_loaded_may_be_called(given):
    check_names(Shape, given)


@pytest.mark.parametrize(
    "given",
    [
        POPEN,
        "subprocess.Popen",
        {"radius": POPEN},
        {"radius": "subprocess.Popen"},
        {"type": "group", "shapes": [{}, POPEN]},
        {"type": "group", "shapes": [{"type": "group", "shapes": ["subprocess.Popen"]}]},
        {"type": "group", "named": {"a": POPEN}},
        {"type": "group", "named": {"a": "subprocess.Popen"}},
        {"type": "group", "pairs": [["a", POPEN]]},
        {"type": "group", "plain": {"colour": POPEN}},
        {"type": "group_of", "colour": POPEN},
        {"type": f"{HERE}.Circle", "radius": POPEN},
        # Of another kind, no class, and a constructor that is not registered.
        {"type": f"{HERE}.Red"},
        {"radius": {"type": f"{HERE}.Circle"}},
        {"type": f"{HERE}.POPEN"},
        {"type": f"{HERE}.Group.of"},
        {"type": f"{HERE}.nothing"},
        {"type": "."},
        {"type": ".Circle"},
        {"type": None},
        {"type": ["a.b"]},
        {"type": 5},
        {"radius": {"type": {}}},
        {"radius": {"_pretrained": {"archive_file": "a", "module_path": "b"}}},
    ],
    ids=str,
)
def test_anything_else_is_refused_before_it_is_called(given, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **kwargs: pytest.fail("called"))
    with pytest.raises(ConfigurationError):
        check_names(Shape, given)


def test_nothing_is_imported_and_the_message_says_how_to_load_it():
    assert "antigravity" not in sys.modules
    with pytest.raises(ConfigurationError, match="--include-package antigravity"):
        check_names(Shape, {"type": "antigravity.Circle"})
    assert "antigravity" not in sys.modules
