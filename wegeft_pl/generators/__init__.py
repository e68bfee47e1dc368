"""Generators: modules that map a frozen weight to the factors of its change."""

from wegeft_pl.generators.base import Generator
from wegeft_pl.generators.linear import LinearGenerator

__all__ = ["Generator", "LinearGenerator"]
