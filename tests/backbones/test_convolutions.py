"""Real convolutional backbones of timm at tiny sizes: merged weights compute what the adapter computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn

from wegeft_pl import Adapter, AdapterConfig, inject, merge

SIZE = 32
DOUBLE_TOLERANCE = 1e-10
# A bfloat16 is rounded by up to 2^-9; some tens of layers add up, and the edited input is rounded as well. Measured
# over these cases: 0.004 to 0.034.
BFLOAT16_TOLERANCE = 0.06


def resnet() -> nn.Module:
    """Plain convolutions: 7x7 with stride, 3x3, 1x1."""
    return timm.create_model("resnet18", num_classes=5, channels=(8, 8, 16, 16))


def resnext() -> nn.Module:
    """Grouped 3x3 convolutions, 4 groups."""
    block = timm.models.resnet.Bottleneck
    return timm.models.resnet.ResNet(
        block, (1, 1, 1, 1), num_classes=5, cardinality=4, base_width=32, channels=(8, 8, 16, 16), stem_width=8
    )


def convnext() -> nn.Module:
    """Depthwise 7x7 and an MLP of nn.Linear in every block."""
    return timm.models.convnext.ConvNeXt(num_classes=5, depths=(1, 1, 1, 1), dims=(8, 8, 16, 16), ls_init_value=0.5)


def mobilenet() -> nn.Module:
    """Depthwise convolutions and squeeze-and-excitation by 1x1 convolutions with biases."""
    return timm.create_model("mobilenetv3_small_050", num_classes=5)


def mobilenet_same() -> nn.Module:
    """Conv2dSame, which pads by the input's size."""
    return timm.create_model("tf_mobilenetv3_small_minimal_100", num_classes=5)


def efficientnet_same() -> nn.Module:
    """Conv2dSame, depthwise and strided, with squeeze-and-excitation."""
    return timm.models.efficientnet._gen_efficientnet(
        "tf_efficientnet_b0", channel_multiplier=0.25, depth_multiplier=0.3, pad_type="same", num_classes=5
    )


# A backbone, and targets that meet its kinds of convolution.
CASES: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "resnet": (resnet, ["conv1", "conv2", "downsample.0"]),
    "resnext": (resnext, ["conv1", "conv2", "conv3"]),
    "convnext": (convnext, ["conv_dw", "mlp.fc1", "mlp.fc2", "downsample.1"]),
    "mobilenet": (mobilenet, ["conv_pw", "conv_dw", "conv_pwl", "se.conv_reduce", "conv_stem"]),
    "mobilenet_same": (mobilenet_same, ["conv_stem", "conv_pw", "conv_dw", "conv_pwl"]),
    "efficientnet_same": (efficientnet_same, ["conv_stem", "conv_pw", "conv_dw", "se.conv_expand"]),
}


def built(name: str, dtype: torch.dtype) -> nn.Module:
    """The backbone in eval mode, batch norms with statistics of their own."""
    torch.manual_seed(0)
    model = CASES[name][0]().to(dtype).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model


def edited(name: str, dtype: torch.dtype, **fields: Any) -> tuple[nn.Module, Adapter, Tensor]:
    """The backbone with random factors on every target, and images (B, 3, SIZE, SIZE)."""
    model = built(name, dtype)
    adapter = inject(model, AdapterConfig(**({"targets": CASES[name][1], "rank": 2, "sharing": "layer"} | fields)))
    with torch.no_grad():
        for _, parameter in adapter.named_parameters():
            parameter.normal_(0, 0.5 / parameter.shape[-1] ** 0.5)
            if dtype == torch.float64:
                parameter.data = parameter.double()
    return model, adapter, torch.randn(2, 3, SIZE, SIZE, dtype=dtype)


def relative(found: Tensor, wanted: Tensor) -> float:
    """The largest difference over the largest value."""
    return float((found - wanted).double().abs().max() / wanted.double().abs().max())


@pytest.mark.parametrize("form", ["edit", "factor", "weight"])
@pytest.mark.parametrize("side", ["input", "output"])
@pytest.mark.parametrize("name", CASES)
def test_merged_equals_hooked_in_float64(name: str, side: str, form: str) -> None:
    model, adapter, images = edited(name, torch.float64, side=side, form=form)
    with torch.no_grad():
        plain = built(name, torch.float64)(images)
        hooked = model(images)
        merge(model, adapter)
        merged = model(images)
    assert relative(merged, hooked) <= DOUBLE_TOLERANCE
    assert relative(hooked, plain) > 1e-3  # the factors do something


@pytest.mark.parametrize("side", ["input", "output"])
@pytest.mark.parametrize("name", CASES)
def test_forms_agree_in_float64(name: str, side: str) -> None:
    outputs = []
    for form in ("edit", "factor"):
        model, _, images = edited(name, torch.float64, side=side, form=form)
        with torch.no_grad():
            outputs.append(model(images))
    assert relative(outputs[0], outputs[1]) <= DOUBLE_TOLERANCE


@pytest.mark.parametrize("side", ["input", "output"])
@pytest.mark.parametrize("name", CASES)
def test_merged_equals_hooked_in_bfloat16_within_rounding(name: str, side: str) -> None:
    model, adapter, images = edited(name, torch.bfloat16, side=side)
    with torch.no_grad():
        plain = built(name, torch.bfloat16)(images)
        hooked = model(images)
        merge(model, adapter)
        merged = model(images)
    assert relative(merged, hooked) <= min(BFLOAT16_TOLERANCE, relative(plain, hooked) / 2)


def test_the_same_padded_backbones_hold_what_they_are_here_for() -> None:
    for name in ("mobilenet_same", "efficientnet_same"):
        same = [layer for layer in built(name, torch.float32).modules() if isinstance(layer, Conv2dSame)]
        assert any(layer.stride == (2, 2) for layer in same)


def test_training_reaches_every_convolution() -> None:
    model, adapter, images = edited("mobilenet_same", torch.float64)
    model(images).square().sum().backward()
    for name, parameter in adapter.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_standardised_convolutions_are_refused() -> None:
    model = timm.models.resnetv2.ResNetV2((1, 1, 1, 1), channels=(128, 128, 128, 128), num_classes=5, stem_chs=32)
    with pytest.raises(ValueError, match=r"conv2 cannot be edited: StdConv2d standardises its weight before use"):
        inject(model, AdapterConfig(targets=["conv2"], rank=2))
