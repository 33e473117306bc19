"""`load_images`: whatever the user names, as an ImageSource."""

import difflib
import os
from pathlib import Path
from typing import Literal

import numpy as np

from undye.data import arrays, mini
from undye.data.folder import load_files, load_folder
from undye.data.idx import find_idx, read_idx
from undye.data.names import NAMED_DATASETS
from undye.data.report import MAX_BAD_FRACTION, show_path
from undye.data.source import ImageSource
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
) -> ImageSource:
    """Loads a data set.

    Args:
        data: a name of `NAMED_DATASETS`, a folder of images, an `.npz` or `.npy` file, or an array. A name of the table
            wins over a folder of the same name; `./name` means the folder.
        split: of the named data sets, and of a folder that has both a `train` and a `test` sub-folder; all else is one
            set, whatever the split.
        image_size: (height, width) to resize and crop to; None: as the data is.
        channels: None: 3 if any image has colour, else 1.
        labels: `folders`: the first sub-folder names the class. `auto`: those that the data set or the `.npz` brings,
            none for a folder. `none`: none.
        upscale: take images that are smaller than `image_size`, and enlarge them.
        download: a named data set that is not on this machine may be fetched.
        max_bad_fraction: how many of a folder's images may be unusable; they are skipped and named in the report.
        progress: called with (done, total) while a folder is read.

    Raises:
        UserError: no such data, or data that cannot be used as asked.
        TooManyBadImages: more bad images than allowed.
    """
    if channels not in (None, 1, 3):
        raise UserError(f"channels are 1 or 3, not {channels}")
    if image_size is not None and min(image_size) < 1:
        raise UserError(f"an image size is two positive numbers (height, width), not {image_size}")
    if labels == "folders" and not _is_folder(data):
        raise UserError("--labels folders is for a folder of images; named data sets and .npz files bring their labels")

    if isinstance(data, np.ndarray):
        name, images, classes, class_names = "array", data, None, None
    elif isinstance(data, str) and data in NAMED_DATASETS:
        name = f"{data} {split}"
        if data == "celeba":
            from undye.data.torchvision_sets import find_celeba

            root, paths = find_celeba(split, download)
            return load_files(name, root, paths, image_size, channels, False, upscale, max_bad_fraction, progress)
        images, classes, class_names = _load_named(data, split, download)
    else:
        path = Path(data).expanduser()
        if path.is_dir():
            return load_folder(
                path,
                split=split,
                image_size=image_size,
                channels=channels,
                by_folder=labels == "folders",
                upscale=upscale,
                max_bad_fraction=max_bad_fraction,
                progress=progress,
            )
        _check_array_path(os.fspath(data), path)
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


def _is_folder(data: str | os.PathLike[str] | np.ndarray) -> bool:
    """Whether `data` means a folder, or nothing at all (for which there is a better error)."""
    if isinstance(data, np.ndarray) or (isinstance(data, str) and data in NAMED_DATASETS):
        return False
    return not Path(data).expanduser().is_file()


def _check_array_path(text: str, path: Path) -> None:
    if not path.exists():
        close = difflib.get_close_matches(text.lower().replace("_", "-"), NAMED_DATASETS, n=1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise UserError(
            f"no data set, folder or file named {show_path(text)}{hint} (data sets: {', '.join(NAMED_DATASETS)})"
        )
    if path.suffix.lower() not in _ARRAY_SUFFIXES:
        raise UserError(f"{show_path(path)} is neither a folder of images nor an .npz or .npy file")
