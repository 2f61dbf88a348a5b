import pytest

from tests.support.command_line import allennlp
from tests.support.training_runs import run_python


@pytest.mark.everywhere
def test_allennlp_itself_lists_the_command_and_that_its_own(capsys):
    assert "average" in allennlp(capsys, "--help").output
    for arguments in (["average", "--help"], ["average"]):
        finished = allennlp(capsys, *arguments)
        assert finished.status == 0
        for command in ("checkpoints", "soup", "synthesize", "sweep", "inspect"):
            assert f"    {command} " in finished.output or f"    {command}\n" in finished.output


@pytest.mark.parametrize("command", ["checkpoints", "soup", "synthesize", "sweep", "inspect"])
def test_every_command_explains_itself(command, capsys):
    finished = allennlp(capsys, "average", command, "--help")
    assert finished.status == 0
    assert f"usage: allennlp average {command} " in finished.output
    assert "--include-package" in finished.output


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["nonsense"], "argument COMMAND: invalid choice: 'nonsense'"),
        (["checkpoints"], "the following arguments are required: serialization_dir, -o/--output"),
        (["soup", "."], "the following arguments are required: -o/--output"),
        (["synthesize", "."], "the following arguments are required: --average, -o/--output"),
        (["sweep", "."], "the following arguments are required: DATA"),
        (["inspect"], "the following arguments are required: path"),
        (
            ["synthesize", ".", "-o", "out", "--average", "{'type': 'swa'}"],
            "argument --average: \"{'type': 'swa'}\" is not JSON",
        ),
        (["synthesize", ".", "-o", "out", "--average", "3"], "--average: '3' is not a JSON object"),
        (
            ["synthesize", ".", "-o", "out", "--average", '{"type": 7}'],
            '--average: "type" is 7, but has to be the name of an average',
        ),
        (
            ["synthesize", ".", "-o", "out", "--average", '{"include": ["encoder"]}'],
            "\"include\" is ['encoder'], but what is averaged is what the snapshots hold",
        ),
        (
            ["checkpoints", ".", "-o", "out", "--last", "2", "--epochs", "1"],
            "argument --epochs: not allowed with argument --last",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_wrong_usage_gets_the_usage_and_one_line(arguments, message, capsys):
    finished = allennlp(capsys, "average", *arguments)
    assert finished.status == 2
    assert finished.errors.startswith("usage: allennlp average")
    assert message in finished.error


def test_from_a_terminal_what_is_wrong_is_one_line_without_a_traceback(tmp_path):
    finished = run_python(
        "-m",
        "allennlp",
        "average",
        "checkpoints",
        "missing",
        "-o",
        str(tmp_path / "out.tar.gz"),
        environment={"ALLENNLP_LOG_LEVEL": "WARNING", "PYTHONWARNINGS": "ignore"},
        expected_returncode=1,
    )
    assert finished.output == (
        "allennlp average checkpoints: error: missing is not the serialization directory of a "
        "training: there is no missing/config.json\n"
    )
