"""The cache folder: where what is worked out once for a machine is kept."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """$TREESERVE_CACHE, else $XDG_CACHE_HOME/treeserve, else ~/.cache/treeserve.

    Raises:
        RuntimeError: None of them is set and there is no home folder.
    """
    given = os.environ.get("TREESERVE_CACHE")
    if given:
        return Path(given)
    shared = os.environ.get("XDG_CACHE_HOME")
    if shared:
        return Path(shared) / "treeserve"
    return Path.home() / ".cache" / "treeserve"
