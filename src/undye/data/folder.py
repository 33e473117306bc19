"""A folder of images, in any layout, or of TAR shards.

If the folder has both a `train` and a `test` sub-folder, the split picks one of them; else it is all one set.
"""

import time
from pathlib import Path

from undye.data.encoded import Wanted, load_encoded
from undye.data.index import FolderStamp, KeptStamp, find_index
from undye.data.listing import list_folder
from undye.data.members import FolderMembers
from undye.data.name_list import NameList
from undye.data.report import show_path
from undye.data.source import ImageSource


def load_folder(root: Path, wanted: Wanted) -> ImageSource:
    """All images below `root`.

    Raises:
        UserError: no images, or those of `load_encoded`.
        TooManyBadImages: see there.
    """
    if (root / "train").is_dir() and (root / "test").is_dir():
        root = root / wanted.split
    name, stamp = show_path(root), FolderStamp(root)
    if (kept := find_index(stamp)) is not None:
        names = NameList(kept.tensors["names"], kept.tensors["name_ends"])
        # what may be kept anew for another size carries the old stamp on
        members = FolderMembers(name, root, names, KeptStamp(stamp.key, kept.tensors))
        return load_encoded(members, wanted, kept.headers, {})
    started = time.time()
    return load_encoded(FolderMembers.listed(name, root, list_folder(root), started), wanted, None, {})


def find_shards(root: Path) -> list[Path]:
    """The `.tar` files that lie in a folder, sorted."""
    return sorted(path for path in root.glob("*.tar") if path.is_file() and not path.name.startswith("."))
