from __future__ import annotations

import json
from pathlib import Path

import torch

from wegeft_pl.adapter import model_folder
from wegeft_pl.adapter.model_folder import copy_companions, file_names, set_config_dtype, write_index


def test_everything_but_weights_is_copied(tmp_path: Path) -> None:
    base, output = tmp_path / "base", tmp_path / "output"
    (base / "original").mkdir(parents=True)
    output.mkdir()
    kept = ["config.json", "tokenizer.model", "vocab.txt", "chat_template.jinja", "README.md"]
    weights = ["model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "x.gguf", "consolidated.pth"]
    for name in [*kept, *weights, ".gitattributes", "original/consolidated.00.pth"]:
        (base / name).write_text(name)
    copy_companions(base, output)
    assert sorted(path.name for path in output.iterdir()) == sorted(kept)
    assert (output / "vocab.txt").read_text() == "vocab.txt"


def test_the_configs_dtype_follows_under_either_name(tmp_path: Path) -> None:
    def after(config: dict[str, object]) -> object:
        (tmp_path / "config.json").write_text(json.dumps(config))
        set_config_dtype(tmp_path, torch.float32)
        return json.loads((tmp_path / "config.json").read_text())

    assert after({"dtype": "bfloat16", "n": 1}) == {"dtype": "float32", "n": 1}
    assert after({"torch_dtype": "float16"}) == {"torch_dtype": "float32"}
    assert after({"n": 1}) == {"n": 1, "dtype": "float32"}
    nested = {"dtype": "bfloat16", "text_config": {"torch_dtype": "bfloat16", "dtype": None}}
    assert after(nested) == {"dtype": "float32", "text_config": {"torch_dtype": "float32", "dtype": None}}


def test_a_folder_without_a_config_stays_without(tmp_path: Path) -> None:
    set_config_dtype(tmp_path, torch.float32)
    assert list(tmp_path.iterdir()) == []


def test_files_hold_no_more_than_their_share() -> None:
    assert file_names({"a": 1, "b": 2}) == dict.fromkeys("ab", "model.safetensors")
    large = model_folder.FILE_BYTES
    names = file_names({"a": large + 1, "b": large - 1, "c": 1, "d": 1})
    assert names == {
        "a": "model-00001-of-00003.safetensors",
        "b": "model-00002-of-00003.safetensors",
        "c": "model-00002-of-00003.safetensors",
        "d": "model-00003-of-00003.safetensors",
    }


def test_the_index_keeps_what_the_bases_says_and_counts_anew(tmp_path: Path) -> None:
    base, output = tmp_path / "base", tmp_path / "output"
    base.mkdir()
    output.mkdir()
    written = {"metadata": {"total_parameters": 3, "total_size": 6}, "weight_map": {}}
    (base / "model.safetensors.index.json").write_text(json.dumps(written))
    write_index(output, {"w": "f"}, 12, base)
    expected = {"metadata": {"total_parameters": 3, "total_size": 12}, "weight_map": {"w": "f"}}
    assert json.loads((output / "model.safetensors.index.json").read_text()) == expected
    write_index(output, {"w": "f"}, 12)
    assert json.loads((output / "model.safetensors.index.json").read_text())["metadata"] == {"total_size": 12}
