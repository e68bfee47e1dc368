"""Where the parts of a layer are looked up, and what is not known."""

from __future__ import annotations

import timm
from adapter.fused_vision import TIMM
from adapter.tiny_layers import HEADS, WIDTH, class_of
from torch import Tensor, nn

from wegeft_pl.adapter.fused import part_sizes, parts_at


def test_unknown_layers_are_none() -> None:
    model = timm.create_model("vit_tiny_patch16_224", embed_dim=WIDTH, depth=1, num_heads=HEADS)
    block = model.get_submodule("blocks.0")
    assert part_sizes(block.get_submodule("attn"), "proj") is None
    assert part_sizes(block.get_submodule("mlp"), "fc1") is None
    assert part_sizes(block, "attn") is None
    assert part_sizes(nn.Sequential(nn.Linear(4, 12)), "0") is None


def test_a_layer_that_these_settings_do_not_build_is_none() -> None:
    eva = class_of("timm.models.eva.EvaAttention")(WIDTH, HEADS, qkv_fused=False, norm_layer=nn.LayerNorm)
    assert part_sizes(eva, "qkv") is None
    unequal = nn.MultiheadAttention(WIDTH, HEADS, kdim=4, vdim=4)
    assert part_sizes(unequal, "in_proj_weight") is None


def test_a_subclass_counts_while_it_keeps_the_forward() -> None:
    kind = class_of("timm.layers.attention.Attention")

    class Renamed(kind):  # type: ignore[misc, valid-type]
        pass

    class Rewritten(kind):  # type: ignore[misc, valid-type]
        def forward(self, x: Tensor) -> Tensor:
            return x

    assert part_sizes(Renamed(WIDTH, HEADS), "qkv") == {"q": WIDTH, "k": WIDTH, "v": WIDTH}
    assert part_sizes(Rewritten(WIDTH, HEADS), "qkv") is None


def test_parts_are_found_through_a_wrapper() -> None:
    levit = next(case for case in TIMM if case.name.endswith("levit.Attention")).build()
    model = nn.Sequential(levit)
    assert parts_at(model, "0.qkv.linear") == {"q": 4, "k": 4, "v": 8}
    assert parts_at(model, "0.proj.ln.linear") is None
    assert parts_at(model, "0") is None
    assert parts_at(levit, "qkv.linear") == {"q": 4, "k": 4, "v": 8}
