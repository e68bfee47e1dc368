"""The repeated blocks of each kind of backbone."""

from __future__ import annotations

from types import ModuleType

from torch import nn
from transformers import GPT2LMHeadModel, LlamaForCausalLM

from wegeft_pl.distributed import blocks_of


def test_hugging_face_models(llama: LlamaForCausalLM, gpt2: GPT2LMHeadModel) -> None:
    assert list(blocks_of(llama)) == ["model.layers.0", "model.layers.1"]
    assert list(blocks_of(gpt2)) == ["transformer.h.0", "transformer.h.1"]


def test_vision_transformer(timm: ModuleType) -> None:
    model = timm.create_model("vit_tiny_patch16_224", pretrained=False, depth=3)
    assert list(blocks_of(model)) == ["blocks.0", "blocks.1", "blocks.2"]


def test_lists_of_plain_layers_and_of_mixed_ones_are_no_blocks() -> None:
    plain = nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)])
    mixed = nn.ModuleList([nn.Sequential(nn.Linear(2, 2)), nn.ModuleDict({"a": nn.Linear(2, 2)})])
    bare = nn.ModuleList([nn.Sequential(nn.ReLU()), nn.Sequential(nn.ReLU())])
    assert blocks_of(nn.ModuleDict({"plain": plain, "mixed": mixed, "bare": bare})) == {}


def test_blocks_inside_blocks_belong_to_the_outer_ones() -> None:
    def expert() -> nn.Module:
        return nn.ModuleDict({"up": nn.Linear(2, 4)})

    def layer() -> nn.Module:
        return nn.ModuleDict({"experts": nn.ModuleList([expert(), expert()])})

    assert list(blocks_of(nn.ModuleList([layer(), layer()]))) == ["0", "1"]
