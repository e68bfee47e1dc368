"""Stacked expert weights of transformers: their geometry, proven on the real classes."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from torch import Tensor, nn

from wegeft_pl.adapter.fused import part_sizes
from wegeft_pl.adapter.stacked import Stack, stack_of

HIDDEN, INNER, EXPERTS, TOKENS, TOP = 8, 6, 4, 7, 2
# One of each way to store and gate; test_every_decorated_class runs the others.
KINDS = [
    "mixtral.MixtralExperts",  # concatenated, (E, O, I)
    "aria.AriaExperts",  # concatenated, (E, I, O)
    "gpt_oss.GptOssExperts",  # interleaved, (E, I, O), biases
    "nemotron_h.NemotronHExperts",  # no gate
    "deepseek_v4.DeepseekV4Experts",  # a gate of its own
]
IMPLEMENTATIONS = ["eager", "batched_mm", "grouped_mm"]


def make_experts(kind: str, implementation: str = "eager") -> nn.Module:
    """Builds an experts module of a class given as folder.Class, with random weights in float64."""
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
        post_norm_eps=1e-6,
        _experts_implementation=implementation,
    )
    module = importlib.import_module(f"transformers.models.{folder}.modeling_{folder}")
    return randomised(getattr(module, name)(config))


def randomised(module: nn.Module) -> nn.Module:
    """Fills every parameter with numbers in float64: torch.empty leaves what was there."""
    generator = torch.Generator().manual_seed(0)
    module.double()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, 0.3, generator=generator)
    return module


def routed() -> tuple[Tensor, Tensor, Tensor]:
    """Random tokens (TOKENS, HIDDEN), chosen experts (TOKENS, TOP) and their weights."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(TOKENS, HIDDEN, generator=generator, dtype=torch.float64)
    chosen = torch.stack([torch.randperm(EXPERTS, generator=generator)[:TOP] for _ in range(TOKENS)])
    return x, chosen, torch.rand(TOKENS, TOP, generator=generator, dtype=torch.float64)


def factors() -> tuple[Tensor, Tensor]:
    """Random phi (HIDDEN, 2) and psi (2, HIDDEN)."""
    generator = torch.Generator().manual_seed(2)
    return (
        torch.randn(HIDDEN, 2, generator=generator, dtype=torch.float64),
        torch.randn(2, HIDDEN, generator=generator, dtype=torch.float64),
    )


def edit_every_expert(weight: Tensor, transposed: bool) -> None:
    """Makes every W_e (O, I) of a stack W_e (I + phi psi), in place."""
    phi, psi = factors()
    whole = torch.eye(HIDDEN, dtype=torch.float64) + phi @ psi
    with torch.no_grad():
        weight.copy_(whole.T @ weight if transposed else weight @ whole)


def edit_input(x: Tensor) -> Tensor:
    """x (I + phi psi)^T."""
    phi, psi = factors()
    return x + x @ psi.T @ phi.T


def tolerance(kind: str) -> float:
    """The relative difference allowed: two classes compute in float32 inside."""
    return 1e-5 if kind.split(".")[0] in ("beam", "openai_privacy_filter", "inkling2", "inkling") else 1e-10


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
    assert stack is not None and stack.reads == "input"
    assert (stack.num_experts, stack.in_features) == (EXPERTS, HIDDEN)
    assert stack.out_features == (2 * INNER if first == "gate_up_proj" else INNER)
    x, chosen, weights = routed()
    before, by_input = module(x, chosen, weights), module(edit_input(x), chosen, weights)
    edit_every_expert(module.get_parameter(first), stack.transposed)
    by_weight = module(x, chosen, weights)
    torch.testing.assert_close(by_weight, by_input, rtol=0, atol=tolerance(kind) * float(by_input.abs().max()))
    assert not torch.allclose(before, by_input, rtol=1e-2)


def check_parts(kind: str) -> None:
    """The output is affine in the rows of up, and not in those of gate."""
    module = make_experts(kind)
    parts = part_sizes(module, "gate_up_proj")
    stack = stack_of(module, "gate_up_proj")
    assert parts is not None and stack is not None
    x, chosen, weights = routed()
    bends = {}
    for part in parts:
        outputs = []
        for scale in (0.0, 0.5, 1.0):
            scaled = make_experts(kind)
            with torch.no_grad():
                for name, axis in (("gate_up_proj", 2 if stack.transposed else 1), ("gate_up_proj_bias", 1)):
                    if name in dict(scaled.named_parameters()):
                        parameter = scaled.get_parameter(name)
                        parameter.index_copy_(axis, rows(parts, part), scale * parameter.index_select(axis, rows(parts, part)))
            outputs.append(scaled(x, chosen, weights))
        bends[part] = float((outputs[0] + outputs[2] - 2 * outputs[1]).abs().max() / outputs[2].abs().max())
    assert bends["up"] <= tolerance(kind) < 1e-3 < bends["gate"], (kind, bends)


def rows(parts: dict[str, int], part: str) -> Tensor:
    """The output features of one part, over as many periods as fit into 2 * INNER."""
    period, names = sum(parts.values()), list(parts)
    start = sum(parts[name] for name in names[: names.index(part)])
    return torch.tensor([i for i in range(2 * INNER) if start <= i % period < start + parts[part]])


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_an_edit_of_every_expert_is_an_edit_of_the_input(kind: str, implementation: str) -> None:
    check_reads_input(kind, implementation)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "nemotron" not in kind])
def test_gate_and_up_are_where_the_table_says(kind: str) -> None:
    check_parts(kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", decorated())
def test_every_decorated_class(kind: str) -> None:
    for implementation in IMPLEMENTATIONS:
        check_reads_input(kind, implementation)
    if stack_of(make_experts(kind), "gate_up_proj") is not None:
        check_parts(kind)
