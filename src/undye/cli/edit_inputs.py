"""The images that an editing command is given: read as the flags say, named in the picture, read again from there."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from undye.cli.edit_options import ImageOptions
from undye.data import load_images
from undye.data.arrays import load_array_file
from undye.data.colour import BadImageError, has_colour, to_channels
from undye.data.decode import is_transparent, read_header, read_pixels
from undye.edit.inputs import as_fill, show
from undye.errors import UserError

Shape = tuple[int, int, int]
"""(height, width, channels) of an image."""


@dataclass(frozen=True, kw_only=True)
class ImageName:
    """Where an image came from.

    Attributes:
        file: an image file, or an array file, as the user named it; "": of a data set.
        data: the data set; "": of a file.
        split: its part.
        index: number of the image in the file or data set.
        sha256: of the pixels that were used, see `pixel_hash`.
    """

    file: str = ""
    data: str = ""
    split: Literal["train", "test"] = "test"
    index: int = 0
    sha256: str = ""

    def __str__(self) -> str:
        """For error messages."""
        return f"image {self.index} of {self.data}" if self.data else f"{self.file} (image {self.index})"


@dataclass(frozen=True, kw_only=True)
class MaskName:
    """Where a mask came from.

    Attributes:
        file: as the user named it.
        index: number of the mask in a file with one for each image; None: all that the file holds.
        sha256: of the mask as bool, True where it is filled.
    """

    file: str
    index: int | None = None
    sha256: str = ""


@dataclass(frozen=True, kw_only=True)
class InputNames:
    """What went into an edit, as its pictures say it.

    Attributes:
        images: the images, in their order.
        mask: the mask, if the edit has one.
        fit: whether the images were resized, cropped and converted.
        shape: (height, width, channels) of the pixels that were used; None where there are none.
    """

    images: tuple[ImageName, ...] = ()
    mask: MaskName | None = None
    fit: bool = False
    shape: Shape | None = None


@dataclass(frozen=True)
class Inputs:
    """What goes into an edit.

    Attributes:
        names: where it came from.
        images: uint8 (N, H, W, C); None for an edit of no images.
        fill: bool (H, W) or (N, H, W), True where to fill; None without a mask.
    """

    names: InputNames = InputNames()
    images: np.ndarray | None = None
    fill: np.ndarray | None = None

    def part_names(self, rows: Sequence[int]) -> InputNames:
        """The names of some of the images, and of their masks."""
        mask = self.names.mask
        if mask is not None and self.fill is not None and self.fill.ndim == 3:
            (row,) = rows
            mask = replace(mask, index=row, sha256=pixel_hash(self.fill[row]))
        return replace(self.names, images=tuple(self.names.images[i] for i in rows), mask=mask)


def pixel_hash(pixels: np.ndarray) -> str:
    """The SHA-256 of an image or a mask: of its type, its shape and its values."""
    digest = hashlib.sha256(f"{pixels.dtype} {pixels.shape}\n".encode())
    digest.update(np.ascontiguousarray(pixels).tobytes())
    return digest.hexdigest()


def read_inputs(a: ImageOptions, shape: Shape, mask: str = "") -> Inputs:
    """What a command was given: images brought to `shape` if they are to be fitted, and a mask.

    Raises:
        UserError: for none, unreadable ones, and ones of another size, or with colour where there is to be none.
    """
    fill = read_fill(Path(mask)) if mask else None
    if bool(a.images) == bool(a.data):
        raise UserError("give images to edit: files, or --data NAME --index I (one or the other)")
    if a.data and not a.index:
        raise UserError("give --index the numbers of the images to take")
    names, pixels = list[ImageName](), list[np.ndarray]()
    for source in (a.data,) if a.data else a.images:
        of = ImageName(data=source, split=a.split) if a.data else ImageName(file=source)
        count, take = _open(of, a.fit, shape)
        index = a.index if a.data else range(count)
        if wrong := [i for i in index if not 0 <= i < count]:
            raise UserError(f"{a.data} has images 0..{count - 1}: there is no image {wrong[0]}")
        found = take(index)
        names += [replace(of, index=i, sha256=pixel_hash(image)) for i, image in zip(index, found, strict=True)]
        pixels.append(found)
    mask_name = None if fill is None else MaskName(file=mask, sha256=pixel_hash(fill))
    return Inputs(InputNames(images=tuple(names), mask=mask_name, fit=a.fit, shape=shape), np.concatenate(pixels), fill)


def read_again(names: InputNames, shape: Shape | None, like: str) -> Inputs:
    """What a picture names, if it is what it was.

    Args:
        names: as the picture has them.
        shape: of the images that the edit starts from with the model at hand; None: it takes none.
        like: the picture, for error messages.

    Raises:
        UserError: if a file is gone, or its pixels are others now.
    """
    if shape is None:
        return Inputs()
    if shape != names.shape:
        was = "none" if names.shape is None else show(names.shape)
        raise UserError(f"the images in {like} are {was}, this model needs {show(shape)}: give a model for such images")
    fill, takers, pixels = None, {}, list[np.ndarray]()
    try:
        if names.mask is not None:
            fill = read_fill(Path(names.mask.file))
            if (index := names.mask.index) is not None:
                if fill.ndim != 3 or not 0 <= index < len(fill):
                    raise UserError(f"there is no mask {index} in {names.mask.file}")
                fill = fill[index]
        for name in names.images:
            source = (name.file, name.data, name.split)
            if source not in takers:
                takers[source] = _open(name, names.fit, shape)
            count, take = takers[source]
            if not 0 <= name.index < count:
                raise UserError(f"there is no {name}")
            pixels.append(take([name.index]))
    except UserError as error:
        raise UserError(f"what {like} was made of is not there any more: {error}") from None
    if names.mask is not None and fill is not None and pixel_hash(fill) != names.mask.sha256:
        raise UserError(f"the mask {names.mask.file} has changed since {like} was made")
    for name, image in zip(names.images, pixels, strict=True):
        if pixel_hash(image[0]) != name.sha256:
            raise UserError(f"{name} has other pixels than when {like} was made")
    return Inputs(names, np.concatenate(pixels), fill)


def read_fill(path: Path) -> np.ndarray:
    """What is to be filled, bool (H, W) or (N, H, W): white in an image file, or true in an .npy file.

    Raises:
        UserError: if it cannot be read.
    """
    if not path.is_file():
        raise UserError(f"no mask at {path}: give an image (white is what is to be filled) or an .npy file")
    if path.suffix.lower() in (".npy", ".npz"):
        mask = np.array(load_array_file(path)[0])
        return as_fill(mask[..., 0] if mask.ndim == 4 and mask.shape[3] == 1 else mask)
    try:
        pixels = read_pixels(path, read_header(path).size)
        if is_transparent(path):
            raise UserError(
                f"the mask {path} is transparent in parts: give an opaque one, white where it is to be filled"
            )
        return as_fill(to_channels(pixels, 1)[..., 0])
    except BadImageError as error:
        raise UserError(f"cannot read the mask {path}: {error}") from None


Take = Callable[[Sequence[int]], np.ndarray]
"""Numbers to their images."""


def _open(name: ImageName, fit: bool, shape: Shape) -> tuple[int, Take]:
    """How many images there are where this one came from, and what gets them, uint8 (N, H, W, C)."""
    wanted: dict[str, Any] = {"image_size": shape[:2], "channels": shape[2], "upscale": True} if fit else {}
    path, where = Path(name.file), name.data or name.file
    if not name.data and not path.is_file():
        raise UserError(f"no image at {path}")
    if name.data or path.suffix.lower() in (".npz", ".npy"):
        # a file is a file, also where a data set of that name is known
        source = load_images(name.data or path, split=name.split, labels="none", **wanted)

        def take(numbers: Sequence[int]) -> np.ndarray:
            return _checked(where, source.images(np.array(numbers, dtype=np.int64)), shape)

        return len(source), take
    try:
        pixels = read_pixels(path, shape[:2] if fit else read_header(path).size)
    except BadImageError as error:
        raise UserError(f"cannot read the image {path}: {error}") from None
    channels = cast(Literal[1, 3], shape[2]) if fit else 3 if has_colour(pixels) else 1
    image = _checked(where, to_channels(pixels, channels)[None], shape)
    return 1, lambda numbers: image[np.array(numbers, dtype=np.int64)]


def _checked(name: str, images: np.ndarray, shape: Shape) -> np.ndarray:
    """Images of exactly this shape; a grey picture will do as one in colour."""
    if images.shape[3] == 1:
        images = to_channels(images, cast(Literal[1, 3], shape[2]))
    if images.shape[1:] != shape:
        have, want = (show(s) for s in (images.shape[1:], shape))
        raise UserError(f"{name} is {have}, this needs {want}: --fit resizes, crops and converts it")
    return images
