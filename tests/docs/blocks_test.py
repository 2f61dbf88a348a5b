"""
What the pages show is built by AllenNLP and runs.
"""

import json
import re
import shutil
from pathlib import Path
from typing import Any, Dict

import pytest
from allennlp.commands.train import TrainModel
from allennlp.common import Params
from allennlp.common.from_params import infer_constructor_params
from allennlp.nn.parallel import DdpAccelerator
from torch.nn import Linear

from allennlp_ema import MovingAverage
from tests.support.documentation import DOCS, PAGES, blocks, name_of, text_of
from tests.support.training_runs import DATA, REPOSITORY

TUTORIAL = DOCS / "tutorial.md"

# The keys beside those of the trainer, with which a part of a configuration may begin.
OF_THE_WHOLE = [
    "data_loader",
    "dataset_reader",
    "distributed",
    "evaluate_on_test",
    "model",
    "trainer",
]
JSONNET = [
    pytest.param(block.text, id=f"{name_of(page)}-{number}")
    for page in PAGES
    if page != TUTORIAL
    for number, block in enumerate(blocks(page))
    if block.language in ("json", "jsonnet")
]
WITH_PYTHON = [
    page
    for page in PAGES
    if page != TUTORIAL and any(block.language == "python" for block in blocks(page))
]


def whole_configuration(text: str) -> str:
    """A part of a configuration in the place where it belongs in the main example."""
    example = (REPOSITORY / "training_configs" / "python_tokens.jsonnet").as_posix()
    return f"""
        local example = import "{example}";
        local part = {{ {text} }};
        local chosen(is_of_the_whole) = {{
            [key]: part[key]
            for key in std.objectFields(part)
            if std.member({OF_THE_WHOLE}, key) == is_of_the_whole
        }};
        local trainer = if std.objectHas(part, "trainer") then part.trainer else chosen(false);
        local averages_itself = std.objectHas(trainer, "optimizer")
            && std.isObject(trainer.optimizer) && trainer.optimizer.type == "moving_average";
        example + chosen(true) + {{
            trainer: example.trainer + trainer
                + (if averages_itself then {{ moving_average:: null }} else {{}})
        }}
    """


@pytest.mark.parametrize("text", JSONNET)
def test_a_configuration_is_built_by_allennlp(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(str(DATA), str(tmp_path / "data" / "python_tokens"))
    monkeypatch.chdir(tmp_path)
    Path("config.jsonnet").write_text(whole_configuration(text), encoding="utf-8")
    params = Params.from_file("config.jsonnet")
    # Here is one process, which can look at the names alone.
    accelerator = (params.pop("distributed", None) or Params({})).pop("ddp_accelerator", None)
    if accelerator is not None:
        keys = infer_constructor_params(DdpAccelerator.by_name(accelerator.pop("type")))
        assert {*accelerator.as_dict(quiet=True)} <= {*keys}
    train_model = TrainModel.from_params(
        params,
        serialization_dir=str(tmp_path / "run"),
        local_rank=0,
        batch_weight_key="",
    )
    trainer: Any = train_model.trainer
    assert isinstance(trainer._moving_average, MovingAverage)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_an_average_within_a_line_is_built(page: Path) -> None:
    for text in re.findall(r"`(\{.*?\})`", text_of(page)):
        # Where it has a number by a letter, another test puts one there.
        if re.match(r'\{("type"|"decay"|\})', text) and not re.search(r": [sk]\b", text):
            settings: Dict[str, Any] = json.loads(text)
            if settings.get("type", "exponential") in MovingAverage.list_available():
                parameters = list(Linear(2, 2).named_parameters())
                assert MovingAverage.from_params(Params(settings), parameters=parameters)


@pytest.mark.parametrize("page", WITH_PYTHON, ids=name_of)
@pytest.mark.usefixtures("own_names")
def test_the_python_of_a_page_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # One block may use what those before it have made.
    names: Dict[str, Any] = {"__name__": "page"}
    for block in blocks(page):
        if block.language == "python":
            exec(compile(block.text, name_of(page), "exec"), names)
