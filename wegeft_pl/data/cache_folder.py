"""Where things lie that can be made again, unless the user names another folder."""

from __future__ import annotations

import os


def default_cache_dir(kind: str) -> str:
    """Returns the default of a ``cache_dir`` field: in $XDG_CACHE_HOME where it is set, in ~/.cache otherwise.

    Args:
        kind: what is kept, the folder's last name.

    Returns:
        The folder, with a ``~`` that is the reader's to expand.
    """
    return f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/wegeft_pl/{kind}"
