"""What every generator promises: no change at step 0, right gradients, and one change in training, merge and export."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch
from generator_cases import EVERY, HIDDEN, TinyViT, count, filled, name_of
from peft import PeftModel
from torch import nn
from transformers import GPT2LMHeadModel, LlamaForCausalLM

from wegeft_pl import Adapter, AdapterConfig, inject, load_adapter, merge, unmerge
from wegeft_pl.adapter.generator_path import needs_rows
from wegeft_pl.generators import GIFTGenerator, PaCaGenerator

IDS = torch.arange(3, 23).reshape(2, 10)
every = pytest.mark.parametrize(("kind", "options"), EVERY, ids=name_of)
hidden = pytest.mark.parametrize(("kind", "options"), HIDDEN, ids=name_of)


def config(kind, options: dict, **fields: object) -> AdapterConfig:
    fields = {"targets": "all-linear", "rank": 4, "alpha": 8} | fields
    return AdapterConfig(generator=kind, generator_options=options, **fields)  # type: ignore[arg-type]


def perturbed(model: nn.Module, kind, options: dict, std: float = 0.05, **fields: object) -> Adapter:
    """Injects and moves every parameter away from its start."""
    adapter = inject(model, config(kind, options, **fields))
    for _, parameter in adapter.named_parameters():
        parameter.data += torch.randn_like(parameter) * std
    return adapter


def made(kind, options: dict, width: int = 6, rank: int = 4, rows: int = 5):
    return kind(width, rank, **options, **({"rows": rows} if needs_rows(kind) else {}))


@every
def test_gradients(kind, options: dict) -> None:
    generator, weight = filled(made(kind, options)), torch.randn(5, 6, dtype=torch.float64)
    names = [name for name, _ in generator.named_parameters()]

    def change(*values: torch.Tensor) -> torch.Tensor:
        left, right = torch.func.functional_call(generator, dict(zip(names, values, strict=True)), (weight,))
        return left @ right

    assert torch.autograd.gradcheck(change, tuple(generator.parameters()))


@every
def test_step_zero_is_the_pretrained_llama_and_moves_from_there(kind, options: dict, llama: LlamaForCausalLM) -> None:
    before = llama(IDS).logits
    adapter = inject(llama, config(kind, options))
    after = llama(IDS).logits
    assert torch.equal(after, before)
    after.square().sum().backward()
    for group in adapter.groups:
        assert any(parameter.grad.any() for parameter in group.generator.parameters())


@every
def test_step_zero_is_the_pretrained_vit(kind, options: dict) -> None:
    # Frozen already, and without gradients: torch chooses other kernels for weights that are trained.
    model, images = TinyViT().requires_grad_(False), torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        before = model(images)
        adapter = inject(model, config(kind, options, targets=["attn.proj", "mlp.0"]))
        assert torch.equal(model(images), before)
    model(images).square().sum().backward()
    assert all(any(parameter.grad.any() for parameter in g.generator.parameters()) for g in adapter.groups)


@hidden
def test_after_one_step_every_parameter_is_trained(kind, options: dict) -> None:
    generator, weight = made(kind, options), torch.randn(5, 6)
    nn.init.normal_(generator.psi)
    left, right = generator(weight)
    (left @ right).square().sum().backward()
    # A constant added to all keys shifts every logit of a query alike, and so changes nothing.
    idle = [name for name, p in generator.named_parameters() if not p.grad.any() and not name.endswith("key.bias")]
    assert not idle


@hidden
def test_only_psi_may_start_at_zero_unless_zero_maps_to_zero(kind, options: dict) -> None:
    for zero in kind.zeros:
        generator = kind(6, 4, zero=zero, **options, **({"rows": 5} if needs_rows(kind) else {}))
        left, right = generator(torch.randn(5, 6))
        assert not (left @ right).any()
        (left @ right).sum().backward()
        assert generator.get_parameter(zero).grad.any()
    assert "psi" in kind.zeros


@every
def test_merge_equals_forward_and_unmerges(kind, options: dict, llama: LlamaForCausalLM) -> None:
    llama.double()
    before = llama(IDS).logits
    adapter = perturbed(llama, kind, options)
    expected = llama(IDS).logits
    assert not torch.allclose(expected, before)
    weights = {site.name: site.module.weight.detach().clone() for site in adapter.sites}
    changes = {site.name: torch.linalg.multi_dot(site.factors(torch.float64)) for site in adapter.sites}
    merge(llama, adapter, keep_base=True)
    torch.testing.assert_close(llama(IDS).logits, expected, rtol=1e-10, atol=1e-10)
    for site in adapter.sites:
        merged = site.module.weight.detach() - weights[site.name]
        torch.testing.assert_close(merged, changes[site.name], rtol=1e-9, atol=1e-12)
    unmerge(llama, adapter)
    torch.testing.assert_close(llama(IDS).logits, expected, rtol=1e-12, atol=1e-12)


@every
def test_the_lora_export_holds_the_change_and_peft_computes_it(
    kind, options: dict, llama: LlamaForCausalLM, tmp_path: Path
) -> None:
    adapter = perturbed(llama, kind, options)
    expected = llama(IDS).logits
    adapter.export_lora(tmp_path, base_name="some/base", task_type="CAUSAL_LM")
    assert json.loads((tmp_path / "adapter_config.json").read_text())["r"] == 4 + bool(options.get("bias"))
    changes = {site.name: torch.linalg.multi_dot(site.factors(torch.float64)) for site in adapter.sites}
    adapter.remove()
    loaded = PeftModel.from_pretrained(llama, tmp_path)
    torch.testing.assert_close(loaded(IDS).logits, expected, rtol=1e-4, atol=1e-5)
    for name, change in changes.items():
        layer = loaded.get_submodule(f"base_model.model.{name}")
        held = layer.lora_B["default"].weight.double() @ layer.lora_A["default"].weight.double()
        torch.testing.assert_close(held, change, rtol=1e-5, atol=1e-7)


@every
def test_save_and_load(kind, options: dict, llama: LlamaForCausalLM, tmp_path: Path) -> None:
    adapter = perturbed(llama, kind, options)
    expected = llama(IDS).logits
    adapter.save(tmp_path)
    adapter.remove()
    loaded = load_adapter(llama, tmp_path)
    assert torch.equal(llama(IDS).logits, expected)
    assert loaded.config.to_dict() == adapter.config.to_dict()
    assert type(loaded.groups[0].generator) is kind


@every
def test_deep_copies_are_independent(kind, options: dict, llama: LlamaForCausalLM) -> None:
    adapter = perturbed(llama, kind, options)
    before = llama(IDS).logits
    twin = copy.deepcopy(llama)
    assert torch.equal(twin(IDS).logits, before)
    for _, parameter in twin._wegeft_adapter.named_parameters():
        nn.init.zeros_(parameter)
    assert torch.equal(llama(IDS).logits, before)
    assert not torch.allclose(twin(IDS).logits, before)
    assert sum(count(group.generator) for group in adapter.groups) == adapter.num_parameters()


@hidden
def test_a_bfloat16_weight_is_never_copied_to_float32(kind, options: dict) -> None:
    weight = torch.randn(5, 6)
    generator = made(kind, options)
    nn.init.normal_(generator.psi)
    products = []
    tokens = generator.tokens

    def watched(given: torch.Tensor) -> torch.Tensor:
        assert given.dtype == torch.bfloat16
        products.append(tokens(given))
        return products[-1]

    generator.tokens = watched
    left, right = generator(weight.bfloat16())
    assert products[0].dtype == left.dtype == right.dtype == torch.float32
    exact = generator.forward.__get__(generator)
    generator.tokens = tokens
    wide, _ = exact(weight.bfloat16().float())
    # The product W phi is rounded to 2^-8 of a value, once; the map passes it on without blowing it up.
    assert (left - wide).abs().max() < 8 * 2**-8 * wide.abs().max()


@hidden
def test_a_bfloat16_base_and_autocast(kind, options: dict, llama: LlamaForCausalLM) -> None:
    adapter = perturbed(llama, kind, options, std=0.01)
    expected = llama(IDS).logits
    site = adapter.sites[0]
    plain = site.generator(site.module.weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = site.generator(site.module.weight)
        logits = llama(IDS).logits
    assert all(torch.equal(a, b) for a, b in zip(plain, mixed, strict=True))
    bound = 8 * 2**-8 * expected.abs().max()  # a bfloat16 base alone is off by half of that
    assert (logits.float() - expected).abs().max() < bound
    for parameter in llama.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.bfloat16()
    logits = llama(IDS).logits
    assert logits.dtype == torch.bfloat16
    assert (logits.float() - expected).abs().max() < bound
    logits.float().sum().backward()
    assert {p.grad.dtype for _, p in adapter.named_parameters() if p.grad is not None} == {torch.float32}


@pytest.mark.parametrize("kind", [PaCaGenerator, GIFTGenerator])
def test_drop_path_acts_in_training_and_never_in_what_is_merged(kind, llama: LlamaForCausalLM) -> None:
    adapter = perturbed(llama, kind, {"drop_path": 0.9, "clusters": 3})
    llama.eval()
    expected = llama(IDS).logits
    assert torch.equal(llama(IDS).logits, expected)
    llama.train()
    assert len({float(llama(IDS).logits.sum().detach()) for _ in range(10)}) > 1
    site = adapter.sites[0]
    assert all(torch.equal(a, b) for a, b in zip(site.factors(), site.factors(), strict=True))
    assert site.generator.training
    assert all(module.training for module in site.generator.modules())
    merge(llama, adapter)
    llama.eval()
    torch.testing.assert_close(llama(IDS).logits, expected, rtol=1e-4, atol=1e-5)


@hidden
@pytest.mark.parametrize("sharing", ["type", "all", "layer"])
def test_sharing(kind, options: dict, sharing: str, llama: LlamaForCausalLM) -> None:
    # q_proj has 16 rows and v_proj 8, both 16 columns: one generator serves them unless it is built for its rows.
    wanted = config(kind, options, targets=["q_proj", "v_proj"], sharing=sharing)
    if sharing == "all" and needs_rows(kind):
        message = r"Generator is built for one number of rows, and in group width_16 .*q_proj has 16 and .* has 8; use"
        with pytest.raises(ValueError, match=message):
            inject(llama, wanted)
        return
    before = llama(IDS).logits
    adapter = inject(llama, wanted)
    assert len(adapter.groups) == {"type": 2, "all": 1, "layer": 4}[sharing]
    assert torch.equal(llama(IDS).logits, before)


def test_transposed_linears_and_convolutions_are_seen_as_rows(gpt2: GPT2LMHeadModel) -> None:
    for model, inputs, targets in (
        (gpt2.double(), IDS, ["c_attn"]),
        (TinyViT().double(), torch.randn(2, 3, 8, 8, dtype=torch.float64), ["patch_embed"]),
    ):
        for kind, options in HIDDEN:
            adapter = perturbed(model.eval(), kind, options, targets=targets)
            expected = _output(model, inputs)
            merge(model, adapter, keep_base=True)
            torch.testing.assert_close(_output(model, inputs), expected, rtol=1e-9, atol=1e-9)
            unmerge(model, adapter)
            adapter.remove()


def _output(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    result = model(inputs)
    return result if isinstance(result, torch.Tensor) else result.logits


def test_compiled_as_one_graph(llama: LlamaForCausalLM) -> None:
    perturbed(llama, PaCaGenerator, {"clusters": 3})
    expected = llama(IDS, use_cache=False).logits
    compiled = torch.compile(llama, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(IDS, use_cache=False).logits, expected)
