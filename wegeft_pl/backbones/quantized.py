"""Bases in 4 and 8 bits through bitsandbytes and torchao: quantised while they are loaded, before they are edited.

An edit changes a layer's input and never reads its weight, so any layer that stays an ``nn.Linear`` can be quantised.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from wegeft_pl.adapter.quantized import INT4_GROUP, SCHEMES, PlannedWeight, quantization_of

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

#: Packages that a scheme needs, by its first word.
PACKAGES = {"bnb": ("bitsandbytes", "accelerate"), "torchao": ("torchao", "accelerate")}

#: Lines that bitsandbytes logs while it is imported, and in every layer of every step; by logger, as they begin.
_CHATTER = {
    "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward",
    "bitsandbytes.autograd._functions": "MatMul8bitLt: inputs will be cast",
}


def check(scheme: str) -> None:
    """Finds out whether a scheme is known and can run here.

    Raises:
        ValueError: it is none of :data:`SCHEMES`, a package is missing, or there is no CUDA device and it needs one.
    """
    if scheme not in SCHEMES:
        raise ValueError(f"quantize: {scheme!r} is not one of {', '.join(SCHEMES)}")
    for package in PACKAGES[scheme.partition("-")[0]]:
        if find_spec(package) is None:
            raise ValueError(f"quantize: {scheme} needs {package}; pip install {package}")
    if scheme == "torchao-int4" and not torch.cuda.is_available():
        raise ValueError("quantize: torchao-int4 needs a CUDA device; on a CPU use bnb-nf4 or torchao-int8")


def loading_arguments(scheme: str, dtype: torch.dtype | None) -> dict[str, Any]:
    """What ``from_pretrained`` is given to quantise a model while it loads it.

    Args:
        scheme: one of :data:`SCHEMES`.
        dtype: of everything that is not quantised; 4-bit layers compute in it too. None keeps the checkpoint's, and
            4-bit layers compute in bfloat16.

    Raises:
        ValueError: see :func:`check`; or torchao-int4 with another dtype than bfloat16.
    """
    check(scheme)
    from transformers import BitsAndBytesConfig, TorchAoConfig

    for name, start in _CHATTER.items():
        logging.getLogger(name).addFilter(_Without(start))
    if scheme == "bnb-int8":
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    if scheme.startswith("bnb"):
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=scheme.removeprefix("bnb-"),
            bnb_4bit_compute_dtype=dtype or torch.bfloat16,
            bnb_4bit_use_double_quant=True,
        )
        return {"quantization_config": config}
    from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig

    if scheme == "torchao-int8":
        return {"quantization_config": TorchAoConfig(Int8WeightOnlyConfig())}
    if dtype not in (None, torch.bfloat16):
        raise ValueError(f"quantize: torchao-int4 computes in bfloat16, got dtype {dtype}; set dtype: bfloat16")
    # The packing that torch's own kernels read; torchao's default needs one more package.
    int4 = Int4WeightOnlyConfig(group_size=INT4_GROUP, int4_packing_format="tile_packed_to_4d")
    device = {"": torch.cuda.current_device()}
    return {"quantization_config": TorchAoConfig(int4), "dtype": torch.bfloat16, "device_map": device}


class _Without(logging.Filter):
    """Drops log lines that begin in one way."""

    def __init__(self, start: str) -> None:
        super().__init__()
        self.start = start

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(self.start)


def settle(model: nn.Module) -> None:
    """Keeps a loaded model's 4-bit weights as they are.

    On CPUs with AVX-512 BF16, bitsandbytes repacks a layer's weight at its first forward pass in eval mode, for
    inference, and the backward pass of a later training step misreads the repacked weight: gradients are wrong and
    nothing is raised. Scoring a model before training is enough.
    """
    for module, _ in _quantised_modules(model):
        if type(module).__name__ == "Linear4bit":
            vars(module)["support_avx512bf16_for_cpu"] = False


def scheme_in(config: PretrainedConfig) -> str | None:
    """How a checkpoint says that its weights are quantised; None where they are not.

    Returns:
        One of :data:`SCHEMES`, or the method's own name (``"gptq"``).
    """
    found = getattr(config, "quantization_config", None)  # only quantised checkpoints have it
    if found is None:
        return None
    fields: dict[str, Any] = found if isinstance(found, dict) else found.to_dict()
    method = str(fields.get("quant_method"))
    if method == "bitsandbytes":
        return f"bnb-{fields['bnb_4bit_quant_type']}" if fields.get("load_in_4bit") else "bnb-int8"
    if method == "torchao":
        kind = str(fields["quant_type"]["default"]["_type"]).lower()
        return next((f"torchao-{bits}" for bits in ("int8", "int4") if kind.startswith(f"{bits}weight")), "torchao")
    return method


def plan(model: PreTrainedModel, scheme: str) -> None:
    """Marks the weights of a model on the meta device that :func:`loading_arguments` would quantise.

    Those are the linear layers but the output head, layers whose weight is tied, and what the architecture keeps in
    float32; embeddings and norms are no linear layers.

    Args:
        model: on the meta device.
        scheme: one of :data:`SCHEMES`; its package need not be here.

    Raises:
        ValueError: the scheme is unknown.
    """
    from transformers.pytorch_utils import Conv1D
    from transformers.quantizers.base import HfQuantizer
    from transformers.quantizers.quantizers_utils import should_convert_module

    if scheme not in SCHEMES:
        raise ValueError(f"quantize: {scheme!r} is not one of {', '.join(SCHEMES)}")
    kept = HfQuantizer.get_modules_to_not_convert(model, None, cast(Any, model)._keep_in_fp32_modules)
    kinds = (nn.Linear, Conv1D) if scheme.startswith("bnb") else (nn.Linear,)
    for name, module in model.named_modules():
        if not isinstance(module, kinds) or not should_convert_module(name, kept):
            continue
        weight = module.get_parameter("weight")
        if scheme == "torchao-int4" and weight.shape[1] % INT4_GROUP:
            continue  # torchao leaves such layers as they are
        module.weight = PlannedWeight(weight.detach(), False, scheme)


def dequantize(model: PreTrainedModel, dtype: torch.dtype | None = None) -> None:
    """Replaces every quantised layer by a plain one whose weight is what the quantised one stands for.

    Args:
        model: quantised, without an adapter.
        dtype: of the new weights and of all others; None takes that of the model's first unquantised one.

    Raises:
        ValueError: a layer is quantised in a way that cannot be undone here.
    """
    from transformers.pytorch_utils import Conv1D

    chosen = dtype or next(
        weight.dtype for weight in model.parameters() if quantization_of(weight) is None and weight.is_floating_point()
    )
    for module, name in list(_quantised_modules(model)):
        values = numbers(module, name).to(chosen)
        bias = dict(module.named_parameters(recurse=False)).get("bias")
        transposed = vars(module).get("source_cls") is Conv1D  # bitsandbytes turned it into an nn.Linear
        with torch.device("meta"):
            plain: nn.Module = (
                Conv1D(values.shape[0], values.shape[1])
                if transposed
                else nn.Linear(values.shape[1], values.shape[0], bias=bias is not None)
            )
        plain.weight = nn.Parameter(values.T.contiguous() if transposed else values, requires_grad=False)
        if bias is not None:
            plain.bias = nn.Parameter(bias.detach(), requires_grad=False)
        model.set_submodule(name, plain)
    for parameter in model.parameters():  # buffers (rotary frequencies) are float32 whatever the model is
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(chosen)
    whole: Any = model
    if whole.is_quantized:
        if whole.hf_quantizer.pre_quantized:
            # transformers would undo, when it saves, what it did to read a quantised checkpoint, and cannot.
            whole._weight_conversions = None
        whole.hf_quantizer.remove_quantization_config(model)
    model.config.dtype = chosen


def numbers(module: nn.Module, name: str) -> Tensor:
    """The weight (O, I) that a quantised layer stands for, in the precision that its library gives.

    Raises:
        ValueError: the layer is quantised in a way that cannot be undone here.
    """
    weight = module.get_parameter("weight").detach()
    stored: Any = module.get_parameter("weight")
    scheme = quantization_of(stored)
    if scheme in ("bnb-nf4", "bnb-fp4"):
        from bitsandbytes.functional import dequantize_4bit

        values: Tensor = dequantize_4bit(stored.data, stored.quant_state)
        return values
    if scheme == "bnb-int8":
        # The scales move from the weight to the module's state in the first forward pass.
        scales = stored.SCB if stored.SCB is not None else cast(Any, module).state.SCB
        return weight.float() * scales[:, None] / 127
    if str(scheme).startswith("torchao"):
        return cast(Tensor, stored.dequantize()).detach()
    raise ValueError(f"{name}: a weight quantised by {scheme} cannot be dequantised here; merge into the original base")


def _quantised_modules(model: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    for name, module in model.named_modules():
        weight = dict(module.named_parameters(recurse=False)).get("weight")
        if weight is not None and quantization_of(weight) is not None:
            yield module, name
