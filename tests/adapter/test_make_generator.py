from __future__ import annotations

import pytest
from torch import nn
from transformers import LlamaForCausalLM

from wegeft_pl import AdapterConfig, inject
from wegeft_pl.adapter.layout import Layout
from wegeft_pl.adapter.make_generator import make_generator
from wegeft_pl.generators import GELUGenerator, MixerGenerator, PaCaGenerator


def no_generator(width: int, rank: int, zero: str, side: str) -> nn.Module:
    return nn.Linear(width, rank)


def made(*layouts: Layout, **fields: object):
    config = AdapterConfig(**({"targets": ["layer"], "rank": 2} | fields))  # type: ignore[arg-type]
    return make_generator(config, "group", {f"layer_{i}": layout for i, layout in enumerate(layouts)})


@pytest.mark.parametrize(
    ("layout", "rows"),
    [
        (Layout("linear", 6, 5), 5),
        (Layout("conv1d", 6, 5), 5),
        (Layout("conv2d", 6, 8, groups=2, kernel=(3, 2)), 48),
    ],
)
def test_rows_are_those_of_the_matrix(layout: Layout, rows: int) -> None:
    mixer = made(layout, generator=MixerGenerator)
    assert mixer.blocks[0].tokens.branch.up.out_features == rows == layout.rows("input")


def test_rows_may_differ_unless_the_generator_is_built_for_them() -> None:
    two = Layout("linear", 6, 5), Layout("linear", 6, 4)
    assert isinstance(made(*two, generator=PaCaGenerator), PaCaGenerator)
    message = r"MixerGenerator is built for one number of rows, and in group group layer_0 has 5 and layer_1 has 4; use"
    with pytest.raises(ValueError, match=message):
        made(*two, generator=MixerGenerator)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"generator": no_generator}, r"generator: <function no_generator .* made a Linear, not a Generator"),
        ({"generator": GELUGenerator, "form": "edit"}, r"form: edit needs a generator that is linear in W, and GELUG"),
        (
            {"generator": GELUGenerator, "side": "output"},
            r"side: output needs a generator that is linear in W, and GELU",
        ),
        ({"generator": PaCaGenerator, "zero": "phi"}, r"PaCaGenerator can start at zero by psi only, got zero: phi"),
        ({"generator": PaCaGenerator, "generator_options": {"heads": 3}}, r"heads: 3 does not divide the 2 channels"),
    ],
)
def test_contradictions_are_refused(fields: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(Layout("linear", 6, 5), **fields)


def test_a_refused_option_leaves_the_model_as_it_was(llama: LlamaForCausalLM) -> None:
    config = AdapterConfig(["q_proj"], rank=4, generator=PaCaGenerator, generator_options={"clusters": -1})
    with pytest.raises(ValueError, match=r"clusters must be an integer of at least 1, got -1"):
        inject(llama, config)
    assert all(parameter.requires_grad for parameter in llama.parameters())
    assert not any("wegeft" in name for name, _ in llama.named_modules())
