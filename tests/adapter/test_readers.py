"""Who reads a weight without calling its layer, proven on the real classes: the layer's hook stays silent."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torchvision
import transformers
from adapter.bypassed import prove_bypassed, prove_called
from adapter.tiny_layers import GRID, HEADS, TOKENS, WIDTH, class_of, from_config, inputs, ready
from torch import nn

from wegeft_pl.adapter.readers import _READERS, reader_of, reshapes_output, transforms_weight

HF = "transformers.models."


# --- torch, torchvision, timm --------------------------------------------------------------------------------------


def test_multi_head_attention_reads_its_own_and_its_output_projection() -> None:
    x, _ = inputs(GRID)
    module = ready(nn.MultiheadAttention(WIDTH, HEADS, batch_first=True))
    prove_bypassed(module, "out_proj", lambda layer: layer(x, x, x))
    unequal = nn.Sequential(nn.MultiheadAttention(WIDTH, HEADS, kdim=4, vdim=4))
    for name in ("q_proj_weight", "k_proj_weight", "v_proj_weight"):
        assert reader_of(unequal, "0", name) == "0"
    assert reader_of(nn.Sequential(module), "0", "in_proj_weight") == "0"
    assert reader_of(nn.Sequential(module), "0.out_proj", "bias") == "0"


def test_a_hook_anywhere_turns_off_the_fast_path_of_torchs_encoder() -> None:
    layer = ready(nn.TransformerEncoderLayer(WIDTH, HEADS, WIDTH, batch_first=True))
    x, _ = inputs(GRID)
    for leaf in ("linear1", "linear2"):
        prove_called(layer, leaf, lambda module: module(x))


@pytest.mark.parametrize("leaf", ["qkv", "proj"])
@pytest.mark.parametrize("kind", ["ShiftedWindowAttention", "ShiftedWindowAttentionV2"])
def test_swin_of_torchvision(kind: str, leaf: str) -> None:
    module = ready(getattr(torchvision.models.swin_transformer, kind)(WIDTH, [2, 2], [0, 0], HEADS))
    x, _ = inputs((2, 4, 4, WIDTH))
    prove_bypassed(module, leaf, lambda layer: layer(x))


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("timm.models.beit.Attention", (WIDTH, HEADS)),
        ("timm.models.eva.EvaAttention", (WIDTH, HEADS)),
        ("timm.models.swin_transformer_v2.WindowAttention", (WIDTH, (4, 4), HEADS)),
    ],
)
def test_biases_beside_the_weight(name: str, args: tuple[Any, ...]) -> None:
    x, _ = inputs(GRID)
    given = {"norm_layer": nn.LayerNorm} if "eva" in name else {}

    def build(**settings: Any) -> nn.Module:
        return ready(class_of(name)(*args, **given, **settings))

    prove_bypassed(build(qkv_bias=True), "qkv", lambda layer: layer(x))
    prove_called(build(qkv_bias=False), "qkv", lambda layer: layer(x))
    separate = build(qkv_bias=True)
    separate.qkv_bias_separate = True
    prove_called(separate, "qkv", lambda layer: layer(x))


def test_naflex_embeddings_of_any_patch_size() -> None:
    kind = class_of("timm.models.naflexvit.NaFlexEmbeds")
    patches = torch.randn(2, TOKENS, 4, 4, 3, dtype=torch.float64)
    where = torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])[None].repeat(2, 1, 1)

    def build(**settings: Any) -> nn.Module:
        return ready(kind(patch_size=4, embed_dim=WIDTH, proj_type="linear", pos_embed_grid_size=(2, 2), **settings))

    prove_bypassed(build(enable_patch_interpolator=True), "proj", lambda layer: layer(patches, patch_coord=where))
    flat = patches.flatten(2)
    prove_called(build(), "proj", lambda layer: layer(flat, patch_coord=where))


# --- reader_of beside the table ------------------------------------------------------------------------------------


def test_what_is_called_has_no_reader() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Conv2d(1, 1, 1), nn.Embedding(3, 4), nn.Sequential(nn.Linear(4, 4)))
    for name in ("0", "1", "2", "3.0"):
        assert reader_of(model, name, "weight") is None
    gpt2 = transformers.GPT2Model(transformers.GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=5))
    assert reader_of(gpt2, "h.0.attn.c_attn", "weight") is None


def test_a_module_that_is_no_layer_reads_its_own() -> None:
    router = from_config(f"{HF}mixtral.modeling_mixtral.MixtralTopKRouter", num_experts=4)
    assert reader_of(nn.Sequential(router), "0", "weight") == "0"


def test_a_wrong_name_is_an_error() -> None:
    with pytest.raises(AttributeError, match="no attribute `nothing`"):
        reader_of(nn.Sequential(nn.Linear(2, 2)), "nothing", "weight")


def test_a_weight_that_is_computed_is_called_like_any_other() -> None:
    model = nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), nn.utils.spectral_norm(nn.Linear(4, 4))
    )
    assert reader_of(model, "0", "weight") is None
    assert reader_of(model, "1", "weight") is None


def test_every_reader_is_proven_above() -> None:
    folder = Path(__file__).parent
    source = "".join((folder / f"test_readers{more}.py").read_text() for more in ("", "_transformers"))
    for name in _READERS:
        assert name.rpartition(".")[2] in source, name


# --- layers that use a function of their weight --------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "timm.layers.std_conv.StdConv2d",
        "timm.layers.std_conv.StdConv2dSame",
        "timm.layers.std_conv.ScaledStdConv2d",
        "timm.layers.std_conv.ScaledStdConv2dSame",
        "transformers.models.bit.modeling_bit.WeightStandardizedConv2d",
    ],
)
def test_standardised_convolutions(name: str) -> None:
    layer = class_of(name)(4, 4, 3, eps=1e-6).double().requires_grad_(False)
    x = torch.randn(1, 4, 8, 8, dtype=torch.float64)
    before = layer(x)
    layer.get_parameter("weight").mul_(2)
    assert torch.allclose(layer(x), before, atol=1e-3)  # so not a linear function of the stored weight
    assert transforms_weight(layer) == f"{name.rpartition('.')[2]} standardises its weight before use"


def test_quantising_layers() -> None:
    layer = class_of("transformers.integrations.bitnet.AutoBitLinear")(4, 4, online_quant=True)
    assert transforms_weight(layer) == "AutoBitLinear quantises its input (and weight) at every use"
    aware = class_of("torchao.quantization.qat.linear.FakeQuantizedLinear")
    assert transforms_weight(aware.__new__(aware)) == "FakeQuantizedLinear quantises its input and weight at every use"


def test_two_weights_on_one_input() -> None:
    kind = class_of(f"{HF}idefics.modeling_idefics.IdeficsDecoupledLinear")
    reason = "IdeficsDecoupledLinear applies another weight, additional_fc, to the same input"
    assert transforms_weight(kind(4, 4, out_additional_features=2)) == reason
    assert transforms_weight(kind(4, 4)) is None


def test_weights_computed_by_torch() -> None:
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4))
    assert "ParametrizedLinear computes its weight from parametrizations.weight.original0" in str(
        transforms_weight(normed)
    )
    spectral = nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 4, 1))
    assert "ParametrizedConv2d computes its weight" in str(transforms_weight(spectral))
    old = nn.utils.spectral_norm(nn.Linear(4, 4))
    assert transforms_weight(old) == "Linear computes its weight from weight_orig at every use"
    pruned = importlib.import_module("torch.nn.utils.prune").identity(nn.Linear(4, 4), "weight")
    assert transforms_weight(pruned) == "Linear computes its weight from weight_orig at every use"


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(4, 4),
        nn.Conv2d(4, 4, 1),
        nn.LayerNorm(4),
        nn.ReLU(),
        class_of("timm.layers.conv2d_same.Conv2dSame")(4, 4, 3),
        class_of("timm.layers.conv2d_same.Conv2dSameExport")(4, 4, 3),
        class_of("timm.layers.linear.Linear")(4, 4),
        class_of(f"{HF}falcon.modeling_falcon.FalconLinear")(4, 4),
        class_of(f"{HF}esm.modeling_esmfold.EsmFoldLinear")(4, 4),
        class_of(f"{HF}perceiver.modeling_perceiver.Conv2dSamePadding")(4, 4, 3),
        class_of("transformers.pytorch_utils.Conv1D")(4, 4),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_plain_uses_of_the_weight(layer: nn.Module) -> None:
    assert transforms_weight(layer) is None
    assert reshapes_output(layer) is None


def test_layers_whose_output_is_more_than_a_product() -> None:
    config = SimpleNamespace(hidden_size=WIDTH, num_local_experts=4, num_experts_per_tok=2)
    router = class_of(f"{HF}llama4.modeling_llama4.Llama4Router")(config)
    assert isinstance(router(torch.zeros(2, WIDTH)), tuple)
    assert reshapes_output(router) == "Llama4Router returns the experts that it chose"
    config = SimpleNamespace(**vars(config), router_jitter_noise=0.0, input_jitter_noise=0.0)
    phimoe = class_of(f"{HF}phimoe.modeling_phimoe.PhimoeTopKRouter")(config)
    assert reshapes_output(phimoe) == "PhimoeTopKRouter returns the experts that it chose"
    grouped = class_of(f"{HF}deepseek_v4.modeling_deepseek_v4.DeepseekV4GroupedLinear")(4, 6, 2)
    assert grouped(torch.zeros(3, 2, 4)).shape == (3, 2, 3)
    assert reshapes_output(grouped) == "DeepseekV4GroupedLinear multiplies group by group"
