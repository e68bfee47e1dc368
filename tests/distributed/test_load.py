"""Weights found in files by name, and read into a model on the meta device: the same model that transformers loads."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from wegeft_pl import AdapterConfig, inject
from wegeft_pl.adapter.weight_files import WeightFiles
from wegeft_pl.backbones import huggingface, weights
from wegeft_pl.distributed import load_own_rows, match_weights

CPU = torch.device("cpu")


def load(folder: Path, causal_lm: bool = True, dtype: str = "auto", adapter: AdapterConfig | None = None):  # type: ignore[no-untyped-def]
    model = huggingface.load(str(folder), causal_lm=causal_lm, dtype=dtype, meta=True)
    entries = match_weights(model, WeightFiles(folder), weights.name_prefix(model))
    assert entries is not None
    if adapter is not None:
        inject(model, adapter)
    load_own_rows(model, entries, CPU)
    weights.finish_on_device(model, CPU, folder)
    return model.eval()


def same_output(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    ids = torch.arange(5, 15)[None]
    with torch.no_grad():
        return torch.equal(first(input_ids=ids)[0], second(input_ids=ids)[0])


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
def test_a_llama_is_what_from_pretrained_loads(llama_folder: Path, dtype: str) -> None:
    wanted = AutoModelForCausalLM.from_pretrained(llama_folder, dtype="auto" if dtype == "auto" else torch.bfloat16)
    found = load(llama_folder, dtype=dtype)
    assert {name: t.dtype for name, t in found.state_dict().items()} == {
        n: t.dtype for n, t in wanted.state_dict().items()
    }
    assert same_output(found, wanted)
    assert found.generation_config.to_dict() == wanted.generation_config.to_dict()


def test_tied_weights_stay_tied(gpt2: GPT2LMHeadModel, tmp_path: Path) -> None:
    gpt2.save_pretrained(tmp_path)
    found = load(tmp_path)
    assert found.lm_head.weight is found.transformer.wte.weight
    assert same_output(found, gpt2)


def test_a_bare_decoder_reads_the_files_of_a_model_with_a_head(llama_folder: Path) -> None:
    found = load(llama_folder, causal_lm=False)
    assert same_output(found, AutoModel.from_pretrained(llama_folder))


def test_several_files(llama: LlamaForCausalLM, tmp_path: Path) -> None:
    llama.save_pretrained(tmp_path, max_shard_size="4KB")
    assert len(WeightFiles(tmp_path).files) > 2
    assert same_output(load(tmp_path), llama)


@pytest.mark.parametrize("scaling", [{"rope_type": "linear", "factor": 2.0}, {"rope_type": "yarn", "factor": 4.0}])
def test_computed_buffers_follow_the_config(tmp_path: Path, scaling: dict[str, object]) -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2, vocab_size=47,
        max_position_embeddings=64, rope_parameters={"rope_theta": 500.0, **scaling},
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    model.save_pretrained(tmp_path)
    assert same_output(load(tmp_path), model)


def test_weights_beside_a_computed_buffer_stay(tmp_path: Path) -> None:
    """The embedding of a Gemma has a scale that is in no file; the library's way to fill it draws the weight anew."""
    torch.manual_seed(0)
    config = Gemma2Config(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        head_dim=8, vocab_size=47, max_position_embeddings=64,
    )  # fmt: skip
    model = Gemma2ForCausalLM(config).eval()
    model.save_pretrained(tmp_path)
    found = load(tmp_path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name
    assert found.lm_head.weight is found.model.embed_tokens.weight
    assert same_output(found, model)


def test_an_adapter_that_is_in_place_keeps_its_values(llama_folder: Path) -> None:
    config = AdapterConfig(["q_proj"], rank=2, also_train=["norm"])
    torch.manual_seed(1)
    found = load(llama_folder, adapter=config)
    torch.manual_seed(1)
    wanted = AutoModelForCausalLM.from_pretrained(llama_folder)
    inject(wanted, config)
    assert same_output(found, wanted)
    assert {n: p.requires_grad for n, p in found.named_parameters()} == {
        n: p.requires_grad for n, p in wanted.named_parameters()
    }
    for name, tensor in wanted.state_dict().items():
        assert torch.equal(found.state_dict()[name], tensor), name


def test_names_and_shapes_that_do_not_fit_are_left_to_the_library(llama_folder: Path, gpt2: GPT2LMHeadModel) -> None:
    files = WeightFiles(llama_folder)
    assert match_weights(gpt2, files, "transformer") is None
    other = LlamaForCausalLM(LlamaConfig(hidden_size=32, intermediate_size=8, num_hidden_layers=2, vocab_size=47))
    assert match_weights(other, files, "model") is None


def test_a_tensor_that_no_file_has_is_named(llama_folder: Path) -> None:
    model = huggingface.load(str(llama_folder), causal_lm=True, meta=True)
    with pytest.raises(ValueError, match=r"do not give model\.embed_tokens\.weight \(\d+ tensors without values\)"):
        weights.finish_on_device(model, CPU, llama_folder)


def test_a_model_of_the_hub_without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"cannot load 'someone/nothing'.*check the id's spelling"):
        weights.weight_folder("someone/nothing")
