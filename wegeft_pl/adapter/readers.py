"""Weights that are read without calling the layer that holds them, and layers that use a function of their weight.

A hook on such a layer would never run, or would edit something else than the layer's W. The classes of transformers,
timm, torchvision and torchao are known by their qualified names, because the core imports torch only; where a class
reads a weight in some settings only (a fused kernel, an exact mode), it counts as a reader in all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import attrgetter

from torch import nn

# Layers that are called with an input and apply their weight to it.
_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding)


def reader_of(model: nn.Module, layer: str, parameter: str) -> str | None:
    """The module whose forward reads a parameter without calling the layer that holds it.

    Args:
        model: the backbone.
        layer: the name of the module that holds the parameter.
        parameter: its name there, such as ``"weight"``.

    Returns:
        The reader's name in the model: the parent of a layer that it bypasses, or the module itself where it is no
        layer but holds the parameter on its own (nn.MultiheadAttention's ``in_proj_weight``, a router, a stack of
        experts). None where the layer is called like any other.

    Raises:
        AttributeError: the model has no such module.

    Example:
        >>> model = nn.Sequential(nn.MultiheadAttention(4, 1), nn.Linear(4, 4))
        >>> reader_of(model, "0.out_proj", "weight"), reader_of(model, "0", "in_proj_weight")
        ('0', '0')
        >>> print(reader_of(model, "1", "weight"))
        None
    """
    module = model.get_submodule(layer)
    path, _, leaf = layer.rpartition(".")
    if layer:
        parent = model.get_submodule(path)
        for name in _names(parent):
            bypasses = _READERS.get(name, {}).get(leaf)
            if bypasses is not None:
                return path if bypasses(parent) else None
    called = isinstance(module, _LAYERS) or type(module).__name__ == "Conv1D"
    return None if called else layer


def transforms_weight(module: nn.Module) -> str | None:
    """Why an edit of a layer could not be merged into its weight.

    Args:
        module: any module.

    Returns:
        A sentence's worth of reason that opens with the class, such as ``"StdConv2d standardises its weight before
        use"``; None where the layer applies its weight as it is.

    Example:
        >>> transforms_weight(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)))
        'ParametrizedLinear computes its weight from parametrizations.weight.original0, ...original1 at every use'
        >>> print(transforms_weight(nn.Linear(2, 2)))
        None
    """
    for name in _names(module):
        if name in _TRANSFORMED and (name != _IDEFICS or attrgetter("out_additional_features")(module) > 0):
            return f"{name.rpartition('.')[2]} {_TRANSFORMED[name]}"
    if isinstance(module, _LAYERS) and "weight" not in dict(module.named_parameters(recurse=False)):
        sources = [name for name, _ in module.named_parameters() if "weight" in name]
        return f"{type(module).__name__} computes its weight from {_listed(sources)} at every use"
    return None


def reshapes_output(module: nn.Module) -> str | None:
    """Why a layer's output is not its plain product, so that only its input can be edited.

    Args:
        module: any module.

    Returns:
        A reason that opens with the class, or None where the output is the product and the bias.
    """
    for name in _names(module):
        if name in _RESHAPED:
            return f"{name.rpartition('.')[2]} {_RESHAPED[name]}"
    return None


def _names(module: nn.Module) -> list[str]:
    return [f"{kind.__module__}.{kind.__qualname__}" for kind in type(module).__mro__]


def _listed(names: list[str]) -> str:
    return ", ".join([*names[:1], *(f"...{name.rpartition('.')[2]}" if "." in name else name for name in names[1:])])


def _always(parent: nn.Module) -> bool:
    return True


def _adds_bias_to_weight(parent: nn.Module) -> bool:
    # F.linear(x, qkv.weight, cat(q_bias, k_bias, v_bias)), unless the biases are added after the call.
    has_bias = "q_bias" in dict(parent.named_parameters(recurse=False))
    return has_bias and not attrgetter("qkv_bias_separate")(parent)


def _slices_weight(parent: nn.Module) -> bool:
    return attrgetter("pretraining_tp")(parent) > 1 and bool(attrgetter("slow_but_exact")(parent))


def _clips_weight(parent: nn.Module) -> bool:
    return attrgetter("config.altup_coef_clip")(parent) is not None


def _resamples_weight(parent: nn.Module) -> bool:
    return bool(attrgetter("is_linear")(parent)) and bool(attrgetter("enable_patch_interpolator")(parent))


Leaves = Mapping[str, Callable[[nn.Module], bool]]


def _leaves(names: str, when: Callable[[nn.Module], bool] = _always) -> Leaves:
    return dict.fromkeys(names.split(), when)


_IDEFICS = "transformers.models.idefics.modeling_idefics.IdeficsDecoupledLinear"
# The classes of transformers that bypass a child, each as module.Class below transformers.models, by what they read.
_TRANSFORMERS: tuple[tuple[str, Leaves], ...] = (
    ("wavlm.modeling_wavlm.WavLMAttention", _leaves("q_proj k_proj v_proj out_proj")),
    (
        """
        conditional_detr.modeling_conditional_detr.ConditionalDetrMHAttentionMap
        detr.modeling_detr.DetrMHAttentionMap
        maskformer.modeling_maskformer.MaskFormerDetrMHAttentionMap
        """,
        _leaves("k_proj"),
    ),
    ("dab_detr.modeling_dab_detr.DabDetrMHAttentionMap", _leaves("k_linear")),
    (
        """
        data2vec.modeling_data2vec_audio.TDNNLayer unispeech_sat.modeling_unispeech_sat.TDNNLayer
        wav2vec2.modeling_wav2vec2.TDNNLayer wav2vec2_bert.modeling_wav2vec2_bert.TDNNLayer
        wav2vec2_conformer.modeling_wav2vec2_conformer.TDNNLayer wavlm.modeling_wavlm.TDNNLayer
        """,
        _leaves("kernel"),
    ),
    (
        "layoutlmv2.modeling_layoutlmv2.LayoutLMv2Encoder layoutlmv3.modeling_layoutlmv3.LayoutLMv3Encoder",
        _leaves("rel_pos_bias rel_pos_x_bias rel_pos_y_bias"),
    ),
    ("pp_doclayout_v2.modeling_pp_doclayout_v2.PPDocLayoutV2ReadingOrderEncoder", _leaves("rel_pos_bias")),
    ("mobilebert.modeling_mobilebert.MobileBertLMPredictionHead", _leaves("dense decoder")),
    ("longcat_flash.modeling_longcat_flash.LongcatFlashTopkRouter", _leaves("classifier")),
    ("dbrx.modeling_dbrx.DbrxExperts", _leaves("mlp")),
    ("bloom.modeling_bloom.BloomAttention", _leaves("dense", _slices_weight)),
    ("bloom.modeling_bloom.BloomMLP", _leaves("dense_4h_to_h", _slices_weight)),
    ("gemma3n.modeling_gemma3n.Gemma3nTextAltUp", _leaves("correction_coefs", _clips_weight)),
    # The fused kernels of state-space models take the weights; dt_proj is read in the plain path too.
    (
        "mamba.modeling_mamba.MambaMixer falcon_mamba.modeling_falcon_mamba.FalconMambaMixer",
        _leaves("conv1d x_proj dt_proj out_proj"),
    ),
    ("jamba.modeling_jamba.JambaMambaMixer", _leaves("conv1d dt_proj")),
    (
        """
        bamba.modeling_bamba.BambaMixer falcon_h1.modeling_falcon_h1.FalconH1Mixer
        granitemoehybrid.modeling_granitemoehybrid.GraniteMoeHybridMambaLayer mamba2.modeling_mamba2.Mamba2Mixer
        nemotron_h.modeling_nemotron_h.NemotronHMamba2Mixer zamba2.modeling_zamba2.Zamba2MambaMixer
        """,
        _leaves("conv1d out_proj"),
    ),
)
_READERS: dict[str, Leaves] = {
    "torch.nn.modules.activation.MultiheadAttention": _leaves("out_proj"),
    "torchvision.models.swin_transformer.ShiftedWindowAttention": _leaves("qkv proj"),
    "timm.models.beit.Attention": _leaves("qkv", _adds_bias_to_weight),
    "timm.models.eva.EvaAttention": _leaves("qkv", _adds_bias_to_weight),
    "timm.models.swin_transformer_v2.WindowAttention": _leaves("qkv", _adds_bias_to_weight),
    "timm.models.naflexvit.NaFlexEmbeds": _leaves("proj", _resamples_weight),
    **{f"transformers.models.{kind}": leaves for kinds, leaves in _TRANSFORMERS for kind in kinds.split()},
}
_STANDARDISES = "standardises its weight before use"
_TRANSFORMED: dict[str, str] = {
    "timm.layers.std_conv.StdConv2d": _STANDARDISES,
    "timm.layers.std_conv.StdConv2dSame": _STANDARDISES,
    "timm.layers.std_conv.ScaledStdConv2d": _STANDARDISES,
    "timm.layers.std_conv.ScaledStdConv2dSame": _STANDARDISES,
    "transformers.models.bit.modeling_bit.WeightStandardizedConv2d": _STANDARDISES,
    "transformers.integrations.bitnet.AutoBitLinear": "quantises its input (and weight) at every use",
    "torchao.quantization.qat.linear.FakeQuantizedLinear": "quantises its input and weight at every use",
    _IDEFICS: "applies another weight, additional_fc, to the same input",
}
_RESHAPED: dict[str, str] = {
    "transformers.models.llama4.modeling_llama4.Llama4Router": "returns the experts that it chose",
    "transformers.models.phimoe.modeling_phimoe.PhimoeTopKRouter": "returns the experts that it chose",
    "transformers.models.deepseek_v4.modeling_deepseek_v4.DeepseekV4GroupedLinear": "multiplies group by group",
    "transformers.integrations.finegrained_fp8.FP8GroupedLinear": "multiplies group by group",
}
