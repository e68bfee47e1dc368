"""Losses: token-weighted sums, so that batches, accumulation steps and ranks add up exactly."""

from wegeft_pl.losses.causal_lm import IGNORED, causal_lm_loss, labelled_positions

__all__ = ["IGNORED", "causal_lm_loss", "labelled_positions"]
