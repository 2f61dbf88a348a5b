import pytest
import torch
from allennlp.common.checks import ConfigurationError

from allennlp_ema.torch_files import load_dictionary


def test_a_dictionary_comes_back(tmp_path):
    state = {"weight": torch.arange(3.0), "count": 7}
    torch.save(state, str(tmp_path / "state.th"))
    loaded = load_dictionary(tmp_path / "state.th")
    assert loaded.keys() == state.keys()
    assert torch.equal(loaded["weight"], state["weight"]) and loaded["count"] == 7


def test_missing_truncated_and_foreign_files_are_named(tmp_path):
    path = tmp_path / "state.th"
    with pytest.raises(ConfigurationError, match="state.th: there is no such file"):
        load_dictionary(path)
    torch.save({"weight": torch.zeros(1000)}, str(path))
    whole = path.read_bytes()
    for content in (
        b"",
        whole[:100],
        whole[: len(whole) // 2],
        b"not a file of torch",
        b"\x80\x04",
    ):
        path.write_bytes(content)
        with pytest.raises(ConfigurationError, match="state.th is truncated or not a file of Py"):
            load_dictionary(path)
    torch.save(torch.zeros(3), str(path))
    with pytest.raises(ConfigurationError, match="state.th holds a Tensor, not a dictionary"):
        load_dictionary(path)
