"""
Resolves the requirements of the interpreter that runs it and keeps the exact versions, without
installing anything: `make lock PYTHON=python3.N` writes `requirements/python3.N.txt`.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
ALLENNLP_PINS_END_AT = (3, 10)

# torch pins these exactly in its own metadata, and which of them it wants depends on the platform.
TORCHS_OWN = re.compile(r"(nvidia|cuda|triton)\b")

HEADER = """\
# Every package that `make install` puts beside Python {version}, at its exact version. Written by
# `make lock` from {source}; not to be edited by hand.
"""


def resolve(source: Path) -> list:
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.json"
        subprocess.check_call(
            [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
            + ["--report", str(report), "-r", str(source)]
        )
        packages = json.loads(report.read_text(encoding="utf-8"))["install"]
    pins = []
    for package in packages:
        name = re.sub(r"[-_.]+", "-", package["metadata"]["name"]).lower()
        # A local version ("+cpu") exists only where that build of the package does.
        version = package["metadata"]["version"].partition("+")[0]
        if not TORCHS_OWN.match(name):
            pins.append(f"{name}=={version}\n")
    return sorted(pins)


def main() -> None:
    version = "{}.{}".format(*sys.version_info)
    pinned = sys.version_info[:2] <= ALLENNLP_PINS_END_AT
    source = HERE / ("allennlp_pins.in" if pinned else "without_allennlp_pins.in")
    lock = HERE / f"python{version}.txt"
    pins = resolve(source)
    whole = lock.with_suffix(".partial")
    whole.write_text(
        HEADER.format(version=version, source=source.name) + "".join(pins), encoding="utf-8"
    )
    os.replace(whole, lock)
    print(f"{lock}: {len(pins)} packages")


if __name__ == "__main__":
    main()
