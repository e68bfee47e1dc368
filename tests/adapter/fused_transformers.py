"""The fused layers of transformers, at tiny sizes."""

from __future__ import annotations

from typing import Any

import torch
from adapter.fused_proofs import Case
from adapter.tiny_layers import FLAT, HEADS, MAP, SEQUENCE, TOKENS, WIDTH, call, from_config
from torch import Tensor, nn

from wegeft_pl.adapter.fused_layers import RULES

HF = "transformers.models."


def hf(
    short: str,
    leaf: str,
    shape: tuple[int, ...] = SEQUENCE,
    query: str = "",
    by_token: bool = True,
    silent: bool = True,
    **changes: Any,
) -> Case:
    """A case of transformers; ``given_`` in front of a name makes it an argument of the call."""
    folder, *file, kind = short.split(".")
    name = ".".join((HF[:-1], folder, *(file or (f"modeling_{folder}",)), kind))
    given = {key.removeprefix("given_"): changes.pop(key) for key in list(changes) if key.startswith("given_")}

    def run(module: nn.Module, x: Tensor) -> Tensor:
        return call(module, x, **given)

    return Case(name, leaf, lambda: from_config(name, **changes), shape, run, query, by_token, silent)


NO_MASK = torch.zeros(2, 1, TOKENS, TOKENS, dtype=torch.float64)
_BY_SHAPE = {
    SEQUENCE: """
        blip.BlipAttention blip_2.Blip2Attention florence2.Florence2VisionChannelAttention
        instructblip.InstructBlipAttention instructblipvideo.InstructBlipVideoAttention mgp_str.MgpstrAttention
        pp_ocrv5_mobile_rec.PPOCRV5MobileRecAttention pp_ocrv5_server_rec.PPOCRV5ServerRecAttention
        pp_ocrv6_small_rec.PPOCRV6SmallRecAttention timesformer.TimesformerSelfAttention hiera.HieraMaskUnitAttention
    """,
    FLAT: """
        cohere_compass.CohereCompassVisionAttention dots3_note.Dots3NoteVisionAttention
        ernie4_5_vl_moe.Ernie4_5_VLMoeVisionAttention exaone4_5.Exaone4_5_VisionAttention glm4v.Glm4vVisionAttention
        glm4v_moe.Glm4vMoeVisionAttention glm5_next.Glm5NextVisionAttention glm_ocr.GlmOcrVisionAttention
        qwen2_5_vl.Qwen2_5_VLVisionAttention qwen2_vl.VisionAttention qwen3_5.Qwen3_5VisionAttention
        qwen3_5_moe.Qwen3_5MoeVisionAttention qwen3_omni_moe.Qwen3OmniMoeVisionAttention
        qwen3_vl.Qwen3VLVisionAttention qwen3_vl_moe.Qwen3VLMoeVisionAttention qwen4_exp.Qwen4ExpVisionAttention
        glm_image.GlmImageVisionAttention
    """,
    MAP: """
        deepseek_ocr2.DeepseekOcr2SamVisionAttention deepseek_ocr2.DeepseekOcr2SamVisionSdpaAttention
        florence2.Florence2VisionWindowAttention got_ocr2.GotOcr2VisionAttention
        pp_formulanet.PPFormulaNetVisionAttention sam.SamVisionAttention sam.SamVisionSdpaAttention
        sam2.Sam2MultiScaleAttention sam_hq.SamHQVisionAttention sam_hq.SamHQVisionSdpaAttention
        seggpt.SegGptAttention slanext.SLANeXtVisionAttention unlimited_ocr.UnlimitedOcrSamVisionAttention
        unlimited_ocr.UnlimitedOcrSamVisionSdpaAttention vitdet.VitDetAttention
    """,
}
_STAGES = {"embed_dim": [WIDTH], "num_heads": [HEADS], "num_groups": [HEADS]}  # of Florence-2
HF_ATTENTION = [
    *(
        hf(kind, "qkv", shape, by_token="Channel" not in kind, **(_STAGES if "Florence" in kind else {}))
        for shape, kinds in _BY_SHAPE.items()
        for kind in kinds.split()
    ),
    hf("bark.BarkSelfAttention", "att_proj"),
    hf(
        "bloom.BloomAttention",
        "query_key_value",
        given_alibi=NO_MASK[:1].repeat(2 * HEADS, 1, 1, 1)[:, 0, :1],
        given_attention_mask=NO_MASK,
    ),
    hf("codegen.CodeGenAttention", "qkv_proj", num_attention_heads=4, head_dim=4),
    hf("dbrx.DbrxAttention", "Wqkv"),
    hf("deberta.DisentangledSelfAttention", "in_proj", given_attention_mask=torch.ones(2, 1, TOKENS, TOKENS)),
    hf("decision_transformer.DecisionTransformerGPT2Attention", "c_attn"),
    hf("esm.modeling_esmfold.EsmFoldSelfAttention", "proj", given_mask=None, given_bias=None),
    hf("evolla.EvollaSequenceCompressorAttention", "to_kv", query="to_q", given_mask=torch.ones(2, 2 * TOKENS)),
    hf("falcon.FalconAttention", "query_key_value", num_kv_heads=HEADS, given_attention_mask=NO_MASK),
    hf("falcon.FalconAttention", "query_key_value", multi_query=True, given_attention_mask=NO_MASK),
    hf(
        "falcon.FalconAttention",
        "query_key_value",
        new_decoder_architecture=True,
        hidden_size=2 * WIDTH,
        num_attention_heads=4,
        num_kv_heads=2,
        shape=(2, TOKENS, 2 * WIDTH),
        given_attention_mask=NO_MASK,
    ),
    hf("gpt2.GPT2Attention", "c_attn"),
    hf("gpt_bigcode.GPTBigCodeAttention", "c_attn"),
    hf("gpt_bigcode.GPTBigCodeAttention", "c_attn", multi_query=True),
    hf("gpt_neox.GPTNeoXAttention", "query_key_value"),
    hf("gpt_neox_japanese.GPTNeoXJapaneseAttention", "query_key_value"),
    hf("granite_speech.GraniteSpeechConformerAttention", "to_kv", query="to_q"),
    hf("granite_speech_plus.GraniteSpeechPlusConformerAttention", "to_kv", query="to_q"),
    hf("imagegpt.ImageGPTAttention", "c_attn"),
    hf("jetmoe.JetMoeAttention", "kv_proj", query="experts.input_linear"),
    hf("minimax.MiniMaxLightningAttention", "qkv_proj"),
    hf("modernbert.ModernBertAttention", "Wqkv"),
    hf("mpt.MptAttention", "Wqkv"),
    hf("openai.Attention", "c_attn"),
    hf("persimmon.PersimmonAttention", "query_key_value"),
    hf("phi3.Phi3Attention", "qkv_proj"),
    hf("phi4_multimodal.Phi4MultimodalAttention", "qkv_proj"),
    hf("qwen3_5.Qwen3_5GatedDeltaNet", "in_proj_qkv", linear_conv_kernel_dim=1),
    hf("qwen3_5_moe.Qwen3_5MoeGatedDeltaNet", "in_proj_qkv", linear_conv_kernel_dim=1),
    hf("qwen3_next.Qwen3NextGatedDeltaNet", "in_proj_qkvz", linear_conv_kernel_dim=1),
    hf("qwen4_exp.Qwen4ExpTextGatedDeltaNet", "in_proj_qkv", linear_conv_kernel_dim=1),
]
HF_GATES = [
    *(
        hf(kind, "gate_up_proj")
        for kind in [
            "dia.DiaMLP",
            "dots3_note.Dots3NoteAudioMLP",
            "esmfold2.EsmFold2SwiGLU",
            "glm.GlmMLP",
            "glm4.Glm4MLP",
            "glm4v.Glm4vTextMLP",
            "glm_image.GlmImageTextMLP",
            "glm_ocr.GlmOcrTextMLP",
            "phi3.Phi3MLP",
            "phi4_multimodal.Phi4MultimodalMLP",
        ]
    ),
    hf("phi4_multimodal.Phi4MultimodalAudioMLP", "gate_up_proj", activation="swish"),
    hf("minimax_m3_vl.MiniMaxM3VLDenseMLP", "gate_up_proj", silent=False),  # it multiplies the gate by up + 1
    hf("zamba2.Zamba2MLP", "gate_up_proj", given_layer_idx=0, silent=False),  # adapters of its own add to up
    hf("granitemoe_swa.GraniteMoeSWAMLP", "input_linear"),
    hf("granitemoehybrid.GraniteMoeHybridMLP", "input_linear"),
    hf("granitemoeshared.GraniteMoeSharedMLP", "input_linear"),
    hf("modernbert.ModernBertMLP", "Wi"),
    hf("modernbert_decoder.ModernBertDecoderMLP", "Wi"),
    hf("moonshine.MoonshineDecoderMLP", "fc1"),
    hf("moonshine_streaming.MoonshineStreamingDecoderMLP", "fc1"),
    hf("clvp.ClvpGatedLinearUnit", "proj"),
    hf("aya_vision.AyaVisionMultiModalProjector", "linear_1"),
    hf("cohere2_vision.Cohere2VisionMultiModalProjector", "linear_1"),
]
LATENT = sorted(name for name, leaf in RULES if leaf == "kv_b_proj")
