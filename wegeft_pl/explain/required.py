"""The libraries that only pictures and comparisons need, imported when they are needed."""

from __future__ import annotations

import importlib
from types import ModuleType


def require(module: str) -> ModuleType:
    """Imports a module of matplotlib, scikit-learn or Pillow.

    Args:
        module: its full name, such as ``"sklearn.cluster"``.

    Raises:
        ValueError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f'{module} is not installed ({error}); run: pip install "wegeft-pl[explain]"') from error
