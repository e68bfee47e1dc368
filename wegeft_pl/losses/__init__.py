"""Losses: token-weighted sums, so that batches, accumulation steps and ranks add up exactly."""

from wegeft_pl.losses.causal_lm import IGNORED, causal_lm_loss, labelled_positions
from wegeft_pl.losses.classification import classification_loss

__all__ = ["IGNORED", "causal_lm_loss", "classification_loss", "labelled_positions"]
