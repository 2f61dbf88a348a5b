"""
What `make train` leaves out of its output: warnings that nobody who trains can act on.
"""

import os
import subprocess

from tests.support.training_runs import REPOSITORY, run_python

ECHO = 'include Makefile\nnot_for_users: ; @echo "$(NOT_FOR_USERS),$(PYTHONWARNINGS)"\n'

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


def shown(python_warnings: str) -> str:
    # `make test-pinned` hands down its flags to this make, and its "-w" prints folders.
    environment = {name: v for name, v in os.environ.items() if not name.startswith("MAKE")}
    echo = subprocess.run(
        ["make", "--silent", "-f", "-", "not_for_users"],
        input=ECHO,
        env={**environment, "PYTHONWARNINGS": python_warnings},
        cwd=str(REPOSITORY),
        stdout=subprocess.PIPE,
        check=True,
        text=True,
        timeout=60,
    )
    return run_python("-c", WARN, environment={"PYTHONWARNINGS": echo.stdout.strip()}).output


def test_warnings_are_left_out_by_message_and_module() -> None:
    output = shown("")
    assert output.count("[heard]") == 0
    assert output.count("[other]") == output.count("of its own") == 4
    assert "Invalid -W option" not in output


def test_what_a_user_asks_for_goes_before() -> None:
    assert shown("default").count("[heard]") == 4
