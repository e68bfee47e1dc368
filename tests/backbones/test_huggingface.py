from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from transformers import LlamaForCausalLM

from wegeft_pl.backbones import build, huggingface
from wegeft_pl.backbones.names import looks_like_path, resolve


def test_weights_and_dtype(llama: LlamaForCausalLM, tmp_path: Path) -> None:
    llama.bfloat16().save_pretrained(tmp_path)
    assert huggingface.load(str(tmp_path), causal_lm=True).dtype == torch.bfloat16
    loaded = huggingface.load(str(tmp_path), causal_lm=True, dtype="float32")
    assert loaded.dtype == torch.float32
    assert torch.equal(loaded.lm_head.weight, llama.lm_head.weight.float())


def test_meta_needs_config_json_alone(llama: LlamaForCausalLM, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(llama.config.to_dict()))
    model = huggingface.load(str(tmp_path), causal_lm=True, dtype="bfloat16", meta=True)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert sum(p.numel() for p in model.parameters()) == sum(p.numel() for p in llama.parameters())


def test_timm_that_cannot_be_imported_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"timm cannot be imported .* install the torchvision that belongs to torch"):
        build("vit_tiny_patch16_224", meta=True)


def test_one_door_builds_timm_and_transformers(timm: ModuleType) -> None:
    assert type(build("vit_tiny_patch16_224", meta=True)).__name__ == "VisionTransformer"
    assert type(build("roberta_base", meta=True)).__name__ == "RobertaModel"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nowhere", r"the folder ./nowhere does not exist; give a Hugging Face folder or a hub id"),
        ("a/b/c", r"the folder a/b/c does not exist"),
        ("owner/name", r"backbone: cannot load 'owner/name': .* or give a local folder"),
        ("llama2_7b", r"'llama2_7b' is a shipped architecture without weights"),
        ("bundled:nothing", r"nothing called 'bundled:nothing' is shipped"),
    ],
)
def test_names_that_cannot_be_loaded(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        huggingface.load(name, causal_lm=True)


def test_a_folder_without_config_and_a_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no config.json"):
        resolve(str(tmp_path))
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file"):
        resolve(str(tmp_path / "file"))


def test_a_folder_without_weights_and_an_unknown_dtype(llama: LlamaForCausalLM, tmp_path: Path) -> None:
    llama.config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="backbone: cannot load"):
        huggingface.load(str(tmp_path), causal_lm=True)
    with pytest.raises(ValueError, match="dtype: 'fp32' is not one of auto, float32"):
        huggingface.load(str(tmp_path), causal_lm=True, dtype="fp32")


def test_an_unknown_tokenizer() -> None:
    with pytest.raises(ValueError, match="tokenizer: cannot load 'owner/name'"):
        huggingface.load_tokenizer("owner/name")


def test_hub_ids_are_no_paths() -> None:
    assert not looks_like_path("meta-llama/Llama-2-7b-hf")
    assert not looks_like_path("gpt2")
    assert looks_like_path("~/models/x")
