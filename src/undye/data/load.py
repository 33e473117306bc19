"""`load_images`: whatever the user names, as an ImageSource."""

import difflib
import os
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from undye.data import arrays, mini
from undye.data.archives import is_archive, load_archive, load_shards
from undye.data.encoded import Wanted, is_large, load_encoded
from undye.data.folder import find_shards, load_folder
from undye.data.hub import HubMembers, HubName, is_saved_dataset, parse_hub_name
from undye.data.idx import find_idx, read_idx
from undye.data.index import find_index
from undye.data.listing import has_images
from undye.data.members import FolderMembers
from undye.data.name_list import NameList
from undye.data.names import HUB, HUB_STREAM, NAMED_DATASETS
from undye.data.pack import PACK_SUFFIX, PackSource
from undye.data.report import MAX_BAD_FRACTION, show_path
from undye.data.source import ImageSource
from undye.data.tars import expand_shards
from undye.data.workers import Progress
from undye.errors import UserError

_ARRAY_SUFFIXES = (".npz", ".npy")


def load_images(
    data: str | os.PathLike[str] | np.ndarray,
    *,
    split: Literal["train", "test"] = "train",
    image_size: tuple[int, int] | None = None,
    channels: Literal[1, 3] | None = None,
    labels: Literal["auto", "folders", "none"] = "auto",
    upscale: bool = False,
    download: bool = True,
    max_bad_fraction: float = MAX_BAD_FRACTION,
    progress: Progress | None = None,
    decode_late: bool = False,
) -> ImageSource:
    """Loads a data set.

    Args:
        data: a name of `NAMED_DATASETS`, a folder of images, a ZIP or TAR archive of them, shards (a folder of `.tar`
            files, or `a-{000..123}.tar`), a `.pack` file, `hf:NAME` or a data set that the library `datasets` saved, an
            `.npz` or `.npy` file, or an array. A name of the table wins over a folder of the same name; `./name` means
            the folder.
        split: of the named data sets, of those of `hf:`, and of a folder or archive that has both a `train` and a
            `test` sub-folder; all else is one set, whatever the split.
        image_size: (height, width) to resize and crop to; None: as the data is.
        channels: None: 3 if any image has colour, else 1.
        labels: `folders`: the first sub-folder names the class. `auto`: those that the data set, the shards, the
            `.pack` or the `.npz` brings, none for a folder. `none`: none.
        upscale: take images that are smaller than `image_size`, and enlarge them.
        download: a named data set that is not on this machine may be fetched.
        max_bad_fraction: how many of a folder's images may be unusable; they are skipped and named in the report.
        progress: called with (done, total) while image files are read.
        decode_late: decode image files only when they are asked for, however few there are; random crops need it.

    Raises:
        UserError: no such data, or data that cannot be used as asked.
        TooManyBadImages: more bad images than allowed.
    """
    if channels not in (None, 1, 3):
        raise UserError(f"channels are 1 or 3, not {channels}")
    if image_size is not None and min(image_size) < 1:
        raise UserError(f"an image size is two positive numbers (height, width), not {image_size}")
    if labels == "folders" and not _has_folders(data):
        raise UserError(
            "--labels folders is for a folder or an archive of images; other data bring their labels: --labels auto"
        )
    wanted = Wanted(split, image_size, channels, labels, upscale, max_bad_fraction, progress, decode_late)

    if isinstance(data, np.ndarray):
        name, images, classes, class_names = "array", data, None, None
    elif isinstance(data, str) and data in NAMED_DATASETS:
        name = f"{data} {split}"
        if data == "celeba":
            return _load_celeba(name, wanted, download)
        images, classes, class_names = _load_named(data, split, download)
    elif isinstance(data, str) and data.startswith((HUB, HUB_STREAM)):
        if data.startswith(HUB_STREAM):
            raise UserError(
                f"a stream's images cannot be asked for by number: {HUB}{data.removeprefix(HUB_STREAM)} reads them "
                f"from the disk, or pack the stream once (undye data pack {data} --out FILE.pack)"
            )
        return _load_hub(parse_hub_name(data), wanted)
    else:
        path = Path(data).expanduser()
        if path.is_dir():
            return _load_folder(path, wanted)
        text = os.fspath(data)
        if not path.exists() and "{" in text and text.lower().endswith(".tar"):
            return load_shards(show_path(text), expand_shards(text), wanted)
        _check_path(text, path)
        if path.suffix.lower() == PACK_SUFFIX:
            return PackSource.open(path, image_size, channels, with_labels=labels != "none")
        if is_archive(path):
            return load_archive(path, wanted)
        name, class_names = show_path(path), None
        images, classes = arrays.load_array_file(path)

    images = arrays.check_images(name, images)
    if labels == "none":
        classes = None
    if classes is not None:
        classes = arrays.check_labels(name, classes, len(images))
        class_names = class_names or tuple(str(k) for k in range(classes.max() + 1))
    return arrays.array_source(
        name, images, classes, class_names, image_size=image_size, channels=channels, upscale=upscale
    )


def _load_named(name: str, split: str, download: bool) -> tuple[np.ndarray, np.ndarray, tuple[str, ...] | None]:
    known = NAMED_DATASETS[name]
    if name == "fashion-mini":
        return *mini.load_mini(split), known.class_names
    if name in ("fashion-mnist", "mnist"):
        found = find_idx(name, split)
        if found is None and download:
            from undye.data.torchvision_sets import download_idx

            download_idx(name)
            found = find_idx(name, split)
        if found is None:
            raise UserError(f"{name} is not on this machine: {known.without_network}")
        return *read_idx(name, *found), known.class_names
    # Only now torchvision, which takes a second to import.
    from undye.data.torchvision_sets import load_cifar, load_svhn

    if name == "svhn":
        return *load_svhn(split, download), known.class_names
    return load_cifar(name, split, download)


def _load_folder(path: Path, wanted: Wanted) -> ImageSource:
    """Images, or what else a folder may hold."""
    if is_saved_dataset(path) and wanted.labels != "folders":
        return _load_hub(HubName(str(path)), wanted)
    shards = find_shards(path)
    if shards and not has_images(path):
        return load_shards(show_path(path), shards, wanted)
    return load_folder(path, wanted)


def _load_hub(name: HubName, wanted: Wanted) -> ImageSource:
    members = HubMembers(name, wanted.split)
    large = members.stamp is not None and is_large(len(members), wanted)
    kept = find_index(members.stamp) if large and members.stamp is not None else None
    return load_encoded(members, wanted, None if kept is None else kept.headers, {})


def _load_celeba(name: str, wanted: Wanted, download: bool) -> ImageSource:
    from undye.data.torchvision_sets import find_celeba

    root, names = find_celeba(wanted.split, download)
    wanted = replace(wanted, labels="none")
    return load_encoded(FolderMembers(name, root, NameList.of(names), None), wanted, None, {})


def _has_folders(data: str | os.PathLike[str] | np.ndarray) -> bool:
    """Whether `data` means a folder or an archive, or nothing at all (for which there is a better error)."""
    if isinstance(data, np.ndarray) or (isinstance(data, str) and (data in NAMED_DATASETS or data.startswith(HUB))):
        return False
    path = Path(data).expanduser()
    return not path.is_file() or is_archive(path)


def _check_path(text: str, path: Path) -> None:
    if not path.exists():
        close = difflib.get_close_matches(text.lower().replace("_", "-"), NAMED_DATASETS, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise UserError(
            f"no data set, folder or file named {show_path(text)}{hint} (data sets: {', '.join(NAMED_DATASETS)})"
        )
    if path.suffix.lower() not in (*_ARRAY_SUFFIXES, PACK_SUFFIX) and not is_archive(path):
        raise UserError(f"{show_path(path)} is neither a folder of images nor a .pack, .zip, .tar, .npz or .npy file")
