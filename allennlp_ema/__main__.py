"""
Turns the plug-in on and off for every `allennlp` command of the user who runs it:

    python -m allennlp_ema enable     adds it to ~/.allennlp/plugins, which AllenNLP reads
    python -m allennlp_ema disable    takes it out
    python -m allennlp_ema status     says whether it is in
"""

import os
import shutil
import sys
from pathlib import Path
from typing import List, Optional

from allennlp.common.plugins import GLOBAL_PLUGINS_FILENAME

PLUGIN = b"allennlp_ema"
USAGE = "python -m allennlp_ema enable|disable|status"


def enable(plugins: Path) -> str:
    """
    # Parameters

    plugins : `Path`
        A file that names one plug-in on each line. Its other lines stay as they are.

    # Returns

    outcome : `str`
        The present state, in words.
    """
    lines = _lines(plugins)
    if _is_enabled(lines):
        return f"allennlp_ema was enabled already in {plugins}"
    if lines and not lines[-1].endswith(b"\n"):
        lines[-1] += b"\n"
    _write(plugins, lines + [PLUGIN + b"\n"])
    return f"allennlp_ema is enabled: every allennlp command of yours loads it, by {plugins}"


def disable(plugins: Path) -> str:
    """
    The opposite of `enable`, with the same parameter and the same kind of result.
    """
    lines = _lines(plugins)
    if not _is_enabled(lines):
        return f"allennlp_ema was not enabled in {plugins}"
    _write(plugins, [line for line in lines if line.strip() != PLUGIN])
    return f"allennlp_ema is disabled: it is no longer in {plugins}"


def status(plugins: Path) -> str:
    """
    Changes nothing. It has the same parameter and the same kind of result as `enable`.
    """
    return f"allennlp_ema is {'' if _is_enabled(_lines(plugins)) else 'not '}enabled in {plugins}"


def _lines(plugins: Path) -> List[bytes]:
    return plugins.read_bytes().splitlines(keepends=True) if plugins.exists() else []


def _is_enabled(lines: List[bytes]) -> bool:
    return any(line.strip() == PLUGIN for line in lines)


def _write(plugins: Path, lines: List[bytes]) -> None:
    # The file may be a link into a directory of settings, and the link has to stay.
    plugins = plugins.resolve()
    plugins.parent.mkdir(parents=True, exist_ok=True)
    partial = plugins.with_name(f"{plugins.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(b"".join(lines))
        if plugins.exists():
            shutil.copymode(str(plugins), str(partial))
        os.replace(partial, plugins)
    finally:
        if partial.exists():
            partial.unlink()


def main(arguments: Optional[List[str]] = None) -> int:
    """
    # Parameters

    arguments : `List[str]`, optional (default = those of the command line)

    # Returns

    exit_status : `int`
        0 for success, 1 if the file cannot be read or written, 2 for wrong arguments.
    """
    if arguments is None:
        arguments = sys.argv[1:]
    commands = {"enable": enable, "disable": disable, "status": status}
    if arguments in (["-h"], ["--help"]):
        print(f"usage: {USAGE}\n{__doc__}", end="")
        return 0
    if len(arguments) != 1 or arguments[0] not in commands:
        given = " ".join(arguments) or "nothing"
        print(f"usage: {USAGE} (given: {given})", file=sys.stderr)
        return 2
    try:
        print(commands[arguments[0]](Path(GLOBAL_PLUGINS_FILENAME)))
    except OSError as error:
        print(f"allennlp_ema: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
