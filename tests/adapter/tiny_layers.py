"""Single layers of transformers, timm and torchvision at tiny sizes: built by class name, called by argument name."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

WIDTH, HEADS, HEAD, TOKENS, INNER = 16, 2, 8, 4, 12
SEQUENCE, FLAT, MAP = (2, TOKENS, WIDTH), (TOKENS, WIDTH), (2, 2, 3, WIDTH)  # (B, T, C), (T, C), (B, H, W, C)
GRID, IMAGE = (2, 16, WIDTH), (2, WIDTH, 4, 4)  # 4x4 tokens in a row, and as (B, C, H, W)

# What a config of transformers holds, by every name that the listed classes use for it.
_CONFIG: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "hidden_dim", "embed_dim"), WIDTH),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), HEADS),
    **dict.fromkeys(("head_dim", "dim_head", "kv_channels"), HEAD),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads"), 1),
    **dict.fromkeys(("intermediate_size", "shared_intermediate_size", "dense_intermediate_size"), INNER),
    "alignment_intermediate_size": 2 * INNER,
    **dict.fromkeys(("attention_dropout", "attention_probs_dropout_prob", "hidden_dropout", "dropout"), 0.0),
    **dict.fromkeys(("resid_pdrop", "attn_pdrop", "attn_drop_rate", "drop_rate", "mlp_dropout", "dropout_rate"), 0.0),
    **dict.fromkeys(("qkv_bias", "attention_bias", "bias", "mlp_bias", "add_bias_linear"), True),
    **dict.fromkeys(("hidden_act", "activation", "activation_function", "hidden_activation"), "silu"),
    "output_gate_type": "swish",
    **dict.fromkeys(("layer_norm_eps", "rms_norm_eps", "norm_eps", "adapter_layer_norm_eps"), 1e-6),
    "layer_norm_epsilon": 1e-6,
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), 32),
    **dict.fromkeys(("is_decoder", "slow_but_exact", "use_rel_pos", "multi_query", "qk_layernorm"), False),
    **dict.fromkeys(("has_relative_attention_bias", "has_spatial_attention_bias", "rope_interleave"), False),
    **dict.fromkeys(("reorder_and_upcast_attn", "scale_attn_by_inverse_layer_idx", "attention_softmax_in_fp32"), False),
    **dict.fromkeys(("scale_attention_softmax_in_fp32", "use_relative_position_embeddings"), False),
    **dict.fromkeys(("new_decoder_architecture", "deterministic_flash_attn"), False),
    **dict.fromkeys(("scale_attn_weights", "fast_qkv"), True),
    "_attn_implementation": "eager",
    "rope_parameters": {
        "partial_rotary_factor": 1.0,
        "rope_theta": 1e4,
        "rope_type": "default",
        "original_max_position_embeddings": 32,
        "llama_4_scaling_beta": 0.1,
    },
    "rope_theta": 1e4,
    "rotary_dim": 4,
    "rotary_pct": 1.0,
    "rotary_emb_base": 1e4,
    "attn_config": SimpleNamespace(attn_pdrop=0.0, clip_qkv=8.0, kv_n_heads=1, rope_theta=1e4, softmax_scale=None),
    "pos_att_type": [],
    "pretraining_tp": 1,
    "image_size": 8,
    "patch_size": 4,
    "window_size": 2,
    "downsample_factor": 1,
    "max_pos_emb": 8,
    "context_size": TOKENS,
    "num_experts_per_tok": 2,
    "num_local_experts": 4,
    "num_hidden_layers": 2,
    "block_size": 4,
    "layer_types": ["linear_attention"] * 2,
    "sliding_window": None,
    "local_attention": -1,
    "global_attn_every_n_layers": 1,
    "swiglu_limit": 1e9,
    "swiglu_alpha": 1.0,
    "num_mem_blocks": 1,
    "adapter_rank": 2,
    "hybrid_layer_ids": [0],
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 4,
    "linear_value_head_dim": 6,
    "linear_conv_kernel_dim": 3,
    # Multi-head latent attention, and the indexer that picks as many tokens as there are.
    "q_lora_rank": 6,
    "kv_lora_rank": 6,
    "qk_rope_head_dim": 2,
    "qk_nope_head_dim": 4,
    "qk_head_dim": 6,
    "v_head_dim": 5,
    "index_topk": 64,
    "index_n_heads": 2,
    "index_head_dim": 4,
    "indexer_types": ["full"] * 2,
    "text_config": SimpleNamespace(hidden_size=WIDTH),
    "vision_config": SimpleNamespace(hidden_size=WIDTH),
}
# Arguments of constructors beside the config.
_BUILT_WITH: dict[str, Any] = {
    "layer_idx": 0,
    "stage_idx": 0,
    "window_size": 0,
    **dict.fromkeys(("hidden_size_output", "dim_out", "nx", "dim"), WIDTH),
    "head_width": HEAD,
    "num_fwd_mem_blocks": 1,
    "block_id": 0,
}


def class_of(name: str) -> type[nn.Module]:
    """Imports a class by its qualified name."""
    module, _, kind = name.rpartition(".")
    found: type[nn.Module] = getattr(importlib.import_module(module), kind)
    return found


def from_config(name: str, **changes: Any) -> nn.Module:
    """A layer of transformers, whose constructor takes a config or the config's values."""
    config = SimpleNamespace(**(_CONFIG | changes))
    kind = class_of(name)
    given: dict[str, Any] = {}
    for argument, parameter in list(inspect.signature(kind.__init__).parameters.items())[1:]:
        if argument == "config":
            given[argument] = config
        elif parameter.kind is parameter.VAR_KEYWORD:
            continue
        elif parameter.default is parameter.empty or argument in ("layer_idx", "num_fwd_mem_blocks", "block_id"):
            values = vars(config) if argument in vars(config) and argument not in _BUILT_WITH else _BUILT_WITH
            given[argument] = values[argument]
    return ready(kind(**given))


def ready(module: nn.Module) -> nn.Module:
    """Random parameters in float64, evaluation mode, no gradients."""
    generator = torch.Generator().manual_seed(0)
    module.double().requires_grad_(False)
    module.eval()
    for name, parameter in module.named_parameters():
        parameter.normal_(0, 0.5, generator=generator)
        beside = (
            "q_bias",
            "k_bias",
            "v_bias",
            "pos_embed.height_rel",
            "pos_embed.width_rel",
            "qkv.bn.bias",
            "kv.bn.bias",
        )
        if name.endswith(beside):
            parameter.zero_()  # these would keep the scores from being equal where the weight's rows are zero
    return module


def inputs(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Two different random inputs."""
    x, y = torch.randn(2, *shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    return x, y


def call(module: nn.Module, x: Tensor, **given: Any) -> Tensor:
    """Calls a layer with x first and whatever else its forward asks for; returns its first tensor.

    Rotary embeddings are the identity: cosine one, sine zero.
    """
    tokens = x.shape[-2] if x.ndim <= 3 else x.shape[1] * x.shape[2]
    lead = () if x.ndim == 2 else (1,)
    known: Mapping[str, Any] = {
        "position_embeddings": (torch.ones(*lead, tokens, HEAD).to(x), torch.zeros(*lead, tokens, HEAD).to(x)),
        "position_ids": torch.arange(tokens)[None],
        "position_bias": torch.zeros(HEADS, tokens, tokens).to(x),
        "cu_seqlens": torch.tensor([0, tokens], dtype=torch.int32),
        "attention_mask": None,
        "alibi": None,
        "residual": torch.zeros_like(x),
        "latents": x,
        "attention_dists": torch.zeros(TOKENS, TOKENS, dtype=torch.long),
    } | given
    _, *names = [name for name in inspect.signature(type(module).forward).parameters if name != "self"]
    output = module(x, **{name: known[name] for name in names if name in known})
    while isinstance(output, tuple | list):
        output = output[0]
    assert isinstance(output, Tensor)
    return output
