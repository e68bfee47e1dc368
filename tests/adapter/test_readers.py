"""Who reads a weight without calling its layer, proven on the real classes: the layer's hook stays silent."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torchvision
import transformers
from tiny_layers import GRID, HEADS, TOKENS, WIDTH, class_of, from_config, inputs, ready
from torch import Tensor, nn

from wegeft_pl.adapter.readers import _READERS, reader_of, reshapes_output, transforms_weight

HF = "transformers.models."


def calls(module: nn.Module, leaf: str, run: Callable[[nn.Module], Any]) -> int:
    """How often the layer is called while the module runs."""
    seen: list[nn.Module] = []
    handle = module.get_submodule(leaf).register_forward_pre_hook(lambda layer, args: seen.append(layer))
    run(module)
    handle.remove()
    return len(seen)


def result(module: nn.Module, run: Callable[[nn.Module], Any]) -> Tensor:
    """The first tensor of what the module returns."""
    output = run(module)
    while isinstance(output, tuple | list):
        output = output[0]
    assert isinstance(output, Tensor)
    return output.clone()


def prove_bypassed(module: nn.Module, leaf: str, run: Callable[[nn.Module], Any]) -> None:
    """The module's output depends on the layer's weight, the layer is never called, and the table says so."""
    assert reader_of(nn.Sequential(module), f"0.{leaf}", "weight") == "0"
    assert calls(module, leaf, run) == 0
    before = result(module, run)
    module.get_parameter(f"{leaf}.weight").mul_(-1.5)
    assert not torch.allclose(result(module, run), before)


def prove_called(module: nn.Module, leaf: str, run: Callable[[nn.Module], Any]) -> None:
    """The layer is called, and the table says so."""
    assert reader_of(nn.Sequential(module), f"0.{leaf}", "weight") is None
    assert calls(module, leaf, run) == 1


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


# --- transformers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["detr", "conditional_detr", "maskformer", "dab_detr"])
def test_attention_maps_of_detr(folder: str) -> None:
    kinds = {
        "detr": "DetrMHAttentionMap",
        "conditional_detr": "ConditionalDetrMHAttentionMap",
        "maskformer": "MaskFormerDetrMHAttentionMap",
        "dab_detr": "DabDetrMHAttentionMap",
    }
    kind = class_of(f"{HF}{folder}.modeling_{folder}.{kinds[folder]}")
    module = ready(kind(WIDTH, WIDTH, HEADS) if folder == "dab_detr" else kind(WIDTH, HEADS))
    query, keys = torch.randn(2, 3, WIDTH).double(), torch.randn(2, WIDTH, 4, 4).double()
    prove_bypassed(module, "k_linear" if folder == "dab_detr" else "k_proj", lambda layer: layer(query, keys))
    prove_called(module, "q_linear" if folder == "dab_detr" else "q_proj", lambda layer: layer(query, keys))


@pytest.mark.parametrize(
    "name",
    [
        "data2vec.modeling_data2vec_audio",
        "unispeech_sat.modeling_unispeech_sat",
        "wav2vec2.modeling_wav2vec2",
        "wav2vec2_bert.modeling_wav2vec2_bert",
        "wav2vec2_conformer.modeling_wav2vec2_conformer",
        "wavlm.modeling_wavlm",
    ],
)
def test_time_delay_layers(name: str) -> None:
    config = {"tdnn_dim": [WIDTH], "tdnn_kernel": [3], "tdnn_dilation": [1]}
    x, _ = inputs((2, 8, WIDTH))
    prove_bypassed(from_config(f"{HF}{name}.TDNNLayer", **config), "kernel", lambda layer: layer(x))


@pytest.mark.parametrize("leaf", ["q_proj", "k_proj", "v_proj", "out_proj"])
def test_wavlm(leaf: str) -> None:
    module = ready(class_of(f"{HF}wavlm.modeling_wavlm.WavLMAttention")(WIDTH, HEADS))
    x, _ = inputs((2, TOKENS, WIDTH))
    prove_bypassed(module, leaf, lambda layer: layer(x))


@pytest.mark.parametrize("leaf", ["dense", "decoder"])
def test_the_head_of_mobilebert(leaf: str) -> None:
    name = f"{HF}mobilebert.modeling_mobilebert.MobileBertLMPredictionHead"
    module = from_config(name, vocab_size=11, embedding_size=6)
    x, _ = inputs((2, TOKENS, WIDTH))
    prove_bypassed(module, leaf, lambda layer: layer(x))


def test_the_router_of_longcat() -> None:
    name = f"{HF}longcat_flash.modeling_longcat_flash.LongcatFlashTopkRouter"
    module = from_config(name, n_routed_experts=4, zero_expert_num=1, routed_scaling_factor=1.0)
    x, _ = inputs((2, TOKENS, WIDTH))
    prove_bypassed(module, "classifier", lambda layer: layer(x.float()))


def test_the_experts_of_dbrx() -> None:
    name = f"{HF}dbrx.modeling_dbrx.DbrxExperts"
    module = from_config(name, ffn_hidden_size=8, moe_num_experts=2, ffn_act_fn={"name": "silu"})
    assert reader_of(nn.Sequential(module), "0.mlp", "w1") == "0"
    x, _ = inputs((1, TOKENS, WIDTH))
    chosen, weights = torch.zeros(TOKENS, 1, dtype=torch.long), torch.ones(TOKENS, 1).double()
    before = module(x, chosen, weights)
    module.get_parameter("mlp.w1").mul_(2)
    assert not torch.allclose(module(x, chosen, weights), before)


@pytest.mark.parametrize(("kind", "leaf"), [("BloomAttention", "dense"), ("BloomMLP", "dense_4h_to_h")])
def test_bloom_slices_its_weights_in_its_exact_mode_only(kind: str, leaf: str) -> None:
    x, _ = inputs((2, TOKENS, WIDTH))
    scores = torch.zeros(2 * HEADS, 1, TOKENS).double(), torch.zeros(2, 1, TOKENS, TOKENS).double()
    more = scores if kind == "BloomAttention" else ()
    name = f"{HF}bloom.modeling_bloom.{kind}"
    exact = from_config(name, pretraining_tp=2, slow_but_exact=True)
    prove_bypassed(exact, leaf, lambda layer: layer(x, torch.zeros_like(x), *more))
    prove_called(from_config(name), leaf, lambda layer: layer(x, torch.zeros_like(x), *more))


def test_gemma3n_clips_a_weight_in_training() -> None:
    name = f"{HF}gemma3n.modeling_gemma3n.Gemma3nTextAltUp"
    settings = {"altup_num_inputs": 3, "altup_active_idx": 0}
    clipped = from_config(name, altup_coef_clip=9.0, **settings).train()
    streams = torch.randn(3, 2, TOKENS, WIDTH, dtype=torch.float64)
    clipped.router_input_scale = clipped.router_input_scale.double()

    def correct(module: nn.Module) -> Any:
        return module.correct(streams, streams[1])

    prove_bypassed(clipped, "correction_coefs", correct)
    free = from_config(name, altup_coef_clip=None, **settings).train()
    prove_called(free, "correction_coefs", correct)


@pytest.mark.parametrize(
    "name",
    [
        "layoutlmv2.modeling_layoutlmv2.LayoutLMv2Encoder",
        "layoutlmv3.modeling_layoutlmv3.LayoutLMv3Encoder",
        "pp_doclayout_v2.modeling_pp_doclayout_v2.PPDocLayoutV2ReadingOrderEncoder",
    ],
)
def test_position_tables_that_look_like_layers(name: str) -> None:
    source = inspect.getsource(class_of(f"{HF}{name}"))
    with torch.device("meta"):
        encoder = from_config(
            f"{HF}{name}",
            has_relative_attention_bias=True,
            has_spatial_attention_bias=True,
            num_hidden_layers=0,
            rel_pos_bins=4,
            max_rel_pos=8,
            rel_2d_pos_bins=4,
            max_rel_2d_pos=8,
            relation_bias_embed_dim=4,
            relation_bias_theta=1e4,
            relation_bias_scale=1.0,
        )
    leaves = ("rel_pos_bias",) if "pp_doc" in name else ("rel_pos_bias", "rel_pos_x_bias", "rel_pos_y_bias")
    for leaf in leaves:
        assert reader_of(nn.Sequential(encoder), f"0.{leaf}", "weight") == "0"
        assert f"self.{leaf}.weight.t()[" in source
        assert f"self.{leaf}(" not in source


# The kernels that take these weights run on a GPU only, so the sources have to say it.
_KERNELS = {
    "mamba.modeling_mamba.MambaMixer": ("x_proj", "dt_proj", "out_proj", "conv1d"),
    "falcon_mamba.modeling_falcon_mamba.FalconMambaMixer": ("x_proj", "dt_proj", "out_proj", "conv1d"),
    "jamba.modeling_jamba.JambaMambaMixer": ("dt_proj", "conv1d"),
    "bamba.modeling_bamba.BambaMixer": ("out_proj", "conv1d"),
    "falcon_h1.modeling_falcon_h1.FalconH1Mixer": ("out_proj", "conv1d"),
    "granitemoehybrid.modeling_granitemoehybrid.GraniteMoeHybridMambaLayer": ("out_proj", "conv1d"),
    "mamba2.modeling_mamba2.Mamba2Mixer": ("out_proj", "conv1d"),
    "nemotron_h.modeling_nemotron_h.NemotronHMamba2Mixer": ("out_proj", "conv1d"),
    "zamba2.modeling_zamba2.Zamba2MambaMixer": ("out_proj", "conv1d"),
}


@pytest.mark.parametrize("name", _KERNELS)
def test_fused_kernels_take_the_weights(name: str) -> None:
    kind = class_of(f"{HF}{name}")
    source = inspect.getsource(kind)
    stand_in = kind.__new__(kind)
    nn.Module.__init__(stand_in)
    for leaf in (*_KERNELS[name], "in_proj"):
        stand_in.add_module(leaf, nn.Linear(1, 1))
        bypassed = leaf in _KERNELS[name]
        assert reader_of(nn.Sequential(stand_in), f"0.{leaf}", "weight") == ("0" if bypassed else None)
        assert (f"self.{leaf}.weight" in source) == bypassed


def test_mamba_reads_its_time_step_on_a_cpu_too() -> None:
    config = transformers.MambaConfig(hidden_size=WIDTH, num_hidden_layers=1, state_size=4, vocab_size=9)
    module = ready(class_of(f"{HF}mamba.modeling_mamba.MambaMixer")(config, 0))
    x, _ = inputs((1, TOKENS, WIDTH))
    prove_bypassed(module, "dt_proj", lambda layer: layer(x))


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
    source = Path(__file__).read_text()
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
