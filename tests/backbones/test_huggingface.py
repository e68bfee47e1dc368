from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors import SafetensorError
from transformers import LlamaForCausalLM, T5Config

from wegeft_pl.backbones import broken, build, huggingface
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


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1", None])
def test_broken_weights_name_their_file(llama: LlamaForCausalLM, tmp_path: Path, content: bytes | None) -> None:
    llama.save_pretrained(tmp_path, max_shard_size="4KB")
    shard = sorted(tmp_path.glob("*.safetensors"))[1]
    shard.write_bytes(shard.read_bytes()[:-100] if content is None else content)
    message = rf"^backbone: {shard} is cut or broken \(.*\); copy or download the folder again$"
    with pytest.raises(ValueError, match=message):
        huggingface.load(str(tmp_path), causal_lm=True)


def test_weights_of_other_shapes(llama: LlamaForCausalLM, tmp_path: Path) -> None:
    llama.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"hidden_size": 32}))
    with pytest.raises(ValueError, match=r"backbone: the weights of '.*' have other shapes than its config.json says"):
        huggingface.load(str(tmp_path), causal_lm=True)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ("{", "config.json.* is not a valid JSON file"),
        ('{"model_type": "zzz"}', "model type `zzz` but Transformers does not recognize this architecture"),
        ('{"model_type": "llama", "hidden_size": "a"}', "Field 'hidden_size' expected int, got str"),
    ],
)
def test_a_config_that_is_none_names_the_folder(tmp_path: Path, fields: str, message: str) -> None:
    (tmp_path / "config.json").write_text(fields)
    with pytest.raises(ValueError, match=message) as caught:
        huggingface.load(str(tmp_path), causal_lm=True, meta=True)
    text = str(caught.value)
    assert text.startswith(f"backbone: cannot load '{tmp_path}': ")
    assert len(text) < 500
    assert "\n" not in text


@pytest.mark.parametrize("meta", [False, True])
def test_a_model_of_another_kind(tmp_path: Path, meta: bool) -> None:
    T5Config(d_model=8, d_ff=8, num_layers=1, num_heads=1, d_kv=8, vocab_size=8).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"is a t5 model, but a causal language model is needed, such as Llama") as e:
        huggingface.load(str(tmp_path), causal_lm=True, meta=meta)
    assert len(str(e.value)) < 300


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", "\n{", r"^tokenizer: \S+/tokenizer.json is not valid JSON \(.* line 2 column 2 .*\); copy"),
        ("tokenizer_config.json", "", r"^tokenizer: \S+/tokenizer_config.json is not valid JSON"),
        ("tokenizer.json", "{}", r"^tokenizer: cannot load '\S+': tokenizer.json has not the layout of a tokenizer"),
        (
            "tokenizer.json",
            '{"model": null, "added_tokens": []}',
            r"^tokenizer: cannot load '\S+': tokenizer.json has not the layout of a tokenizer \(data did not match",
        ),
    ],
)
def test_broken_tokenizers_name_their_file(llama_folder: Path, name: str, content: str, message: str) -> None:
    (llama_folder / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        huggingface.load_tokenizer(str(llama_folder))


def test_a_broken_download_says_where_it_lies(
    llama: LlamaForCausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    llama.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda name, file: str(tmp_path / file))
    assert broken.weights("owner/name") == tmp_path / "model.safetensors"
    assert broken.json_file("owner/name") is None
    assert broken.way_out("owner/name").startswith("delete it from the hub's cache")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda name, file: None)
    assert broken.weights("owner/name") is None


def test_a_full_disk_is_an_os_error(llama: LlamaForCausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(directory: Path) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(llama, "save_pretrained", fail)
    with pytest.raises(OSError, match=r"cannot write the weights to .*: I/O error: No space left on device"):
        huggingface.save(llama, tmp_path, None)


def test_an_unknown_tokenizer() -> None:
    with pytest.raises(ValueError, match="tokenizer: cannot load 'owner/name'"):
        huggingface.load_tokenizer("owner/name")


def test_hub_ids_are_no_paths() -> None:
    assert not looks_like_path("meta-llama/Llama-2-7b-hf")
    assert not looks_like_path("gpt2")
    assert looks_like_path("~/models/x")


def test_weights_that_the_config_asks_for_and_the_files_lack(llama: LlamaForCausalLM, tmp_path: Path) -> None:
    llama.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_hidden_layers": 3}))
    with pytest.raises(ValueError, match=r"the files of .* lack model.layers.2.* \(9 missing tensors\)"):
        huggingface.load(str(tmp_path), causal_lm=True)
