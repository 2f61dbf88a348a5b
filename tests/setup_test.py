import re
import shutil
import subprocess
import sys
import zipfile

import pytest

import allennlp_ema
from tests.support.training_runs import REPOSITORY


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    # Built from a copy, because setuptools writes into the source.
    source = tmp_path_factory.mktemp("source")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(str(REPOSITORY / name), str(source))
    shutil.copytree(str(REPOSITORY / "allennlp_ema"), str(source / "allennlp_ema"))
    subprocess.check_call(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
        + ["--wheel-dir", str(source), str(source)]
    )
    (path,) = source.glob("*.whl")
    with zipfile.ZipFile(path) as file:
        yield file


def test_the_wheel_holds_the_whole_package_and_nothing_beside_it(wheel):
    package = REPOSITORY / "allennlp_ema"
    modules = {str(path.relative_to(REPOSITORY)) for path in package.rglob("*.py")}
    contents = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert contents == modules | {"allennlp_ema/py.typed"}


def test_the_metadata_leave_allennlp_to_an_extra(wheel):
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    metadata = wheel.read(name).decode("utf-8")
    assert f"\nVersion: {allennlp_ema.__version__}\n" in metadata
    assert "\nRequires-Python: >=3.8\n" in metadata
    assert "\nProvides-Extra: allennlp\n" in metadata
    requirements = re.findall(r"^Requires-Dist: (.*)$", metadata, flags=re.MULTILINE)
    of_allennlp = [requirement for requirement in requirements if "allennlp" in requirement]
    assert of_allennlp and all("extra ==" in each for each in of_allennlp)
    assert any(requirement.startswith("torch") for requirement in requirements)
    # The first that draws a legend outside of the axes.
    assert "matplotlib>=3.7" in requirements


def test_the_description_has_no_link_that_leads_nowhere(wheel):
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    description = wheel.read(name).decode("utf-8").partition("\n\n")[2]
    assert "# allennlp_ema" in description and "- Tutorial:" in description
    targets = re.findall(r"\]\(([^)]*)\)", description)
    assert targets and all(target.startswith("https://") for target in targets)
