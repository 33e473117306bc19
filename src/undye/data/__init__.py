"""Images to learn from: named data sets, folders, arrays; and the way between pixels and [-1, 1].

Nothing is imported before it is used, so that the command line can read `undye.data.names` without torch.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from undye.data.encoded_source import EncodedSource
    from undye.data.load import load_images
    from undye.data.names import NAMED_DATASETS, NamedDataset, parse_image_size
    from undye.data.pack import PackSource
    from undye.data.packing import pack
    from undye.data.pixels import to_signed, to_uint8
    from undye.data.report import BadFile, LoadReport
    from undye.data.source import ArraySource, ImageSource

_HOME = {
    "NAMED_DATASETS": "names",
    "ArraySource": "source",
    "BadFile": "report",
    "EncodedSource": "encoded_source",
    "ImageSource": "source",
    "LoadReport": "report",
    "NamedDataset": "names",
    "PackSource": "pack",
    "load_images": "load",
    "pack": "packing",
    "parse_image_size": "names",
    "to_signed": "pixels",
    "to_uint8": "pixels",
}

__all__ = [
    "NAMED_DATASETS",
    "ArraySource",
    "BadFile",
    "EncodedSource",
    "ImageSource",
    "LoadReport",
    "NamedDataset",
    "PackSource",
    "load_images",
    "pack",
    "parse_image_size",
    "to_signed",
    "to_uint8",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
