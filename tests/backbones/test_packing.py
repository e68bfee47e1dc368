"""Packed rows in models of many kinds: each sample as if it stood alone, or the model is refused by name."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from wegeft_pl import AdapterConfig, inject
from wegeft_pl.backbones import only_positions
from wegeft_pl.backbones.packing import check_can_pack, measure_leak, model_inputs, refuse_leak

COMMON = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 47,
    "max_position_embeddings": 32,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GPT = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32, "vocab_size": 47, "bos_token_id": 1}
SLIDING = {"sliding_window": 4}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "gpt2": ("gpt2", GPT),
    "qwen2_sliding": ("qwen2", {"use_sliding_window": True, "max_window_layers": 1, **SLIDING}),
    "mistral_sliding": ("mistral", SLIDING),
    "gpt_neox": ("gpt_neox", {}),
    "gemma3_sliding": ("gemma3_text", {"head_dim": 8, **SLIDING}),
}
LENGTHS = ((7, 9, 3), (11, 2), (5,))


def make(kind: str, implementation: str = "sdpa", **fields: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **(fields if "n_embd" in fields else COMMON | fields))
    model = AutoModelForCausalLM.from_config(config, attn_implementation=implementation)
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


def packed(lengths: tuple[tuple[int, ...], ...] = LENGTHS) -> dict[str, Any]:
    """Rows of samples with labels on all tokens but each sample's first two."""
    width = max(map(sum, lengths))
    generator = torch.Generator().manual_seed(1)
    batch = {
        "input_ids": torch.zeros(len(lengths), width, dtype=torch.int64),
        "attention_mask": torch.zeros(len(lengths), width, dtype=torch.int64),
        "labels": torch.full((len(lengths), width), -100),
        "position_ids": torch.zeros(len(lengths), width, dtype=torch.int64),
    }
    for row, sizes in enumerate(lengths):
        start = 0
        for size in sizes:
            place = slice(start, start + size)
            batch["input_ids"][row, place] = torch.randint(4, 46, (size,), generator=generator)
            batch["attention_mask"][row, place] = 1
            batch["position_ids"][row, place] = torch.arange(size)
            batch["labels"][row, start + 2 : start + size] = batch["input_ids"][row, start + 2 : start + size]
            start += size
        batch["position_ids"][row, start:] = torch.arange(width - start)
    return batch


def samples(batch: dict[str, Any], lengths: tuple[tuple[int, ...], ...] = LENGTHS) -> list[tuple[int, slice]]:
    return [
        (row, slice(sum(sizes[:place]), sum(sizes[: place + 1])))
        for row, sizes in enumerate(lengths)
        for place in range(len(sizes))
    ]


def alone(model: PreTrainedModel, batch: dict[str, Any]) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Each sample's logits in a batch of its own, and the sum of all losses."""
    logits, loss = [], torch.zeros(())
    for row, place in samples(batch):
        ids, labels = batch["input_ids"][row, place], batch["labels"][row, place]
        logits.append(model(input_ids=ids[None], use_cache=False).logits[0])
        if len(ids) > 2:
            loss = loss + cross_entropy(logits[-1][:-1], labels[1:], ignore_index=-100, reduction="sum")
    return logits, loss


def together(model: PreTrainedModel, batch: dict[str, Any]) -> torch.Tensor:
    """All logits (B, T, V) of the packed batch."""
    arguments, _ = model_inputs(model, batch, torch.ones_like(batch["labels"], dtype=torch.bool))
    logits: torch.Tensor = model(**arguments, use_cache=False).logits
    return logits


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("name", MODELS)
def test_packed_loss_and_gradients_are_those_of_samples_alone(name: str, implementation: str) -> None:
    kind, fields = MODELS[name]
    model, batch = make(kind, implementation, **fields), packed()
    check_can_pack(model)
    adapter = inject(model, AdapterConfig("all-linear", rank=2, alpha=4, zero="phi"))
    parameters = [parameter for group in adapter.groups for parameter in group.generator.parameters()]
    for parameter in parameters:
        torch.nn.init.normal_(parameter, std=0.1)
    each, loss = alone(model, batch)
    expected = torch.autograd.grad(loss, parameters)
    logits = together(model, batch)
    for (row, place), own in zip(samples(batch), each, strict=True):
        torch.testing.assert_close(logits[row, place], own, rtol=1e-5, atol=1e-5)
    packed_loss = cross_entropy(
        logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=-100, reduction="sum"
    )
    assert packed_loss.item() == pytest.approx(loss.item(), rel=1e-5)
    for mine, theirs in zip(torch.autograd.grad(packed_loss, parameters), expected, strict=True):
        assert theirs.any()
        assert (mine - theirs).norm() <= 1e-5 * theirs.norm()


@pytest.mark.parametrize("name", MODELS)
def test_a_sample_never_changes_another_one(name: str) -> None:
    kind, fields = MODELS[name]
    model, batch = make(kind, **fields), packed()
    before = together(model, batch)
    for changed_row, changed in samples(batch):
        other = {**batch, "input_ids": batch["input_ids"].clone()}
        other["input_ids"][changed_row, changed] = (other["input_ids"][changed_row, changed] + 5) % 47
        after = together(model, other)
        for row, place in samples(batch):
            same = torch.equal(before[row, place], after[row, place])
            assert same == ((row, place) != (changed_row, changed))
    still, moved = measure_leak(model, batch).tolist()
    assert still == 0 < moved
    refuse_leak(model, torch.tensor([still, moved]))


def test_without_positions_the_samples_would_mix(llama: PreTrainedModel) -> None:
    batch = packed()
    mixed = llama(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    assert not torch.allclose(mixed[0, 7:16], together(llama, batch)[0, 7:16], atol=1e-3)


def test_flash_attention_gets_one_row_without_padding(llama: PreTrainedModel) -> None:
    batch = packed()
    wanted = batch["labels"] != -100
    flash = SimpleNamespace(config=SimpleNamespace(_attn_implementation="flash_attention_2"))
    arguments, where = model_inputs(flash, batch, wanted)  # type: ignore[arg-type]
    size = sum(map(sum, LENGTHS))
    assert arguments["input_ids"].shape == arguments["position_ids"].shape == where.shape == (1, size)
    assert (arguments["position_ids"] == 0).sum() == 6
    assert arguments["attention_mask"] is None
    head = llama.get_output_embeddings()
    with only_positions(head, where):
        flat = llama(**arguments, use_cache=False).logits[0]
    torch.testing.assert_close(flat, together(llama, batch)[wanted], rtol=1e-5, atol=1e-5)


def test_a_batch_that_is_not_packed_goes_in_as_it_is(llama: PreTrainedModel) -> None:
    batch = {"input_ids": torch.ones(1, 2), "attention_mask": torch.ones(1, 2)}
    mask = torch.ones(1, 2, dtype=torch.bool)
    assert model_inputs(llama, batch, mask) == (batch, mask)


@pytest.mark.parametrize(
    ("kind", "fields", "reason"),
    [
        ("mamba", {"state_size": 4}, "mamba has layers of kind linear_attention"),
        ("rwkv", {"attention_hidden_size": 16}, "rwkv has a recurrent state"),
        ("lfm2", {"layer_types": ["conv", "full_attention"]}, "lfm2 has layers of kind conv"),
        ("bloom", {"n_layer": 2, "n_head": 4}, "bloom takes no position_ids"),
    ],
)
def test_models_that_cannot_are_refused_by_name(kind: str, fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=rf"data.packing: {reason}.*set data.packing to false"):
        check_can_pack(make(kind, "eager", **fields))


def test_a_model_that_takes_positions_and_ignores_them_is_found_out() -> None:
    model, batch = make("opt", ffn_dim=24, word_embed_proj_dim=16), packed()
    check_can_pack(model)
    model.train()
    largest = measure_leak(model, batch)
    assert model.training
    with pytest.raises(ValueError, match=r"data.packing: in opt packed samples attend to each other"):
        refuse_leak(model, largest)


def test_rows_of_one_sample_show_nothing(llama: PreTrainedModel) -> None:
    assert measure_leak(llama, packed(((5,), (3,)))).tolist() == [0, 0]
    assert measure_leak(llama, packed(((5,), (3, 4))))[0] == 0
