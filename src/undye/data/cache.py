"""Where data sets lie on this machine."""

import os
from pathlib import Path

SYSTEM = Path("/usr/share/datasets")  # where Debian's packages put them


def dataset_cache() -> Path:
    """`$UNDYE_CACHE/datasets`, else below `$XDG_CACHE_HOME/undye`, else below `~/.cache/undye`."""
    if own := os.environ.get("UNDYE_CACHE"):
        return Path(own).expanduser() / "datasets"
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "undye" / "datasets"
