import json
from pathlib import Path
from typing import Any, List

import pytest

from tests.commands.inspect_test import cells
from tests.support.command_line import Finished, allennlp

DECAY = '{"type": "exponential", "decay": 0.9}'


def show(capsys, *arguments: Any) -> Finished:
    return allennlp(capsys, "average", "show", *arguments)


def rows(capsys, *arguments: Any) -> List[List[str]]:
    finished = show(capsys, *arguments)
    assert finished.status == 0, finished.errors
    return cells(finished.output)


@pytest.fixture
def config(tmp_path) -> Path:
    path = tmp_path / "experiment.jsonnet"
    path.write_text(
        """
        local size = 4;
        {trainer: {moving_average: {
            type: "bank",
            active: "mean",
            start_step: {epochs: 3},
            averages: {
                mean: {type: "uniform"},
                inner: {type: "bank", active: "last", averages: {
                    last: {type: "window", window_size: size, start_step: 0},
                }},
            },
        }}}
        """
    )
    return path


@pytest.mark.everywhere
def test_the_table(capsys):
    # In force from where (1 + n) / (10 + n) is 0.9.
    found = rows(capsys, DECAY, '{"type": "uniform", "start_step": 7}', "--num-updates", "1000")
    assert found == [
        [DECAY, "19.0 updates", "0.00%", "100.00%", "9.0 updates", "from 80 on"]
        + ["over the last 43 updates"],
        ['{"type": "uniform", "start_step": 7}', "994.0 updates", "0.00%", "10.06%"]
        + ["496.5 updates", "", "over the last 984 updates"],
    ]
    ((_, window, initial, _, _, decay, _),) = rows(capsys, DECAY, "--num-updates", "10")
    assert (initial, decay) == ("0.01%", "not yet")
    late = '{"type": "exponential", "decay": 0.9, "start_step": 50}'
    assert rows(capsys, late, "--num-updates", "1000")[0][5] == "from 130 on"
    assert rows(capsys, late, "--num-updates", "40")[0][5] == ""


def test_each_of_a_bank_that_a_configuration_declares(config, capsys):
    finished = rows(capsys, config, "--num-updates", "100", "--num-updates-per-epoch", "20")
    assert [row[:2] for row in finished] == [
        ['inner.last: {"type": "window", "window_size": 4}', "4.0 updates"],
        ['mean: {"type": "uniform", "start_step": 60}', "41.0 updates"],
    ]


def test_the_average_of_an_optimizer_by_its_decay_alone(capsys, tmp_path):
    optimizer = {"type": "moving_average", "optimizer": "adam", "average_decay": 0.9}
    path = tmp_path / "experiment.json"
    path.write_text(json.dumps({"trainer": {"optimizer": optimizer}}))
    ((words, window, *_),) = rows(capsys, path, "--num-updates", "1000")
    constant = {"type": "constant", "decay": 0.9}
    assert json.loads(words) == {"type": "exponential", "decay": constant}
    assert window == "19.0 updates"
    optimizer["average_decay"] = "0.9"
    path.write_text(json.dumps({"trainer": {"optimizer": optimizer}}))
    assert show(capsys, path, "--num-updates", "1000").error.endswith(
        f'{path}: "optimizer": "average_decay" is \'0.9\', but has to be a finite number or null'
    )


def test_durations_are_those_of_a_training_of_this_length(capsys):
    half = '{"type": "uniform", "start_step": {"fraction": 0.5}, "update_every": {"epochs": 0.1}}'
    ((words, *_),) = rows(capsys, half, "--num-updates", "150", "--num-updates-per-epoch", "100")
    assert json.loads(words) == {"type": "uniform", "start_step": 75, "update_every": 10}
    half_life = {"type": "half_life", "half_life": {"fraction": 0.1}}
    average = json.dumps({"type": "exponential", "decay": half_life, "zero_debias": True})
    # It takes two lines.
    words = " ".join(row[0] for row in rows(capsys, average, "--num-updates", "150"))
    assert json.loads(words)["decay"] == {"type": "half_life", "half_life": 15.0}


def test_what_has_no_sample_or_none_that_counts(capsys, tmp_path):
    constant = '{"type": "exponential", "decay": {"type": "constant", "decay": 1.0}}'
    late = '{"type": "uniform", "start_step": 1000}'
    found = rows(capsys, constant, late, "--num-updates", "10", "-o", tmp_path / "average.png")
    assert [row[1:] for row in found] == [
        ["1.0 updates", "100.00%", "0.00%", "10.0 updates", "from 1 on", "not at all"],
        ["no sample yet", "0.00%", "100.00%", "0.0 updates", "", "not at all"],
    ]


@pytest.mark.everywhere
def test_the_picture(config, capsys, tmp_path):
    output = tmp_path / "pictures" / "average.png"
    arguments = [config, "window", "--num-updates", "100", "--num-updates-per-epoch", "20"]
    finished = show(capsys, *arguments, "-o", output)
    assert finished.output.splitlines()[-1] == str(output)
    assert output.read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in output.parent.iterdir()] == ["average.png"]
    finished = show(capsys, *arguments, "-o", output)
    assert finished.error.endswith(f"{output} exists already; --force overwrites it")
    assert show(capsys, *arguments, "-o", output, "--force").status == 0
    # Between two dollar signs there is no formula.
    regexes = '{"exclude": ["bias$", "weight$"]}'
    assert show(capsys, regexes, *arguments[2:], "-o", output, "--force").status == 0


@pytest.mark.parametrize(
    "average, more, message",
    [
        ("{", [], "{ is truncated or not JSON: "),
        ("mine", [], "'mine' is neither an object in JSON, nor the file of a configuration"),
        ("missing.jsonnet", [], "missing.jsonnet: there is no such file"),
        ("unifrom", [], '; did you mean "uniform"?'),
        ('{"type": "mine"}', [], '{"type": "mine"}: "type" is \'mine\', but has to be one of'),
        ('{"decay": 1.5}', [], '{"decay": 1.5}: '),
        ('{"type": ["a"]}', [], "\"type\" is ['a'], but has to be the name of a MovingAverage"),
        ('{"decy": 1}', [], 'unknown key "decy" for ExponentialMovingAverage'),
        ("uniform", ["--num-updates", "0"], "--num-updates is 0, but has to be within 1 and 10,"),
        ("uniform", ["--num-updates", "10000001"], "--num-updates is 10000001, but has to be"),
        (
            "uniform",
            ["--num-updates-per-epoch", "-1"],
            "--num-updates-per-epoch is -1, but has to be within 1 and 10,000,000",
        ),
        (
            '{"type": "uniform", "start_step": {"epochs": 2}}',
            [],
            '"start_step" is {"epochs": 2}: --num-updates-per-epoch has to say how many updates an',
        ),
        (
            '{"type": "uniform", "start_step": {"fraction": 1.5}}',
            [],
            '"fraction" is 1.5, but has to be a finite number > 0 and <= 1',
        ),
    ],
    ids=str,
)
def test_what_is_wrong_is_said_in_one_line(average, more, message, capsys, tmp_path):
    finished = show(capsys, average, "--num-updates", "100", "-o", tmp_path / "out.png", *more)
    assert finished.status == 1
    assert finished.error.startswith("allennlp average show: error: ")
    assert message in finished.error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "text, message",
    [
        ("{", "experiment.jsonnet: RuntimeError: "),
        ("[]", "experiment.jsonnet holds [], but has to hold an object"),
        ("{}", 'has no average, no "moving_average" in its "trainer"'),
        ("{trainer: 3}", '"trainer" is 3, but has to be an object'),
        ('{trainer: {moving_average: {type: "os.system"}}}', "os.system"),
    ],
)
def test_configurations_that_declare_no_average(text, message, capsys, tmp_path):
    path = tmp_path / "experiment.jsonnet"
    path.write_text(text)
    finished = show(capsys, path, "--num-updates", "100")
    assert message in finished.error
