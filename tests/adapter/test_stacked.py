"""Stacked expert weights of transformers: their geometry, proven on the real classes."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from wegeft_pl.adapter.fused import part_sizes
from wegeft_pl.adapter.stacked import stack_of

# Widths of whole 16 bytes in float32, as grouped_mm demands.
HIDDEN, INNER, EXPERTS, TOKENS, TOP = 8, 12, 4, 7, 2
IMPLEMENTATIONS = ["eager", "batched_mm", "grouped_mm"]


def make_experts(kind: str, implementation: str = "eager") -> nn.Module:
    """Builds an experts module of a class given as folder.Class, with random weights."""
    folder, name = kind.split(".")
    config = SimpleNamespace(
        **dict.fromkeys(("hidden_size", "moe_hidden_size"), HIDDEN),
        **dict.fromkeys(("intermediate_size", "moe_intermediate_size", "expert_ffn_hidden_size"), INNER),
        **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), EXPERTS),
        **dict.fromkeys(("hidden_act", "hidden_activation", "mlp_hidden_act"), "silu"),
        moe_latent_size=None,
        n_shared_experts=2,
        zero_expert_num=1,
        swiglu_limit=7.0,
        swiglu_alpha=1.7,
        **dict.fromkeys(("mlp_gate_softcap", "mlp_up_softcap"), 1e8),  # too far away to bend anything
        post_norm_eps=1e-6,
        _experts_implementation=implementation,
    )
    module = importlib.import_module(f"transformers.models.{folder}.modeling_{folder}")
    experts = getattr(module, name)(config)
    if name == "MuseSparkExperts":
        experts.post_expert_norm = nn.Identity()  # it would hide what is linear in what
    return randomised(experts, dtype_of(implementation))


def dtype_of(implementation: str) -> torch.dtype:
    """float64, except for grouped_mm, which has no such kernel."""
    return torch.float32 if implementation == "grouped_mm" else torch.float64


def randomised(module: nn.Module, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Fills every parameter with numbers: torch.empty leaves what was there."""
    generator = torch.Generator().manual_seed(0)
    module.to(dtype).requires_grad_(False)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, 0.3, generator=generator)
    return module


def routed(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    """Random tokens (TOKENS, HIDDEN), chosen experts (TOKENS, TOP) and their weights."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(TOKENS, HIDDEN, generator=generator, dtype=dtype)
    chosen = torch.stack([torch.randperm(EXPERTS, generator=generator)[:TOP] for _ in range(TOKENS)])
    return x, chosen, torch.rand(TOKENS, TOP, generator=generator, dtype=dtype)


def change(dtype: torch.dtype) -> Tensor:
    """A random I + phi psi of rank 2 (HIDDEN, HIDDEN)."""
    generator = torch.Generator().manual_seed(2)
    phi, psi = torch.randn(2, HIDDEN, 2, generator=generator, dtype=dtype) * 0.5
    return torch.eye(HIDDEN, dtype=dtype) + phi @ psi.T


def edit_every_expert(weight: Tensor, transposed: bool) -> None:
    """Makes every W_e (O, I) of a stack W_e (I + phi psi), in place."""
    whole = change(weight.dtype)
    weight.copy_(whole.T @ weight if transposed else weight @ whole)


def tolerance(kind: str, implementation: str = "eager") -> float:
    """The relative difference allowed: some compute in float32 inside."""
    inside = kind.startswith(("beam", "openai_privacy_filter")) or implementation == "grouped_mm"
    return 1e-5 if inside else 1e-10


def decorated() -> list[str]:
    """Every class of transformers under @use_experts_implementation, as folder.Class, read from the sources."""
    found = []
    for path in sorted(Path(transformers.__file__).parent.glob("models/*/modeling_*.py")):
        for name in re.findall(r"^@use_experts_implementation.*\nclass (\w+)", path.read_text(), re.MULTILINE):
            found.append(f"{path.parent.name}.{name}")
    return found


def check_reads_input(kind: str, implementation: str) -> None:
    """An edit of every expert's weight equals an edit of the module's first argument."""
    module = make_experts(kind, implementation)
    first = next(name for name in ("gate_up_proj", "up_proj") if name in dict(module.named_parameters()))
    stack = stack_of(module, first)
    assert stack is not None
    assert stack.reads == "input"
    assert (stack.num_experts, stack.in_features) == (EXPERTS, HIDDEN)
    assert stack.out_features == (2 * INNER if first == "gate_up_proj" else INNER)
    x, chosen, weights = routed(dtype_of(implementation))
    before, by_input = module(x, chosen, weights), module(x @ change(x.dtype).T, chosen, weights)
    edit_every_expert(module.get_parameter(first), stack.transposed)
    by_weight = module(x, chosen, weights)
    torch.testing.assert_close(
        by_weight, by_input, rtol=0, atol=tolerance(kind, implementation) * float(by_input.abs().max())
    )
    assert not torch.allclose(before, by_input, rtol=1e-2)


def check_parts(kind: str) -> None:
    """The output is affine in the rows of up, and not in those of gate."""
    module = make_experts(kind)
    parts = part_sizes(module, "gate_up_proj")
    stack = stack_of(module, "gate_up_proj")
    assert parts is not None
    assert stack is not None
    x, chosen, weights = routed()
    bends = {}
    for part in parts:
        outputs = []
        for scale in (0.0, 0.5, 1.0):
            scaled = make_experts(kind)
            for name, axis in (("gate_up_proj", 2 if stack.transposed else 1), ("gate_up_proj_bias", 1)):
                if name in dict(scaled.named_parameters()):
                    parameter, chosen_rows = scaled.get_parameter(name), rows(parts, part)
                    parameter.index_copy_(axis, chosen_rows, scale * parameter.index_select(axis, chosen_rows))
            outputs.append(scaled(x, chosen, weights))
        bends[part] = float((outputs[0] + outputs[2] - 2 * outputs[1]).abs().max() / outputs[2].abs().max())
    assert bends["up"] <= tolerance(kind) < 1e-3 < bends["gate"], (kind, bends)


def rows(parts: dict[str, int], part: str) -> Tensor:
    """The output features of one part, over as many periods as fit into 2 * INNER."""
    period, names = sum(parts.values()), list(parts)
    start = sum(parts[name] for name in names[: names.index(part)])
    return torch.tensor([i for i in range(2 * INNER) if start <= i % period < start + parts[part]])


@pytest.mark.parametrize("kind", decorated())
def test_every_decorated_class(kind: str) -> None:
    for implementation in IMPLEMENTATIONS:
        check_reads_input(kind, implementation)
    module = make_experts(kind)
    inner = stack_of(module, "down_proj")
    assert inner is not None
    assert (inner.reads, inner.num_experts, inner.in_features, inner.out_features) == ("inner", EXPERTS, INNER, HIDDEN)
    if stack_of(module, "gate_up_proj") is not None:
        check_parts(kind)


def test_the_sweep_meets_every_way_to_store() -> None:
    kinds = decorated()
    assert len(kinds) >= 65
    stored = set()
    for kind in kinds:
        state = vars(make_experts(kind))
        stored.add((state["is_transposed"], state["is_concatenated"], state["has_bias"], state["has_gate"]))
    assert stored == {
        (False, True, False, True),
        (True, True, False, True),
        (True, False, True, True),
        (True, True, True, True),
        (False, True, False, False),
    }


def test_biases_are_named() -> None:
    stack = stack_of(make_experts("gpt_oss.GptOssExperts"), "gate_up_proj")
    assert stack is not None
    assert (stack.bias, stack.transposed) == ("gate_up_proj_bias", True)
    assert part_sizes(make_experts("gpt_oss.GptOssExperts"), "gate_up_proj") == {"gate": 1, "up": 1}
    plain = stack_of(make_experts("mixtral.MixtralExperts"), "gate_up_proj")
    assert plain is not None
    assert (plain.bias, plain.transposed) == (None, False)
    assert part_sizes(make_experts("mixtral.MixtralExperts"), "gate_up_proj") == {"gate": INNER, "up": INNER}


def make_undecorated(kind: str) -> tuple[nn.Module, str, tuple[Any, ...]]:
    """A stack without the decorator, the parameter, and what follows its input in a call."""
    folder, name = kind.split(".")
    kinds = vars(importlib.import_module(f"transformers.models.{folder}.modeling_{folder}"))
    _, chosen, weights = routed()
    if name in ("Llama4TextExperts", "Step3p7Experts", "LongcatFlashExperts"):
        return make_experts(kind), "gate_up_proj", () if name == "Llama4TextExperts" else (chosen, weights)
    if name == "JetMoeParallelExperts":
        return randomised(kinds[name](EXPERTS, HIDDEN, INNER)), "weight", ([2, 2, 3, 0],)
    if name == "CsmCodebooksHead":
        head = kinds[name](HIDDEN, EXPERTS + 1, INNER)
        return randomised(head), "weight", (torch.arange(1, EXPERTS + 1),)
    return randomised(kinds[name](HIDDEN, INNER, EXPERTS)), "weight", ()


@pytest.mark.parametrize(
    "kind",
    [
        "llama4.Llama4TextExperts",
        "step3p7.Step3p7Experts",
        "jetmoe.JetMoeParallelExperts",
        "moshi.MoshiFlexibleLinear",
        "kyutai_speech_to_text.KyutaiSpeechToTextFlexibleLinear",
        "csm.CsmCodebooksHead",
    ],
)
def test_classes_without_the_decorator(kind: str) -> None:
    module, parameter, rest = make_undecorated(kind)
    stack = stack_of(module, parameter)
    assert stack is not None
    assert stack.reads == "input"
    assert (stack.num_experts, stack.in_features) == (EXPERTS, HIDDEN)
    assert stack.out_features == (2 * INNER if parameter == "gate_up_proj" else INNER)
    x, _, _ = routed()
    if kind.startswith("llama4"):
        x = x.repeat(EXPERTS, 1)  # every expert has its own rows of the input
    elif not kind.startswith(("jetmoe", "step3p7")):
        x = x[:EXPERTS].expand(2, -1, -1)  # (B, E, I): each position has its own
    by_input = module(x @ change(x.dtype).T, *rest)
    edit_every_expert(module.get_parameter(parameter), stack.transposed)
    torch.testing.assert_close(module(x, *rest), by_input, rtol=0, atol=1e-10 * float(by_input.abs().max()))


def test_experts_that_return_their_input_are_inner() -> None:
    module, parameter, (chosen, weights) = make_undecorated("longcat_flash.LongcatFlashExperts")
    stack = stack_of(module, parameter)
    assert stack is not None
    assert stack.reads == "inner"
    chosen[0, 0] = EXPERTS  # the zero-compute expert
    x, _, _ = routed()
    by_input = module(x @ change(x.dtype).T, chosen, weights)
    edit_every_expert(module.get_parameter(parameter), stack.transposed)
    assert not torch.allclose(module(x, chosen, weights), by_input, rtol=1e-2)


def test_shared_experts_with_two_readers_of_the_input_are_inner() -> None:
    module = make_experts("inkling.InklingSharedExperts")
    shapes = {name: stack_of(module, name) for name in ("gate_proj", "up_proj", "down_proj")}
    assert {name: stack.reads for name, stack in shapes.items() if stack} == dict.fromkeys(shapes, "inner")


def test_gates_of_classes_without_the_decorator() -> None:
    for kind in ("llama4.Llama4TextExperts", "step3p7.Step3p7Experts", "longcat_flash.LongcatFlashExperts"):
        module, _, _ = make_undecorated(kind)
        assert part_sizes(module, "gate_up_proj") == {"gate": INNER, "up": INNER}
    check_parts("step3p7.Step3p7Experts")


def test_what_is_not_known_is_none() -> None:
    module = make_experts("mixtral.MixtralExperts")
    assert stack_of(module, "no_such") is None
    assert part_sizes(module, "down_proj") is None
    own = nn.Module()
    own.gate_up_proj = nn.Parameter(torch.zeros(2, 3, 4))
    assert stack_of(own, "gate_up_proj") is None
    assert part_sizes(own, "gate_up_proj") is None
