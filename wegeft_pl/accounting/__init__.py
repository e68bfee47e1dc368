"""Accounting: what is trained and what it costs, counted on shapes alone, before and during a run."""

from wegeft_pl.accounting.activations import activation_bytes
from wegeft_pl.accounting.live import LiveBytes
from wegeft_pl.accounting.memory import (
    MemoryEstimate,
    estimate_memory,
    gradient_bytes,
    optimizer_bytes,
    state_bytes,
    weight_bytes,
)
from wegeft_pl.accounting.modes import preserved_modes
from wegeft_pl.accounting.parameters import ParameterCount, count_parameters
from wegeft_pl.accounting.wording import bytes_text

__all__ = [
    "LiveBytes",
    "MemoryEstimate",
    "ParameterCount",
    "activation_bytes",
    "bytes_text",
    "count_parameters",
    "estimate_memory",
    "gradient_bytes",
    "optimizer_bytes",
    "preserved_modes",
    "state_bytes",
    "weight_bytes",
]
