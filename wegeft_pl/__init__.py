"""WeGeFT, weight-generative fine-tuning. This module is the core: torch and safetensors, never Lightning.

The names are imported on first use, so that `python -m wegeft_pl --help` does not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from wegeft_pl.version import __version__

if TYPE_CHECKING:
    from wegeft_pl.adapter import Adapter, AdapterConfig, MergeReport, inject, load_adapter, merge, unmerge

__all__ = ["Adapter", "AdapterConfig", "MergeReport", "__version__", "inject", "load_adapter", "merge", "unmerge"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("wegeft_pl.adapter"), name)
