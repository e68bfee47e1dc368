"""Who reads a weight without calling its layer, on the real classes of transformers."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
import transformers
from adapter.bypassed import prove_bypassed, prove_called
from adapter.tiny_layers import HEADS, TOKENS, WIDTH, class_of, from_config, inputs, ready
from torch import nn

from wegeft_pl.adapter.readers import reader_of

HF = "transformers.models."


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
