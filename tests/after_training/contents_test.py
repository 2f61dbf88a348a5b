import json
from typing import Any, Dict

import pytest
import torch

from allennlp_ema.after_training.contents import digest_of_data, digest_of_state
from allennlp_ema.common.torch_files import load_dictionary


def test_data_are_known_by_content_and_not_by_place(tmp_path):
    for name, content in (("a", "x"), ("b", "x"), ("c", "y")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "dev.tsv").write_text(content)
    (tmp_path / "a" / "test.tsv").write_text("x")

    def digest(name: str) -> str:
        return digest_of_data(str(tmp_path / name / "dev.tsv"))

    assert digest("a") == digest("b") != digest("c")
    # Its name is in those of metrics where there are several.
    assert digest("a") != digest_of_data(str(tmp_path / "a" / "test.tsv"))
    one, other = (f"{tmp_path}/a/dev.tsv,{tmp_path}/{name}/dev.tsv" for name in "bc")
    assert digest_of_data(one) != digest_of_data(other)
    objects = [json.dumps({"path": str(tmp_path / name / "dev.tsv"), "n": 1}) for name in "abc"]
    found = [digest_of_data(each) for each in objects]
    assert found[0] == found[1] != found[2]
    assert digest_of_data('{"n": 1}') != digest_of_data('{"n": 2}')


def test_of_a_directory_all_files_count(tmp_path):
    (tmp_path / "data" / "inner").mkdir(parents=True)
    (tmp_path / "data" / "inner" / "part").write_text("x")
    first = digest_of_data(str(tmp_path / "data"))
    (tmp_path / "data" / "inner" / "part").write_text("y")
    assert digest_of_data(str(tmp_path / "data")) != first


@pytest.mark.parametrize(
    "dtype",
    [torch.float32, torch.bfloat16, torch.float16, torch.complex64, torch.bool, torch.int64],
)
def test_of_tensors_each_name_shape_and_value_counts(dtype):
    values = {"a": torch.ones(2, 3, dtype=dtype), "b": torch.ones((), dtype=dtype)}
    same = {"b": torch.ones((), dtype=dtype), "a": torch.ones(3, 2, dtype=dtype).t()}
    assert digest_of_state(values) == digest_of_state(same)
    others = [
        {"a": values["a"]},
        {"a": values["a"], "c": values["b"]},
        {"a": values["a"].t(), "b": values["b"]},
        {"a": values["a"], "b": torch.zeros((), dtype=dtype)},
        {"a": values["a"].to(torch.float64), "b": values["b"]},
    ]
    assert len({digest_of_state(each) for each in [values, *others]}) == 6
    assert digest_of_state({}) == digest_of_state({})


def test_of_the_extra_state_of_a_module_each_value_counts(tmp_path):
    def read(extra: Any) -> Dict[str, Any]:
        # As in another process, no object is the same.
        torch.save(
            {"weight": torch.ones(2), "inner._extra_state": extra}, str(tmp_path / "best.th")
        )
        return load_dictionary(tmp_path / "best.th")

    found = [
        digest_of_state(read(extra))
        for extra in (
            {"calls": 3, "seen": [torch.ones(2), None]},
            {"calls": 3, "seen": [torch.ones(2), None]},
            {"calls": 4, "seen": [torch.ones(2), None]},
            {"calls": 3, "seen": [torch.zeros(2), None]},
            {"calls": 3, "seen": [torch.ones(2).double(), None]},
            "calls",
            None,
        )
    ]
    assert found[0] == found[1] and len(set(found)) == 6
