"""
The tutorial, from top to bottom.
"""

from pathlib import Path

import pytest

from tests.support.tutorial import picture_in, pictures, run_tutorial


def test_the_tutorial_runs_and_makes_its_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = run_tutorial(tmp_path)
    # The page says so, and its pictures show it.
    assert names["averaged"] > names["raw"] + 0.005
    assert len(pictures()) == 3
    for picture in pictures():
        assert picture_in(tmp_path, picture).read_bytes().startswith(b"\x89PNG")
