"""Where data sets lie on this machine, and what has been found out about them."""

import os
import tempfile
from pathlib import Path

SYSTEM = Path("/usr/share/datasets")  # where Debian's packages put them


def dataset_cache() -> Path:
    """`$UNDYE_CACHE/datasets`, else below `$XDG_CACHE_HOME/undye`, else below `~/.cache/undye`."""
    return _cache() / "datasets"


def index_cache() -> Path:
    """`index` beside it: what large folders and archives hold (`index.py`). May be removed at any time."""
    return _cache() / "index"


def _cache() -> Path:
    if own := os.environ.get("UNDYE_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return Path(base).expanduser() / "undye"
    except RuntimeError:  # a user without a home, as containers have them
        return Path(tempfile.gettempdir()) / f"undye-{os.getuid() if hasattr(os, 'getuid') else 'cache'}"
