"""Backbones from timm."""

from __future__ import annotations

import torch
from torch import nn


def is_timm_name(name: str) -> bool:
    """True where timm has a model of this name, tag and all (``vit_base_patch16_224.augreg_in21k``).

    Raises:
        ValueError: timm cannot be imported.
    """
    if "/" in name:
        return False
    try:
        import timm
    except (ImportError, RuntimeError) as error:
        # A CPU build of torch beside a torchvision made for another build fails with a RuntimeError.
        raise ValueError(f"timm cannot be imported ({error}); install the torchvision that belongs to torch") from error
    return timm.is_model(name)


def load(name: str, *, meta: bool = False) -> nn.Module:
    """Builds a timm model without a classifier, with its pretrained weights or on the meta device without any.

    Args:
        name: a timm model name.
        meta: build shapes only; nothing is downloaded.

    Raises:
        ValueError: the weights cannot be downloaded.
    """
    import timm

    if meta:
        with torch.device("meta"):
            return timm.create_model(name, pretrained=False, num_classes=0)
    try:
        return timm.create_model(name, pretrained=True, num_classes=0)
    except (OSError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"backbone: cannot load the weights of {name!r}: {first[:300]}") from error
