"""How a picture was made, kept inside it: a PNG of `undye sample` or of an edit can be made again.

It is a JSON object in a PNG text chunk of the name `undye`, readable by any program that shows PNG metadata.
"""

import json
from pathlib import Path
from typing import Any

from PIL import PngImagePlugin

from undye.errors import UserError

KEY = "undye"
_MOST_PIXELS = 100_000_000
"""Of a picture whose words are looked for behind its pixels too."""
_LONGEST = 1_000_000
"""Characters that are read: a text chunk of a strange file must not fill the memory."""

Provenance = dict[str, Any]
"""Plain data: what was asked for, with which model."""


def text_chunks(provenance: Provenance | None) -> PngImagePlugin.PngInfo | None:
    """What Pillow's PNG writer takes as `pnginfo`."""
    if provenance is None:
        return None
    info = PngImagePlugin.PngInfo()
    info.add_itxt(KEY, json.dumps(provenance, ensure_ascii=False))
    return info


def read_provenance(path: Path) -> Provenance:
    """How a PNG says that it was made.

    Raises:
        UserError: it cannot be read, or says nothing.
    """
    if not path.is_file():
        raise UserError(f"no picture at {path}: give a PNG that undye has written")
    try:
        # not `Image.open`, which refuses large grids: their pixels are not looked at
        with PngImagePlugin.PngImageFile(path) as image:
            text = image.info.get(KEY)
            if text is None and image.width * image.height <= _MOST_PIXELS:
                text = image.text.get(KEY)  # reads on, behind the pixels
    except (OSError, ValueError, SyntaxError) as error:
        raise UserError(f"cannot read {path} as a PNG: {error}") from None
    try:
        found = json.loads(text) if text is not None and len(text) <= _LONGEST else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{path} does not say how it was made: give a PNG that undye has written, unchanged")
    return found
