"""Silences the few lines of Lightning that say nothing to a user of this package, each by its own text."""

from __future__ import annotations

import logging
import warnings

_LOGGERS = ("lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.rank_zero")

#: Beginnings of log lines: the tips for other products, and which accelerators exist (the run report says what was used).
_CHATTER = ("\N{ELECTRIC LIGHT BULB} Tip:", "GPU available:", "TPU available:", "Seed set to")

#: Warnings, as patterns of warnings.filterwarnings.
_HINTS = (
    # num_workers=0 is right for tokenised text in memory, and for two cores.
    r".*does not have many workers which may be a bottleneck.*",
)


class _NoChatter(logging.Filter):
    """Drops the log lines listed above and nothing else."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not record.getMessage().startswith(_CHATTER)


def silence_chatter() -> None:
    """Installs the filters; safe to call again."""
    for name in _LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(existing, _NoChatter) for existing in logger.filters):
            logger.addFilter(_NoChatter())
    for pattern in _HINTS:
        warnings.filterwarnings("ignore", message=pattern)
