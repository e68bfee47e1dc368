"""A SYNTHETIC fine-tuning task for two CPU cores: its word problems, its base, and the scripts that made both."""

from wegeft_pl.quickstart.bundled import bundled, is_bundled

__all__ = ["bundled", "is_bundled"]
