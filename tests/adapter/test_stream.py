"""Merging from files into files gives what merging in memory gives."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import llama_config
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import GPT2LMHeadModel, LlamaForCausalLM, PreTrainedModel

from wegeft_pl import AdapterConfig, inject, merge
from wegeft_pl.adapter import MergeReport, files
from wegeft_pl.adapter.match_weights import match_weights
from wegeft_pl.adapter.stream import merge_files
from wegeft_pl.adapter.weight_files import WeightFiles


def save_both(model: PreTrainedModel, root: Path, shard: str = "50GB", **fields: Any) -> AdapterConfig:
    """Writes base and adapter folders; the model is left with its adapter."""
    model.save_pretrained(root / "base", max_shard_size=shard)
    config = AdapterConfig(**({"targets": "all-linear", "rank": 4, "alpha": 8.0} | fields))
    adapter = inject(model, config)
    for _, parameter in adapter.named_parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    adapter.save(root / "adapter")
    return config


def streamed(model: PreTrainedModel, root: Path, dtype: torch.dtype | None = None) -> MergeReport:
    """Merges the two folders into ``root / "merged"``, with nothing but the model's class and config."""
    with torch.device("meta"):
        shapes = type(model)(model.config)
    shapes = shapes.to(dtype or model.dtype)
    found = WeightFiles(root / "base")
    entries = match_weights(shapes, found, model.base_model_prefix)
    assert entries is not None
    adapter = inject(shapes, files.read_description(root / "adapter")[0])
    adapter.read_fingerprint(entries)
    files.fill(adapter, root / "adapter")
    (root / "merged").mkdir()
    return merge_files(adapter, entries, found, root / "adapter", root / "merged", dtype=dtype)


def tensors(folder: Path) -> dict[str, Tensor]:
    return {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}


def check(model: PreTrainedModel, root: Path, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Merges both ways and compares weights and reports; returns the files' tensors."""
    report = streamed(model, root, dtype)
    expected = merge(model, model.__dict__["_wegeft_adapter"], dtype=dtype)
    in_memory, result = model.state_dict(), tensors(root / "merged")
    assert result.keys() == tensors(root / "base").keys()
    for name, tensor in result.items():
        assert tensor.dtype == in_memory[name].dtype
        assert torch.equal(tensor, in_memory[name]), name
    assert report.to_dict() == expected.to_dict()
    return result


@pytest.mark.parametrize("side", ["input", "output"])
@pytest.mark.parametrize("base", [torch.bfloat16, torch.float32, torch.float64])
def test_llama_in_several_files(llama: LlamaForCausalLM, tmp_path: Path, base: torch.dtype, side: str) -> None:
    llama.to(base)
    save_both(llama, tmp_path, "3KB", side=side)
    result = check(llama, tmp_path)
    before = tensors(tmp_path / "base")
    assert len(list((tmp_path / "merged").glob("*.safetensors"))) > 2
    assert torch.equal(result["lm_head.weight"], before["lm_head.weight"])
    assert not torch.equal(result["model.layers.1.mlp.up_proj.weight"], before["model.layers.1.mlp.up_proj.weight"])
    old, new = (
        json.loads((tmp_path / name / "model.safetensors.index.json").read_text()) for name in ("base", "merged")
    )
    assert new == old
    with torch.no_grad():
        loaded = LlamaForCausalLM.from_pretrained(tmp_path / "merged", dtype=base)
        assert torch.equal(loaded(torch.tensor([[5, 6]])).logits, llama(torch.tensor([[5, 6]])).logits)


@pytest.mark.parametrize("side", ["input", "output"])
@pytest.mark.parametrize("shard", ["50GB", "9KB"])
def test_gpt2_has_transposed_layers_biases_and_a_tied_head(
    gpt2: GPT2LMHeadModel, tmp_path: Path, side: str, shard: str
) -> None:
    for block in gpt2.transformer.h:
        nn.init.normal_(block.attn.c_attn.bias)
    save_both(gpt2, tmp_path, shard, side=side)
    result = check(gpt2, tmp_path)
    assert "lm_head.weight" not in result
    assert (len(list((tmp_path / "merged").glob("*.safetensors"))) > 1) == (shard == "9KB")
    bias = "transformer.h.0.attn.c_attn.bias"
    assert torch.equal(result[bias], tensors(tmp_path / "base")[bias]) == (side == "input")


def test_small_chunks_change_nothing_but_rounding(
    gpt2: GPT2LMHeadModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_both(gpt2, tmp_path, side="input")
    monkeypatch.setattr("wegeft_pl.adapter.chunks.CHUNK", 100)
    monkeypatch.setattr("wegeft_pl.adapter.chunks.BLOCK", 1000)
    streamed(gpt2, tmp_path)
    monkeypatch.undo()
    merge(gpt2, gpt2.__dict__["_wegeft_adapter"])
    for name, tensor in tensors(tmp_path / "merged").items():
        torch.testing.assert_close(tensor, gpt2.state_dict()[name], rtol=1e-5, atol=1e-6)


def test_files_without_the_models_prefix_keep_their_names(gpt2: GPT2LMHeadModel, tmp_path: Path) -> None:
    save_both(gpt2, tmp_path)
    bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors(tmp_path / "base").items()}
    save_file(bare | {"h.0.attn.bias": torch.ones(2, 2)}, tmp_path / "base" / "model.safetensors", {"format": "pt"})
    streamed(gpt2, tmp_path)
    result = tensors(tmp_path / "merged")
    assert torch.equal(result.pop("h.0.attn.bias"), torch.ones(2, 2))  # of no interest to the model: copied
    merge(gpt2, gpt2.__dict__["_wegeft_adapter"])
    assert all(torch.equal(tensor, gpt2.state_dict()[f"transformer.{name}"]) for name, tensor in result.items())


def test_modules_trained_in_full_come_from_the_adapter(llama: LlamaForCausalLM, tmp_path: Path) -> None:
    llama.bfloat16()
    save_both(llama, tmp_path, targets=["q_proj"], also_train=["norm", "lm_head"])
    trained = llama.lm_head.weight.detach().clone()
    result = check(llama, tmp_path)
    assert trained.dtype == torch.float32
    assert torch.equal(result["lm_head.weight"], trained.bfloat16())


def test_a_tied_tensor_that_is_trained_is_replaced_under_all_its_names(tmp_path: Path) -> None:
    model = LlamaForCausalLM(llama_config(tie_word_embeddings=True)).eval()
    save_both(model, tmp_path, targets=["q_proj"], also_train=["lm_head"])
    base = tensors(tmp_path / "base")
    assert "lm_head.weight" not in base
    twice = base | {"lm_head.weight": base["model.embed_tokens.weight"].clone()}
    save_file(twice, tmp_path / "base" / "model.safetensors", {"format": "pt"})
    result = check(model, tmp_path)
    assert torch.equal(result["lm_head.weight"], result["model.embed_tokens.weight"])
    assert not torch.equal(result["lm_head.weight"], base["model.embed_tokens.weight"])


@pytest.mark.parametrize("trained", [(), ("norm",)])
def test_float32_on_demand(llama: LlamaForCausalLM, tmp_path: Path, trained: tuple[str, ...]) -> None:
    llama.bfloat16()
    save_both(llama, tmp_path, "5KB", also_train=trained)
    check(llama, tmp_path, torch.float32)
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["dtype"] == "float32"
    sizes = [
        json.loads((tmp_path / name / "model.safetensors.index.json").read_text())["metadata"]["total_size"]
        for name in ("base", "merged")
    ]
    assert sizes[1] == 2 * sizes[0]
    assert {p.dtype for p in LlamaForCausalLM.from_pretrained(tmp_path / "merged").parameters()} == {torch.float32}


def test_a_generator_that_is_not_linear(llama: LlamaForCausalLM, tmp_path: Path) -> None:
    from adapter.test_inject import Squared

    save_both(llama, tmp_path, targets=["q_proj"], generator=Squared)
    check(llama, tmp_path)


def test_another_base_is_refused_without_being_loaded(llama: LlamaForCausalLM, tmp_path: Path) -> None:
    save_both(llama, tmp_path)
    other = tensors(tmp_path / "base")
    other["model.norm.weight"] += 1
    save_file(other, tmp_path / "base" / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"was trained on another base \(its weights differ\)"):
        streamed(llama, tmp_path)


@pytest.mark.parametrize("base", [torch.bfloat16, torch.float32])
def test_the_fingerprint_in_files_is_the_one_in_memory(
    llama: LlamaForCausalLM, tmp_path: Path, base: torch.dtype
) -> None:
    llama.to(base)
    save_both(llama, tmp_path, "3KB", also_train=["norm"])
    with torch.device("meta"):
        shapes = LlamaForCausalLM(llama.config).to(base)
    entries = match_weights(shapes, WeightFiles(tmp_path / "base"))
    assert entries is not None
    adapter = inject(shapes, files.read_description(tmp_path / "adapter")[0])
    adapter.read_fingerprint(entries)
    assert adapter.fingerprint == llama.__dict__["_wegeft_adapter"].fingerprint


def test_a_weight_that_holds_no_plain_numbers_is_refused(llama: LlamaForCausalLM, tmp_path: Path) -> None:
    save_both(llama, tmp_path, targets=["q_proj"])
    stored = tensors(tmp_path / "base")
    name = "model.layers.1.self_attn.q_proj.weight"
    stored[name] = stored[name].to(torch.float8_e4m3fn)
    save_file(stored, tmp_path / "base" / "model.safetensors", {"format": "pt"})
    with torch.device("meta"):
        shapes = LlamaForCausalLM(llama.config)
    found = WeightFiles(tmp_path / "base")
    entries = match_weights(shapes, found)
    assert entries is not None
    adapter = inject(shapes, files.read_description(tmp_path / "adapter")[0])
    with pytest.raises(ValueError, match=r"q_proj.weight is stored as torch.float8_e4m3fn, .* merge into the original"):
        merge_files(adapter, entries, found, tmp_path / "adapter", tmp_path / "merged")


def test_a_full_disk_is_an_error_and_leaves_no_open_file(
    llama: LlamaForCausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_both(llama, tmp_path, "3KB")
    real, calls = os.pwrite, []

    def full(*arguments: Any) -> int:
        calls.append(arguments)
        if len(calls) > 12:
            raise OSError(28, "No space left on device")
        return real(*arguments)

    held = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="No space left on device"):
        streamed(llama, tmp_path)
    assert len(os.listdir("/proc/self/fd")) == held
