"""Metrics: answer extraction as pure functions, and the torchmetrics classes above them."""

from wegeft_pl.metrics.answers import gsm8k_strict, last_number, normalise_number, numbers_equal
from wegeft_pl.metrics.exact_match import ExactMatch

__all__ = ["ExactMatch", "gsm8k_strict", "last_number", "normalise_number", "numbers_equal"]
