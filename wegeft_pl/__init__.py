"""WeGeFT, weight-generative fine-tuning. This module is the core: torch and safetensors, never Lightning."""

from wegeft_pl.adapter import Adapter, AdapterConfig, MergeReport, inject, load_adapter, merge, unmerge
from wegeft_pl.version import __version__

__all__ = ["Adapter", "AdapterConfig", "MergeReport", "__version__", "inject", "load_adapter", "merge", "unmerge"]
