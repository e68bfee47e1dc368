"""Runs the command line: ``python -m wegeft_pl``."""

from __future__ import annotations

import sys

from wegeft_pl.cli.main import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
