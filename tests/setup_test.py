import email
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


@pytest.fixture(scope="module")
def metadata(wheel):
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    return email.message_from_bytes(wheel.read(name))


def test_the_metadata_leave_allennlp_to_an_extra(metadata):
    assert metadata.get_all("Provides-Extra") == ["allennlp"]
    requirements = metadata.get_all("Requires-Dist")
    of_allennlp = [requirement for requirement in requirements if "allennlp" in requirement]
    assert of_allennlp and all("extra ==" in each for each in of_allennlp)
    assert any(requirement.startswith("torch") for requirement in requirements)
    # The first that draws a legend outside of the axes.
    assert "matplotlib>=3.7" in requirements


def test_the_metadata_say_who_and_for_which_python_and_promise_no_address(metadata):
    assert metadata["Author"] == "the allennlp_ema authors"
    assert metadata["License"] == "Apache-2.0"
    assert {"allennlp", "SWA"} <= set(metadata["Keywords"].split(","))
    assert not {"Home-page", "Project-URL", "Download-URL", "Author-email"} & set(metadata)
    minors = [
        int(python)
        for python in re.findall(
            r"Python :: 3\.(\d+)$", "\n".join(metadata.get_all("Classifier")), flags=re.MULTILINE
        )
    ]
    assert metadata["Requires-Python"] == f">=3.{minors[0]}"
    # Each has versions that were resolved for it, and its turn.
    locks = {path.name for path in (REPOSITORY / "requirements").glob("python*.txt")}
    assert {f"python3.{minor}.txt" for minor in minors} == locks
    assert make_variable("EVERYWHERE") == " ".join(f"3.{minor}" for minor in minors)


def test_the_version_is_the_same_wherever_it_stands(metadata):
    version = allennlp_ema.__version__
    assert metadata["Version"] == version
    citation = (REPOSITORY / "CITATION.cff").read_text(encoding="utf-8")
    changes = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    released, date = re.findall(r"^## \[(\d.*?)\] - (.*)$", changes, flags=re.MULTILINE)[0]
    assert released == version
    assert f'\nversion: {version}\ndate-released: "{date}"\n' in citation


def make_variable(name):
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    return re.search(rf"^{name} \?= (.*)$", makefile, flags=re.MULTILINE).group(1)


def test_the_description_has_no_link_that_leads_nowhere(wheel):
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    description = wheel.read(name).decode("utf-8").partition("\n\n")[2]
    assert "# allennlp_ema" in description and "- Tutorial:" in description
    targets = re.findall(r"\]\(([^)]*)\)", description)
    assert targets and all(target.startswith("https://") for target in targets)
