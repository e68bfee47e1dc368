"""The classes whose layers are fused, as data: for every class and layer, the rule that gives the sizes of its parts.

The core imports torch only, so the classes of transformers, timm and torchvision are known by their qualified names.
Every entry is proven on the real class in tests/adapter/test_fused.py.

Part names: q, k, v; kv for what multi-head latent attention compresses and k_rope for what it rotates; z for the
output gate of a linear attention; gate for the half of a gated MLP that passes the activation, up for the half that
it multiplies; mlp for the input of an MLP that shares its first projection with the attention. They are the names
that the class itself uses: what DaViT's channel attention calls q is what its softmax mixes.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter

from torch import nn

# The module that holds the layer and the layer's output features in, sizes within one period out.
Rule = Callable[[nn.Module, int], dict[str, int] | None]


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


def _gpt2(parent: nn.Module, out_features: int) -> dict[str, int] | None:
    return (KV if attrgetter("is_cross_attention")(parent) else QKV)(parent, out_features)


def _gpt_bigcode(parent: nn.Module, out_features: int) -> dict[str, int] | None:
    if attrgetter("is_cross_attention")(parent):
        return None  # its forward splits off head_dim features of what is 2 * embed_dim, which cannot run
    rule = by(q="embed_dim", k="kv_dim", v="kv_dim") if attrgetter("multi_query")(parent) else HEADS
    return rule(parent, out_features)


def _falcon(parent: nn.Module, out_features: int) -> dict[str, int] | None:
    head, queries = _product(parent, "head_dim"), 1
    if attrgetter("new_decoder_architecture")(parent):
        queries = _product(parent, "num_heads") // _product(parent, "num_kv_heads")
    elif attrgetter("multi_query")(parent):
        queries = _product(parent, "num_heads")
    return {"q": queries * head, "k": head, "v": head}


def _codegen(parent: nn.Module, out_features: int) -> dict[str, int] | None:
    return dict.fromkeys("qvk", out_features // 12)  # four blocks, one for each core that it was trained on


def _qwen3_next(parent: nn.Module, out_features: int) -> dict[str, int] | None:
    key = _product(parent, "head_k_dim")
    value = _product(parent, "value_dim") // _product(parent, "num_k_heads")
    return {"q": key, "k": key, "v": value, "z": value}


def _maxxvit(parent: nn.Module, out_features: int) -> dict[str, int] | None:
    rule = by(q="dim_head", k="dim_head", v="dim_head") if attrgetter("head_first")(parent) else QKV
    return rule(parent, out_features)


def _gcvit(parent: nn.Module, out_features: int) -> dict[str, int] | None:
    return (KV if attrgetter("use_global")(parent) else QKV)(parent, out_features)


def _glu(parent: nn.Module, out_features: int) -> dict[str, int] | None:
    return (UP_GATE if attrgetter("gate_last")(parent) else GATE_UP)(parent, out_features)


def _mobilevit(parent: nn.Module, out_features: int) -> dict[str, int] | None:
    return {"q": 1, "k": (out_features - 1) // 2, "v": (out_features - 1) // 2}


def _parallel_scaling(parent: nn.Module, out_features: int) -> dict[str, int] | None:
    return dict(zip(("mlp", "q", "k", "v"), attrgetter("in_split")(parent), strict=True))


QKV, KV, QK = equal("q", "k", "v"), equal("k", "v"), equal("q", "k")
GATE_UP, UP_GATE = equal("gate", "up"), equal("up", "gate")
HEADS = by(q="head_dim", k="head_dim", v="head_dim")
HEAD_SIZE = by(q="head_size", k="head_size", v="head_size")
ATTENTION_HEAD_SIZE = by(q="attention_head_size", k="attention_head_size", v="attention_head_size")
SHARED_KEYS = by(q="hidden_size", k="num_key_value_heads * head_dim", v="num_key_value_heads * head_dim")
PHI3 = by(
    q="config.num_attention_heads * head_dim", k="num_key_value_heads * head_dim", v="num_key_value_heads * head_dim"
)
DELTA = by(q="key_dim", k="key_dim", v="value_dim")
LATENT_DOWN = by(kv="kv_lora_rank", k_rope="qk_rope_head_dim")
LATENT_UP = by(k="qk_nope_head_dim", v="v_head_dim")
NARROW_KEYS = by(q="key_dim", k="key_dim", v="val_dim")

_LATENT = """
    axk1.AXK1Attention bailing_hybrid.BailingHybridAttention deepseek_v2.DeepseekV2Attention
    deepseek_v3.DeepseekV3Attention deepseek_v32.DeepseekV32Attention glm4_moe_lite.Glm4MoeLiteAttention
    glm_moe_dsa.GlmMoeDsaAttention kimi_linear.KimiLinearAttention longcat_flash.LongcatFlashMLA
    minicpm3.MiniCPM3Attention mistral4.Mistral4Attention youtu.YoutuAttention
"""
# Layer, rule, classes. Class X of transformers.models.m.modeling_m is written m.X.
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
    ("c_attn", _gpt2, "gpt2.GPT2Attention imagegpt.ImageGPTAttention"),
    ("c_attn", _gpt2, "decision_transformer.DecisionTransformerGPT2Attention"),
    ("c_attn", QKV, "openai.Attention"),
    ("c_attn", _gpt_bigcode, "gpt_bigcode.GPTBigCodeAttention"),
    ("att_proj", QKV, "bark.BarkSelfAttention"),
    ("Wqkv", QKV, "mpt.MptAttention modernbert.ModernBertAttention"),
    ("Wqkv", SHARED_KEYS, "dbrx.DbrxAttention"),
    ("qkv_linear", QKV, "layoutlmv2.LayoutLMv2SelfAttention"),
    ("qkv_proj", PHI3, "phi3.Phi3Attention phi4_multimodal.Phi4MultimodalAttention"),
    ("qkv_proj", HEADS, "minimax.MiniMaxLightningAttention"),
    ("qkv_proj", _codegen, "codegen.CodeGenAttention"),
    ("query_key_value", HEAD_SIZE, "gpt_neox.GPTNeoXAttention gpt_neox_japanese.GPTNeoXJapaneseAttention"),
    ("query_key_value", HEADS, "bloom.BloomAttention persimmon.PersimmonAttention"),
    ("query_key_value", _falcon, "falcon.FalconAttention"),
    ("in_proj", ATTENTION_HEAD_SIZE, "deberta.DisentangledSelfAttention"),
    ("proj", by(q="head_width", k="head_width", v="head_width"), "esm.modeling_esmfold.EsmFoldSelfAttention"),
    ("in_proj_qkv", DELTA, "qwen3_5.Qwen3_5GatedDeltaNet qwen3_5_moe.Qwen3_5MoeGatedDeltaNet"),
    ("in_proj_qkv", DELTA, "qwen4_exp.Qwen4ExpTextGatedDeltaNet"),
    ("in_proj_qkvz", _qwen3_next, "qwen3_next.Qwen3NextGatedDeltaNet"),
    ("kv_a_proj_with_mqa", LATENT_DOWN, _LATENT),
    ("kv_b_proj", LATENT_UP, _LATENT),
    ("kv_proj", KV, "jetmoe.JetMoeAttention"),
    ("to_kv", KV, "evolla.EvollaSequenceCompressorAttention granite_speech.GraniteSpeechConformerAttention"),
    ("to_kv", KV, "granite_speech_plus.GraniteSpeechPlusConformerAttention"),
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
    ("input_linear", GATE_UP, "granitemoe_swa.GraniteMoeSWAMLP granitemoehybrid.GraniteMoeHybridMLP"),
    ("input_linear", GATE_UP, "granitemoeshared.GraniteMoeSharedMLP"),
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
        models.davit.ChannelAttention models.davit.ChannelAttentionV2
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
    ("qkv", NARROW_KEYS, "models.efficientformer.Attention models.tiny_vit.Attention"),
    ("qkv.linear", NARROW_KEYS, "models.levit.Attention"),
    ("kv.linear", by(k="key_dim", v="val_dim"), "models.levit.AttentionDownsample"),
    ("qkv", by(q="dim_out_qk", k="dim_out_qk", v="dim_out_v"), "layers.bottleneck_attn.BottleneckAttn"),
    ("kv", by(k="dim_head_qk", v="dim_head_v"), "layers.halo_attn.HaloAttn"),
    ("qkv_proj", _mobilevit, "models.mobilevit.LinearSelfAttention"),
    ("kv", KV, "layers.attention_pool.AttentionPoolLatent models.pvt_v2.Attention"),
    ("kv", KV, "models.twins.GlobalSubSampleAttn models.volo.ClassAttention"),
    ("qk", QK, "models.convit.GPSA models.tnt.Attention"),
    ("in_proj", _parallel_scaling, "models.vision_transformer.ParallelScalingBlock"),
    ("in_proj", _parallel_scaling, "models.vision_transformer.DiffParallelScalingBlock"),
    ("fc1", _glu, "layers.mlp.GluMlp"),
    ("fc1", GATE_UP, "models.mambaout.GatedConvBlock"),
)


def _transformers_name(short: str) -> str:
    folder, *file, kind = short.split(".")
    return ".".join(("transformers.models", folder, *(file or (f"modeling_{folder}",)), kind))


RULES: dict[tuple[str, str], Rule] = {
    ("torch.nn.modules.activation.MultiheadAttention", "in_proj_weight"): QKV,
    ("torchvision.models.swin_transformer.ShiftedWindowAttention", "qkv"): QKV,
    ("torchvision.models.swin_transformer.ShiftedWindowAttentionV2", "qkv"): QKV,
    ("torchvision.models.maxvit.RelativePositionalMultiHeadAttention", "to_qkv"): QKV,
    **{(_transformers_name(kind), leaf): rule for leaf, rule, kinds in _TRANSFORMERS for kind in kinds.split()},
    **{(f"timm.{kind}", leaf): rule for leaf, rule, kinds in _TIMM for kind in kinds.split()},
}
