"""Layers that are several projections in one: which of their output features belong to the query, which to the value.

A fused layer's output features are named parts in a fixed order, once over all features (query, key, value) or once
for every head (a period that repeats). The table below says so for classes of transformers, timm, torchvision and
torch; the core imports none of the first three, so classes are known by their qualified names. A subclass is trusted
only where it keeps the forward of the class that is listed.

Part names: q, k, v; q_rope and k_rope for what multi-head latent attention rotates, kv for what it compresses; gate
for the half of a gated MLP that passes the activation, up for the half that it multiplies; mlp for the input of an MLP
that shares its first projection with the attention.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import attrgetter

from torch import nn

from wegeft_pl.adapter.stacked import gate_sizes

# The holder of the layer and the layer's output features in, sizes within one period out.
Rule = Callable[[nn.Module, int], dict[str, int] | None]


def part_sizes(parent: nn.Module, leaf: str) -> dict[str, int] | None:
    """The named parts of a fused layer, in order, within one period of its output features.

    Args:
        parent: the module that holds the layer.
        leaf: the layer's path from there, such as ``"qkv"``, or the name of a parameter of the parent's own, such as
            ``"in_proj_weight"``. Where a wrapper stands between, it has a dot: ``"qkv.linear"``.

    Returns:
        Output features by part name; their sum is the period, which repeats over the output features. None where the
        layer is not known to be fused.

    Example:
        >>> part_sizes(nn.MultiheadAttention(8, 2), "in_proj_weight")
        {'q': 8, 'k': 8, 'v': 8}
    """
    stacked = gate_sizes(parent, leaf)
    if stacked is not None:
        return stacked
    rule = _rule_of(type(parent), leaf)
    out_features = _out_features(parent, leaf)
    if rule is None or out_features is None:
        return None
    sizes = rule(parent, out_features)
    assert sizes is None or out_features % sum(sizes.values()) == 0, (type(parent), leaf, out_features, sizes)
    return sizes


def parts_at(model: nn.Module, name: str) -> dict[str, int] | None:
    """The named parts of the layer or parameter with this name, where its parent or grandparent knows them.

    Args:
        model: the backbone.
        name: the layer's or the parameter's name in it, such as ``"blocks.0.attn.qkv"``.

    Returns:
        As :func:`part_sizes`.
    """
    path = name.split(".")
    for depth in (1, 2)[: len(path)]:
        sizes = part_sizes(model.get_submodule(".".join(path[:-depth])), ".".join(path[-depth:]))
        if sizes is not None:
            return sizes
    return None


def equal(*names: str) -> Rule:
    """The rule of parts that share all output features equally, in this order."""
    return lambda parent, out_features: dict.fromkeys(names, out_features // len(names))


def by(**attributes: str) -> Rule:
    """The rule of parts whose sizes the parent holds: an attribute each, or attributes with * between."""

    def sizes(parent: nn.Module, out_features: int) -> dict[str, int]:
        return {name: _product(parent, factors) for name, factors in attributes.items()}

    return sizes


def _product(parent: nn.Module, factors: str) -> int:
    value = 1
    for factor in factors.split("*"):
        value *= attrgetter(factor.strip())(parent)
    return value


def _out_features(parent: nn.Module, leaf: str) -> int | None:
    if leaf in dict(parent.named_parameters(recurse=False)):
        return parent.get_parameter(leaf).shape[0]
    layer = parent.get_submodule(leaf)
    if isinstance(layer, nn.Linear):
        return layer.out_features
    if isinstance(layer, nn.Conv2d):
        return layer.out_channels
    if type(layer).__name__ == "Conv1D":  # of transformers, which stores (I, O)
        return layer.get_parameter("weight").shape[1]
    return None


def _rule_of(kind: type[nn.Module], leaf: str) -> Rule | None:
    for base in kind.__mro__:
        rule = _RULES.get((f"{base.__module__}.{base.__qualname__}", leaf))
        if rule is not None:
            return rule
        if "forward" in vars(base):
            return None  # what follows in the order of resolution says nothing about a forward of its own
    return None


QKV, KV, QK = equal("q", "k", "v"), equal("k", "v"), equal("q", "k")
GATE_UP, UP_GATE = equal("gate", "up"), equal("up", "gate")


def _gpt2(parent: nn.Module, out_features: int) -> dict[str, int] | None:
    return (KV if attrgetter("is_cross_attention")(parent) else QKV)(parent, out_features)


def _gpt_bigcode(parent: nn.Module, out_features: int) -> dict[str, int] | None:
    if attrgetter("is_cross_attention")(parent):
        return None  # its forward splits off head_dim features of what is 2 * embed_dim, which cannot run
    rule = by(q="embed_dim", k="kv_dim", v="kv_dim") if attrgetter("multi_query")(parent) else _HEADS
    return rule(parent, out_features)


def _falcon(parent: nn.Module, out_features: int) -> dict[str, int] | None:
    head = _product(parent, "head_dim")
    if attrgetter("new_decoder_architecture")(parent):
        return {"q": _product(parent, "num_heads") // _product(parent, "num_kv_heads") * head, "k": head, "v": head}
    if attrgetter("multi_query")(parent):
        return {"q": _product(parent, "num_heads") * head, "k": head, "v": head}
    return {"q": head, "k": head, "v": head}


def _codegen(parent: nn.Module, out_features: int) -> dict[str, int] | None:
    return dict.fromkeys("qvk", out_features // 12)  # four blocks, one for each core of the machine it was trained on


def _qwen3_next(parent: nn.Module, out_features: int) -> dict[str, int] | None:
    key = _product(parent, "head_k_dim")
    value = _product(parent, "value_dim") // _product(parent, "num_k_heads")
    return {"q": key, "k": key, "v": value, "z": value}


def _maxxvit(parent: nn.Module, out_features: int) -> dict[str, int] | None:
    return (by(q="dim_head", k="dim_head", v="dim_head") if attrgetter("head_first")(parent) else QKV)(
        parent, out_features
    )


def _gcvit(parent: nn.Module, out_features: int) -> dict[str, int] | None:
    return (KV if attrgetter("use_global")(parent) else QKV)(parent, out_features)


def _glu(parent: nn.Module, out_features: int) -> dict[str, int] | None:
    return (UP_GATE if attrgetter("gate_last")(parent) else GATE_UP)(parent, out_features)


def _parallel_scaling(parent: nn.Module, out_features: int) -> dict[str, int] | None:
    return dict(zip(("mlp", "q", "k", "v"), attrgetter("in_split")(parent), strict=True))


_HEADS = by(q="head_dim", k="head_dim", v="head_dim")
_HEAD_SIZE = by(q="head_size", k="head_size", v="head_size")
_GROUPED = by(
    q="config.num_attention_heads * head_dim", k="num_key_value_heads * head_dim", v="num_key_value_heads * head_dim"
)
_DELTA = by(q="key_dim", k="key_dim", v="value_dim")
_LATENT_DOWN = by(kv="kv_lora_rank", k_rope="qk_rope_head_dim")
_LATENT_UP = by(k="qk_nope_head_dim", v="v_head_dim")
_KEY_VALUE_DIM = by(q="key_dim", k="key_dim", v="val_dim")

_LATENT = """
    axk1.AXK1Attention axk2.AXK2Attention bailing_hybrid.BailingHybridAttention deepseek_v2.DeepseekV2Attention
    deepseek_v3.DeepseekV3Attention deepseek_v32.DeepseekV32Attention dots3_note.Dots3NoteTextAttention
    glm4_moe_lite.Glm4MoeLiteAttention glm5_next.Glm5NextTextAttention glm_moe_dsa.GlmMoeDsaAttention
    hy_v4.HYV4Attention kimi_linear.KimiLinearAttention longcat_flash.LongcatFlashMLA minicpm3.MiniCPM3Attention
    mistral4.Mistral4Attention mistral_large4.MistralLarge4TextAttention youtu.YoutuAttention
"""

# Leaf, rule, classes. transformers: models.X.modeling_X.Class is written X.Class.
_TRANSFORMERS: tuple[tuple[str, Rule, str], ...] = (
    (
        "qkv",
        QKV,
        """
        blip.BlipAttention blip_2.Blip2Attention cohere_compass.CohereCompassVisionAttention
        deepseek_ocr2.DeepseekOcr2SamVisionAttention deepseek_ocr2.DeepseekOcr2SamVisionSdpaAttention
        dots3_note.Dots3NoteVisionAttention ernie4_5_vl_moe.Ernie4_5_VLMoeVisionAttention
        florence2.Florence2VisionChannelAttention florence2.Florence2VisionWindowAttention
        glm4v.Glm4vVisionAttention glm4v_moe.Glm4vMoeVisionAttention glm5_next.Glm5NextVisionAttention
        glm_image.GlmImageVisionAttention glm_ocr.GlmOcrVisionAttention got_ocr2.GotOcr2VisionAttention
        hiera.HieraMaskUnitAttention instructblip.InstructBlipAttention instructblipvideo.InstructBlipVideoAttention
        mgp_str.MgpstrAttention pp_formulanet.PPFormulaNetVisionAttention
        pp_ocrv5_mobile_rec.PPOCRV5MobileRecAttention pp_ocrv5_server_rec.PPOCRV5ServerRecAttention
        pp_ocrv6_small_rec.PPOCRV6SmallRecAttention qwen2_5_vl.Qwen2_5_VLVisionAttention qwen2_vl.VisionAttention
        qwen3_5.Qwen3_5VisionAttention qwen3_5_moe.Qwen3_5MoeVisionAttention
        qwen3_omni_moe.Qwen3OmniMoeVisionAttention qwen3_vl.Qwen3VLVisionAttention
        qwen3_vl_moe.Qwen3VLMoeVisionAttention qwen4_exp.Qwen4ExpVisionAttention sam.SamVisionAttention
        sam.SamVisionSdpaAttention sam2.Sam2MultiScaleAttention sam_hq.SamHQVisionAttention
        sam_hq.SamHQVisionSdpaAttention seggpt.SegGptAttention slanext.SLANeXtVisionAttention
        timesformer.TimesformerSelfAttention unlimited_ocr.UnlimitedOcrSamVisionAttention
        unlimited_ocr.UnlimitedOcrSamVisionSdpaAttention vitdet.VitDetAttention
        """,
    ),
    ("qkv", by(q="q_dim", k="kv_dim", v="kv_dim"), "exaone4_5.Exaone4_5_VisionAttention"),
    (
        "c_attn",
        _gpt2,
        "gpt2.GPT2Attention decision_transformer.DecisionTransformerGPT2Attention imagegpt.ImageGPTAttention",
    ),
    ("c_attn", QKV, "openai.Attention"),
    ("c_attn", _gpt_bigcode, "gpt_bigcode.GPTBigCodeAttention"),
    ("att_proj", QKV, "bark.BarkSelfAttention bark.BarkSelfFlashAttention2"),
    ("Wqkv", QKV, "mpt.MptAttention modernbert.ModernBertAttention"),
    (
        "Wqkv",
        by(q="hidden_size", k="num_key_value_heads * head_dim", v="num_key_value_heads * head_dim"),
        "dbrx.DbrxAttention",
    ),
    ("qkv_linear", QKV, "layoutlmv2.LayoutLMv2SelfAttention"),
    ("qkv_proj", _GROUPED, "phi3.Phi3Attention phi4_multimodal.Phi4MultimodalAttention"),
    ("qkv_proj", _HEADS, "minimax.MiniMaxLightningAttention"),
    ("qkv_proj", _codegen, "codegen.CodeGenAttention"),
    ("query_key_value", _HEAD_SIZE, "gpt_neox.GPTNeoXAttention gpt_neox_japanese.GPTNeoXJapaneseAttention"),
    ("query_key_value", _HEADS, "bloom.BloomAttention persimmon.PersimmonAttention"),
    ("query_key_value", _falcon, "falcon.FalconAttention falcon.FalconFlashAttention2"),
    (
        "in_proj",
        by(q="attention_head_size", k="attention_head_size", v="attention_head_size"),
        "deberta.DisentangledSelfAttention",
    ),
    ("proj", by(q="head_width", k="head_width", v="head_width"), "esm.modeling_esmfold.EsmFoldSelfAttention"),
    ("linear_kv", by(k="hidden_dim", v="hidden_dim"), "esm.modeling_esmfold.EsmFoldInvariantPointAttention"),
    (
        "in_proj_qkv",
        _DELTA,
        "qwen3_5.Qwen3_5GatedDeltaNet qwen3_5_moe.Qwen3_5MoeGatedDeltaNet qwen4_exp.Qwen4ExpTextGatedDeltaNet",
    ),
    ("in_proj_qkvz", _qwen3_next, "qwen3_next.Qwen3NextGatedDeltaNet"),
    ("kv_a_proj_with_mqa", _LATENT_DOWN, _LATENT),
    ("kv_b_proj", _LATENT_UP, _LATENT),
    (
        "to_kv",
        KV,
        "evolla.EvollaSequenceCompressorAttention granite_speech.GraniteSpeechConformerAttention granite_speech_plus.GraniteSpeechPlusConformerAttention",
    ),
    ("kv_proj", KV, "jetmoe.JetMoeAttention"),
    (
        "gate_up_proj",
        GATE_UP,
        """
        dia.DiaMLP dots3_note.Dots3NoteAudioMLP esmfold2.EsmFold2SwiGLU glm.GlmMLP glm4.Glm4MLP glm4v.Glm4vTextMLP
        glm_image.GlmImageTextMLP glm_ocr.GlmOcrTextMLP minimax_m3_vl.MiniMaxM3VLDenseMLP phi3.Phi3MLP
        phi4_multimodal.Phi4MultimodalMLP zamba2.Zamba2MLP
        """,
    ),
    ("gate_up_proj", UP_GATE, "phi4_multimodal.Phi4MultimodalAudioMLP"),
    (
        "input_linear",
        GATE_UP,
        "granitemoe_swa.GraniteMoeSWAMLP granitemoehybrid.GraniteMoeHybridMLP granitemoeshared.GraniteMoeSharedMLP",
    ),
    ("Wi", GATE_UP, "modernbert.ModernBertMLP modernbert_decoder.ModernBertDecoderMLP"),
    ("fc1", UP_GATE, "moonshine.MoonshineDecoderMLP moonshine_streaming.MoonshineStreamingDecoderMLP"),
    ("proj", UP_GATE, "clvp.ClvpGatedLinearUnit"),
    ("linear_1", UP_GATE, "aya_vision.AyaVisionMultiModalProjector cohere2_vision.Cohere2VisionMultiModalProjector"),
)
_TIMM: tuple[tuple[str, Rule, str], ...] = (
    (
        "qkv",
        QKV,
        """
        layers.attention.Attention layers.attention.AttentionRope layers.attention_pool2d.AttentionPool2d
        layers.attention_pool2d.RotAttentionPool2d layers.diff_attention.DiffAttention models.beit.Attention
        models.cait.TalkingHeadAttn models.coat.FactorAttnConvRelPosEnc models.convit.MHSA
        models.csatv2.SpatialTransformerBlock models.davit.ChannelAttention models.davit.ChannelAttentionV2
        models.davit.WindowAttention models.edgenext.CrossCovarianceAttn models.eva.EvaAttention
        models.fastvit.Attention models.hiera.MaskUnitAttention models.hieradet_sam2.MultiScaleAttention
        models.metaformer.Attention models.mvitv2.MultiScaleAttention models.nest.Attention
        models.swin_transformer.WindowAttention models.swin_transformer_v2.WindowAttention
        models.swin_transformer_v2_cr.WindowMultiHeadAttention models.twins.LocallyGroupedAttn
        models.vision_transformer_relpos.RelPosAttention models.vision_transformer_sam.Attention
        models.visformer.Attention models.volo.Attention models.xcit.XCA
        """,
    ),
    ("qkv", _gcvit, "models.gcvit.WindowAttentionGlobal"),
    ("qkv", _maxxvit, "models.maxxvit.Attention2d models.maxxvit.AttentionCl layers.attention2d.Attention2d"),
    ("qkv", _KEY_VALUE_DIM, "models.efficientformer.Attention models.tiny_vit.Attention"),
    ("qkv.linear", _KEY_VALUE_DIM, "models.levit.Attention"),
    ("kv.linear", by(k="key_dim", v="val_dim"), "models.levit.AttentionDownsample"),
    ("qkv", by(q="dim_out_qk", k="dim_out_qk", v="dim_out_v"), "layers.bottleneck_attn.BottleneckAttn"),
    ("kv", by(k="dim_head_qk", v="dim_head_v"), "layers.halo_attn.HaloAttn"),
    ("qkv_proj", lambda parent, out: {"q": 1, "k": out // 2, "v": out // 2}, "models.mobilevit.LinearSelfAttention"),
    (
        "kv",
        KV,
        "layers.attention_pool.AttentionPoolLatent models.pvt_v2.Attention models.twins.GlobalSubSampleAttn models.volo.ClassAttention",
    ),
    ("qk", QK, "models.convit.GPSA models.tnt.Attention"),
    (
        "in_proj",
        _parallel_scaling,
        "models.vision_transformer.ParallelScalingBlock models.vision_transformer.DiffParallelScalingBlock",
    ),
    ("fc1", _glu, "layers.mlp.GluMlp"),
    ("fc1", GATE_UP, "models.mambaout.GatedConvBlock"),
)
_TORCH: Mapping[tuple[str, str], Rule] = {
    ("torch.nn.modules.activation.MultiheadAttention", "in_proj_weight"): QKV,
    ("torchvision.models.swin_transformer.ShiftedWindowAttention", "qkv"): QKV,
    ("torchvision.models.swin_transformer.ShiftedWindowAttentionV2", "qkv"): QKV,
    ("torchvision.models.maxvit.RelativePositionalMultiHeadAttention", "to_qkv"): QKV,
}


def _transformers_name(short: str) -> str:
    folder, *file, kind = short.split(".")
    return ".".join(("transformers.models", folder, *(file or (f"modeling_{folder}",)), kind))


_RULES: dict[tuple[str, str], Rule] = {
    **_TORCH,
    **{(_transformers_name(kind), leaf): rule for leaf, rule, kinds in _TRANSFORMERS for kind in kinds.split()},
    **{(f"timm.{kind}", leaf): rule for leaf, rule, kinds in _TIMM for kind in kinds.split()},
}
