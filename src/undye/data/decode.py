"""One image file to pixels: opened, turned upright, flattened to 8 bits, resized and cropped.

Of an animation or a many-page file the first frame counts. The orientation that a camera noted (EXIF) is applied. What
a file is, is read from its content, not from its name. More than `MAX_PIXELS` is a decompression bomb: a bad file.
"""

import io
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from undye.data.colour import BadImageError, flatten
from undye.data.resize import CENTRE, fit

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff")
MAX_PIXELS = 89_478_485  # Pillow's own default: a quarter of a GiB at three bytes per pixel
_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")  # a phone's MPO comes under JPEG
_ORIENTATION = 0x0112
_GREY_MODES = ("1", "L", "F")


@dataclass(frozen=True)
class Header:
    """What a file says of itself before its pixels are decoded.

    Attributes:
        size: (height, width), upright.
        grey: its mode holds no colour. False leaves it open: the pixels may be grey all the same.
    """

    size: tuple[int, int]
    grey: bool


def read_header(file: Path | bytes) -> Header:
    """Reads the header only, of a file or of what one holds.

    Raises:
        BadImageError: not an image, or a decompression bomb.
    """
    try:
        with _open(file) as image:
            height, width = image.height, image.width
            # A TIFF's size is upright already. Of a PNG only what stands before its pixels is read here.
            early = image.format != "TIFF" and "exif" in image.info
            if early and _orientation(image) in (5, 6, 7, 8):
                height, width = width, height
            grey = image.mode in _GREY_MODES or image.mode.startswith("I")
            return Header((height, width), grey)
    except Exception as error:
        raise BadImageError(reason(error)) from error


def read_pixels(
    file: Path | bytes, image_size: tuple[int, int], at: tuple[float, float] = CENTRE
) -> UInt8[np.ndarray, "h w c"]:
    """Decodes the whole file to `image_size`, (height, width); c is 1 or 3, as the file has it.

    `at`: where the crop lies, see `resize.crop_box`.

    Raises:
        BadImageError: not an image, damaged, cut short, a decompression bomb, or values without a stated meaning.
    """
    try:
        with _open(file) as image:
            _draft(image, image_size)
            flat = flatten(_upright(image))
    except Exception as error:
        raise BadImageError(reason(error)) from error
    pixels = np.asarray(fit(flat, image_size, at))
    return pixels[..., None] if pixels.ndim == 2 else pixels


def is_transparent(file: Path) -> bool:
    """Whether any pixel of an image is not opaque.

    Raises:
        BadImageError: as `read_pixels`.
    """
    try:
        with _open(file) as image:
            return image.has_transparency_data and bool((np.asarray(image.convert("RGBA"))[..., 3] < 255).any())
    except Exception as error:
        raise BadImageError(reason(error)) from error


def reason(error: Exception) -> str:
    """One line for the report. Pillow's readers let out all kinds of errors on damaged files, hence the broad catch."""
    match error:
        case BadImageError():
            return str(error)
        case Image.UnidentifiedImageError():
            return "not an image that can be read"
        case Image.DecompressionBombError():
            return f"decompression bomb: {error}"
        case OSError(strerror=str() as why):
            return why
    text = " ".join(str(error).split())
    return f"damaged: {text or type(error).__name__}"


def _open(file: Path | bytes) -> Image.Image:
    if (len(file) if isinstance(file, bytes) else file.stat().st_size) == 0:
        raise BadImageError("the file is empty")
    image = Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=_FORMATS)
    # Pillow warns here and gives up only at twice its limit; a warning is not enough for a file from who knows where.
    if (pixels := image.width * image.height) > MAX_PIXELS:
        image.close()
        raise BadImageError(f"{pixels:,} pixels, more than the limit of {MAX_PIXELS:,}: a decompression bomb?")
    return image


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # whatever the camera wrote there: notes that cannot be read say nothing about the pixels
        return 1


def _upright(image: Image.Image) -> Image.Image:
    image.load()  # of a PNG, the notes may stand after the pixels
    return image if _orientation(image) == 1 else ImageOps.exif_transpose(image)


def _draft(image: Image.Image, image_size: tuple[int, int]) -> None:
    """Lets a JPEG that is far too large be decoded at a half, quarter or eighth: several times faster.

    At least twice the needed size is kept, so that the antialiased resize still has the last word (as the
    `reducing_gap` of Pillow's own thumbnails). Transposed or not, the shorter side is what the scale is taken from.
    """
    if image.format in ("JPEG", "MPO"):
        needed = max(image_size) / min(image.size)
        image.draft(None, (math.ceil(2 * needed * image.width), math.ceil(2 * needed * image.height)))
