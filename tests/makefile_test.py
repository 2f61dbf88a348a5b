"""
What the Makefile's targets take from the environment, and what they leave out of their output.
"""

import os
import subprocess

from tests.support.training_runs import REPOSITORY, run_python

# Each message once from the module that `make train` hears it from, and once from another.
WARN = """
import warnings
for number, (message, category, module) in enumerate([
    ("Failed to load image Python extension: image.so", UserWarning, "torchvision.io.image"),
    ("User provided device_type of 'cuda', but", UserWarning, "torch.amp.autocast_mode"),
    *(
        (message, FutureWarning, "google.api_core._python_version_support")
        for message in (
            "You are using a non-supported Python version (3.10.13).",
            "You are using a Python version (3.10.13) which Google will stop",
        )
    ),
]):
    warnings.warn_explicit(f"{message} [heard]", category, "x.py", number, module=module)
    warnings.warn_explicit(f"{message} [other]", category, "y.py", number, module="my.module")
    warnings.warn_explicit("of its own", category, "z.py", number, module=module)
"""


def echoed(words: str, **environment: str) -> str:
    """What a target of the Makefile prints whose recipe echoes `words`."""
    # The make that runs the tests hands its flags down, and "-w" prints folders.
    outside = {name: v for name, v in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(
        ["make", "--silent", "-f", "-", "echoed"],
        input=f'include Makefile\nechoed: ; @echo "{words}"\n',
        env={**outside, **environment},
        cwd=str(REPOSITORY),
        stdout=subprocess.PIPE,
        check=True,
        text=True,
        timeout=60,
    ).stdout.strip()


def shown(python_warnings: str) -> str:
    filters = echoed("$(NOT_FOR_USERS),$(PYTHONWARNINGS)", PYTHONWARNINGS=python_warnings)
    return run_python("-c", WARN, environment={"PYTHONWARNINGS": filters}).output


def test_warnings_are_left_out_by_message_and_module() -> None:
    output = shown("")
    assert output.count("[heard]") == 0
    assert output.count("[other]") == output.count("of its own") == 4
    assert "Invalid -W option" not in output


def test_what_a_user_asks_for_goes_before() -> None:
    assert shown("default").count("[heard]") == 4


def test_bytecode_is_kept_whatever_the_environment_says() -> None:
    assert echoed("<$$PYTHONDONTWRITEBYTECODE>", PYTHONDONTWRITEBYTECODE="1") == "<>"
