"""The fused layers of timm, torchvision and torch, at tiny sizes."""

from __future__ import annotations

from typing import Any

import torchvision
from adapter.fused_proofs import Case, first
from adapter.tiny_layers import GRID, HEAD, HEADS, IMAGE, INNER, WIDTH, class_of, ready
from torch import Tensor, nn


def vision(
    short: str,
    leaf: str,
    *args: Any,
    shape: tuple[int, ...] = GRID,
    also: tuple[Any, ...] = (),
    query: str = "",
    by_token: bool = True,
    silent: bool = True,
    **kwargs: Any,
) -> Case:
    """A case of timm: the constructor's arguments, and what follows x in a call."""

    def run(module: nn.Module, x: Tensor) -> Tensor:
        return first(module(x, *also))

    name = f"timm.{short}"
    return Case(name, leaf, lambda: ready(class_of(name)(*args, **kwargs)), shape, run, query, by_token, silent)


PIXELS = (2, 4, 4, WIDTH)
_OF_CHANNELS = ("models.edgenext.CrossCovarianceAttn", "models.xcit.XCA")
TIMM = [
    *(
        vision(kind, "qkv", WIDTH, num_heads=HEADS, by_token=kind not in _OF_CHANNELS)
        for kind in [
            "layers.attention.Attention",
            "layers.attention.AttentionRope",
            "layers.diff_attention.DiffAttention",
            "models.cait.TalkingHeadAttn",
            "models.convit.MHSA",
            "models.edgenext.CrossCovarianceAttn",
            "models.vision_transformer_relpos.RelPosAttention",
            "models.xcit.XCA",
        ]
    ),
    vision(
        "layers.attention_pool2d.AttentionPool2d",
        "qkv",
        WIDTH,
        feat_size=4,
        by_token=False,
        num_heads=HEADS,
        shape=IMAGE,
    ),
    vision(
        "layers.attention_pool2d.RotAttentionPool2d",
        "qkv",
        WIDTH,
        ref_feat_size=4,
        by_token=False,
        num_heads=HEADS,
        shape=IMAGE,
    ),
    vision("layers.attention2d.Attention2d", "qkv", WIDTH, num_heads=HEADS, shape=IMAGE),
    vision("layers.attention2d.Attention2d", "qkv", WIDTH, num_heads=HEADS, head_first=True, shape=IMAGE),
    vision(
        "layers.bottleneck_attn.BottleneckAttn",
        "qkv",
        WIDTH,
        feat_size=(4, 4),
        num_heads=HEADS,
        qk_ratio=0.5,
        shape=IMAGE,
    ),
    vision(
        "layers.halo_attn.HaloAttn",
        "kv",
        WIDTH,
        num_heads=HEADS,
        block_size=2,
        halo_size=1,
        qk_ratio=0.5,
        shape=IMAGE,
        query="q",
    ),
    vision("layers.attention_pool.AttentionPoolLatent", "kv", WIDTH, num_heads=HEADS, query="q"),
    vision("models.beit.Attention", "qkv", WIDTH, num_heads=HEADS, qkv_bias=True, by_token=False),
    vision("models.beit.Attention", "qkv", WIDTH, num_heads=HEADS),
    vision("models.convit.GPSA", "qk", WIDTH, num_heads=HEADS),
    vision("models.davit.WindowAttention", "qkv", WIDTH, window_size=(4, 4), num_heads=HEADS),
    vision("models.davit.ChannelAttentionV2", "qkv", WIDTH, num_heads=HEADS, by_token=False),
    vision(
        "models.efficientformer.Attention", "qkv", dim=WIDTH, key_dim=4, num_heads=HEADS, attn_ratio=2, resolution=4
    ),
    vision("models.eva.EvaAttention", "qkv", WIDTH, num_heads=HEADS, norm_layer=nn.LayerNorm, qkv_bias=False),
    vision("models.fastvit.Attention", "qkv", WIDTH, head_dim=HEAD, by_token=False, shape=IMAGE),
    vision("models.gcvit.WindowAttentionGlobal", "qkv", WIDTH, num_heads=HEADS, window_size=(4, 4), use_global=False),
    vision("models.hiera.MaskUnitAttention", "qkv", WIDTH, WIDTH, HEADS),
    vision("models.hieradet_sam2.MultiScaleAttention", "qkv", WIDTH, WIDTH, HEADS, shape=PIXELS),
    vision("models.levit.Attention", "qkv.linear", WIDTH, key_dim=4, num_heads=HEADS, attn_ratio=2, resolution=4),
    vision(
        "models.levit.AttentionDownsample",
        "kv.linear",
        WIDTH,
        WIDTH,
        4,
        num_heads=HEADS,
        attn_ratio=2,
        resolution=4,
        query="q.ln",
    ),
    vision("models.maxxvit.Attention2d", "qkv", WIDTH, dim_head=HEAD, shape=IMAGE),
    vision("models.maxxvit.Attention2d", "qkv", WIDTH, dim_head=HEAD, head_first=False, shape=IMAGE),
    vision("models.maxxvit.AttentionCl", "qkv", WIDTH, dim_head=HEAD, shape=PIXELS),
    vision("models.maxxvit.AttentionCl", "qkv", WIDTH, dim_head=HEAD, head_first=False, shape=PIXELS),
    vision("models.metaformer.Attention", "qkv", WIDTH, head_dim=HEAD),
    vision(
        "models.mvitv2.MultiScaleAttention",
        "qkv",
        WIDTH,
        WIDTH,
        (4, 4),
        num_heads=HEADS,
        has_cls_token=False,
        rel_pos_type="none",
        residual_pooling=False,
        also=((4, 4),),
    ),
    vision("models.nest.Attention", "qkv", WIDTH, num_heads=HEADS, shape=PIXELS),
    vision("models.pvt_v2.Attention", "kv", WIDTH, num_heads=HEADS, also=((4, 4),), query="q"),
    vision("models.swin_transformer.WindowAttention", "qkv", WIDTH, HEADS, window_size=4),
    vision("models.swin_transformer_v2.WindowAttention", "qkv", WIDTH, (4, 4), HEADS, qkv_bias=False),
    vision("models.swin_transformer_v2_cr.WindowMultiHeadAttention", "qkv", WIDTH, HEADS, (4, 4)),
    vision("models.tiny_vit.Attention", "qkv", WIDTH, key_dim=8, num_heads=HEADS, attn_ratio=2, resolution=(4, 4)),
    vision("models.tnt.Attention", "qk", WIDTH, WIDTH, num_heads=HEADS),
    vision("models.twins.LocallyGroupedAttn", "qkv", WIDTH, num_heads=HEADS, ws=2, also=((4, 4),)),
    vision("models.twins.GlobalSubSampleAttn", "kv", WIDTH, num_heads=HEADS, sr_ratio=1, also=((4, 4),), query="q"),
    vision("models.visformer.Attention", "qkv", WIDTH, num_heads=HEADS, shape=IMAGE),
    vision("models.vision_transformer_sam.Attention", "qkv", WIDTH, num_heads=HEADS, shape=PIXELS),
    vision("models.volo.Attention", "qkv", WIDTH, num_heads=HEADS, shape=PIXELS),
    vision("models.volo.ClassAttention", "kv", WIDTH, num_heads=HEADS, query="q"),
]
TIMM_GATES = [
    vision("layers.mlp.GluMlp", "fc1", WIDTH, 2 * INNER),
    vision("layers.mlp.GluMlp", "fc1", WIDTH, 2 * INNER, gate_last=False),
    vision("layers.mlp.GluMlp", "fc1", WIDTH, 2 * INNER, use_conv=True, shape=IMAGE),
    vision("models.mambaout.GatedConvBlock", "fc1", WIDTH, kernel_size=3, silent=False, conv_ratio=0.5, shape=PIXELS),
]


_SWIN = torchvision.models.swin_transformer


def _self_attention(module: nn.Module, x: Tensor) -> Tensor:
    return first(module(x, x, x))


TORCH = [
    Case(
        "torch.nn.modules.activation.MultiheadAttention",
        "in_proj_weight",
        lambda: ready(nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)),
        run=_self_attention,
        by_token=False,
    ),
    Case(
        "torchvision.models.swin_transformer.ShiftedWindowAttention",
        "qkv",
        lambda: ready(_SWIN.ShiftedWindowAttention(WIDTH, [2, 2], [1, 1], HEADS)),
        PIXELS,
        by_token=False,
    ),
    Case(
        "torchvision.models.swin_transformer.ShiftedWindowAttentionV2",
        "qkv",
        lambda: ready(_SWIN.ShiftedWindowAttentionV2(WIDTH, [2, 2], [1, 1], HEADS)),
        PIXELS,
        by_token=False,
    ),
    Case(
        "torchvision.models.maxvit.RelativePositionalMultiHeadAttention",
        "to_qkv",
        lambda: ready(torchvision.models.maxvit.RelativePositionalMultiHeadAttention(WIDTH, HEAD, 16)),
        (2, 3, 16, WIDTH),
    ),
]
