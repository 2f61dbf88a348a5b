import os

import pytest

from allennlp_ema import __main__ as plugin
from tests.support.training_runs import run_python


@pytest.fixture
def plugins(tmp_path, monkeypatch):
    path = tmp_path / "home" / ".allennlp" / "plugins"
    monkeypatch.setattr(plugin, "GLOBAL_PLUGINS_FILENAME", str(path))
    return path


def run(capsys, *arguments):
    """The exit status, and the one line on stdout or stderr."""
    returncode = plugin.main(list(arguments))
    captured = capsys.readouterr()
    lines = captured.out.splitlines() + captured.err.splitlines()
    assert len(lines) == 1, lines
    return returncode, lines[0]


@pytest.mark.everywhere
def test_allennlp_itself_loads_it_from_the_home_directory(tmp_path):
    home = {"HOME": str(tmp_path), "PYTHONWARNINGS": "ignore"}
    run_python("-m", "allennlp_ema", "enable", environment=home)
    discover = "from allennlp.common.plugins import discover_plugins; print(*discover_plugins())"
    discovered = run_python("-c", discover, cwd=tmp_path, environment=home)
    assert discovered.output.split() == ["allennlp_ema"]


def test_each_command_says_what_is_the_case_and_a_second_time_changes_nothing(plugins, capsys):
    assert run(capsys, "status") == (0, f"allennlp_ema is not enabled in {plugins}")
    assert not plugins.parent.exists()

    returncode, line = run(capsys, "enable")
    assert returncode == 0 and "is enabled" in line and str(plugins) in line
    assert plugins.read_text() == "allennlp_ema\n"
    assert run(capsys, "enable") == (0, f"allennlp_ema was enabled already in {plugins}")
    assert plugins.read_text() == "allennlp_ema\n"
    assert run(capsys, "status") == (0, f"allennlp_ema is enabled in {plugins}")

    returncode, line = run(capsys, "disable")
    assert returncode == 0 and "is disabled" in line and str(plugins) in line
    assert plugins.read_text() == ""
    assert run(capsys, "disable") == (0, f"allennlp_ema was not enabled in {plugins}")


@pytest.mark.parametrize(
    "others, enabled",
    [
        (b"one\n\n  two \n", b"one\n\n  two \nallennlp_ema\n"),
        (b"one\r\n", b"one\r\nallennlp_ema\n"),
        (b"no_newline_at_the_end", b"no_newline_at_the_end\nallennlp_ema\n"),
        (b"caf\xe9\nallennlp_ema_of_mine\n", b"caf\xe9\nallennlp_ema_of_mine\nallennlp_ema\n"),
    ],
)
def test_what_else_is_in_the_file_stays_byte_for_byte(plugins, capsys, others, enabled):
    plugins.parent.mkdir(parents=True)
    plugins.write_bytes(others)
    run(capsys, "enable")
    assert plugins.read_bytes() == enabled
    run(capsys, "disable")
    assert plugins.read_bytes() == enabled[: -len(b"allennlp_ema\n")]


def test_disable_finds_every_line_that_allennlp_would_read(plugins, capsys):
    plugins.parent.mkdir(parents=True)
    plugins.write_bytes(b"  allennlp_ema\t\r\none\nallennlp_ema")
    assert run(capsys, "status")[1] == f"allennlp_ema is enabled in {plugins}"
    run(capsys, "disable")
    assert plugins.read_bytes() == b"one\n"


def test_a_link_stays_a_link_and_the_mode_stays_as_it_was(plugins, capsys, tmp_path):
    settings = tmp_path / "settings"
    settings.write_text("one\n")
    settings.chmod(0o640)
    plugins.parent.mkdir(parents=True)
    plugins.symlink_to(settings)
    run(capsys, "enable")
    assert plugins.is_symlink()
    assert settings.read_text() == "one\nallennlp_ema\n"
    assert settings.stat().st_mode & 0o777 == 0o640


def test_a_failed_write_leaves_the_file_as_it_was_and_nothing_beside_it(
    plugins, capsys, monkeypatch
):
    plugins.parent.mkdir(parents=True)
    plugins.write_text("one\n")

    def no_space(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "replace", no_space)
    assert run(capsys, "enable") == (1, "allennlp_ema: No space left on device")
    assert plugins.read_text() == "one\n"
    assert list(plugins.parent.iterdir()) == [plugins]


@pytest.mark.parametrize("arguments", [[], ["enabel"], ["enable", "disable"], ["--enable"]])
def test_wrong_usage_gets_one_line_that_shows_the_right_one(plugins, capsys, arguments):
    returncode, line = run(capsys, *arguments)
    assert returncode == 2
    assert "python -m allennlp_ema enable|disable|status" in line
    assert " ".join(arguments) in line
    assert not plugins.exists()
