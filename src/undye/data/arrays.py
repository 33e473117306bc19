"""Images in an array: `.npy`, `.npz`, numpy; uint8, (N, H, W, C) or (N, H, W), C 1 or 3. Never a pickle.

An `.npz` holds its images under `images`, else in its first array, and may hold integer `labels` of length N, from 0.
"""

import zipfile
import zlib
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image

from undye.data.colour import TooSmallError, has_colour, to_channels
from undye.data.report import show_path
from undye.data.resize import check_large_enough, fit
from undye.data.source import ArraySource
from undye.errors import UserError

_CHUNK = 4096  # images looked at together: bounds the memory that a mapped file needs

MAX_CLASSES = 100_000
"""Labels beyond are a mistake, not classes: each class is a row of a table."""


def load_array_file(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """The images of a `.npy` (mapped, not read) or `.npz`, and its labels, neither checked yet.

    Raises:
        UserError: not such a file, damaged, or it holds Python objects.
    """
    try:
        # Python objects in an array are a pickle, which can run anything: refused.
        file = np.load(path, mmap_mode="r" if path.suffix.lower() == ".npy" else None, allow_pickle=False)
        if isinstance(file, np.ndarray):
            return file, None
        with file:
            names = [name for name in file.files if name != "labels"]
            if not names:
                raise UserError(f"{show_path(path)} holds no array of images")
            name = "images" if "images" in names else names[0]
            return file[name], file["labels"] if "labels" in file.files else None
    except UserError:
        raise
    except (OSError, ValueError, EOFError, KeyError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        what = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"cannot read {show_path(path)} as a numpy array file: {what}") from error


def check_images(name: str, array: np.ndarray) -> UInt8[np.ndarray, "n h w c"]:
    """The array as (N, H, W, C).

    Raises:
        UserError: another type or shape, or nothing in it; says what to do.
    """
    shape = "x".join(map(str, array.shape))
    if array.dtype != np.uint8:
        raise UserError(
            f"{name} holds {array.dtype}, not uint8 pixels 0..255: convert first, e.g. with undye.data.to_uint8 from "
            "[-1, 1] or (255 * a).round().astype('uint8') from [0, 1]"
        )
    if array.ndim == 4 and array.shape[1] in (1, 3) and array.shape[3] not in (1, 3):
        raise UserError(f"{name} is {shape}, channels first: store it as (N, H, W, C), a.transpose(0, 2, 3, 1)")
    if array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[3] not in (1, 3)):
        raise UserError(f"{name} is {shape}: images are an array (N, H, W, C) or (N, H, W) with C 1 or 3")
    if array.ndim == 3 and array.shape[2] in (1, 3):
        raise UserError(
            f"{name} is {shape}: is it one image (then store it as 1x{shape}) or many narrow grey ones (x1)?"
        )
    if array.size == 0:
        raise UserError(f"{name} is {shape}: it holds no images")
    return array if array.ndim == 4 else array[..., None]


def check_labels(name: str, labels: np.ndarray, count: int) -> Int64[np.ndarray, " n"]:
    """The labels as int64.

    Raises:
        UserError: not `count` integers from 0 on.
    """
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer) or labels.min() < 0:
        raise UserError(
            f"the labels of {name} are {labels.dtype} of shape {labels.shape}: {count} integers from 0 on are needed"
        )
    if labels.max() >= MAX_CLASSES:
        raise UserError(f"the labels of {name} go up to {labels.max()}: number the classes from 0 without gaps")
    return labels.astype(np.int64)


def array_source(
    name: str,
    images: UInt8[np.ndarray, "n h w c"],
    labels: Int64[np.ndarray, " n"] | None,
    class_names: tuple[str, ...] | None,
    *,
    image_size: tuple[int, int] | None,
    channels: int | None,
    upscale: bool,
) -> ArraySource:
    """The images at the asked size and number of channels.

    Raises:
        UserError: they are smaller than asked for.
    """
    if image_size is not None and image_size != images.shape[1:3]:
        try:
            check_large_enough((images.shape[1], images.shape[2]), image_size, upscale)
        except TooSmallError as error:
            raise UserError(
                f"the images of {name} are too small: {error}; pass --upscale, or a smaller size"
            ) from error
        images = _resize(images, image_size)
    if channels is None:
        chunks = (images[i : i + _CHUNK] for i in range(0, len(images), _CHUNK))
        channels = 3 if any(map(has_colour, chunks)) else 1
    if channels != images.shape[3]:
        images = np.concatenate(
            [to_channels(np.asarray(images[i : i + _CHUNK]), channels) for i in range(0, len(images), _CHUNK)]
        )
    return ArraySource(name, images, labels, class_names)


def _resize(images: UInt8[np.ndarray, "n h w c"], size: tuple[int, int]) -> UInt8[np.ndarray, "n h2 w2 c"]:
    out = np.empty((len(images), *size, images.shape[3]), dtype=np.uint8)
    for row, image in enumerate(images):
        fitted = fit(Image.fromarray(image[..., 0] if image.shape[2] == 1 else np.asarray(image)), size)
        out[row] = np.asarray(fitted).reshape(*size, -1)
    return out
