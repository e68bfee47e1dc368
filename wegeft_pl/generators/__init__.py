"""Generators: modules that map a frozen weight to the factors of its change."""

from wegeft_pl.generators.affine import AffineGenerator
from wegeft_pl.generators.base import Generator
from wegeft_pl.generators.elementwise import GELUGenerator, SigmoidGenerator
from wegeft_pl.generators.gift import GIFTGenerator
from wegeft_pl.generators.linear import LinearGenerator
from wegeft_pl.generators.mixer import MixerGenerator
from wegeft_pl.generators.mlp import MLPGenerator
from wegeft_pl.generators.paca import PaCaGenerator
from wegeft_pl.generators.transformer import TransformerGenerator

__all__ = [
    "AffineGenerator",
    "GELUGenerator",
    "GIFTGenerator",
    "Generator",
    "LinearGenerator",
    "MLPGenerator",
    "MixerGenerator",
    "PaCaGenerator",
    "SigmoidGenerator",
    "TransformerGenerator",
]
