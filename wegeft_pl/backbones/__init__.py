"""Backbones: the only room that imports transformers or timm."""

from wegeft_pl.backbones.build import build
from wegeft_pl.backbones.positions import only_positions

__all__ = ["build", "only_positions"]
