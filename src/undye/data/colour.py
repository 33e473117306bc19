"""Every kind of picture to 8-bit RGB, by these rules.

- Greyscale (1, L, LA), palettes, CMYK, YCbCr, LAB: Pillow's conversion. Colour profiles are ignored.
- Transparency (RGBA, LA, a transparent palette entry or key colour): composited over white.
- 16-bit greyscale (Pillow's I;16, and I, which must lie in 0..65535): v / 257, rounded to the nearest level, never
  clipped. A 16-bit colour PNG is reduced by Pillow itself, to the high byte.
- Floating point: 0..1 is scaled to 0..255, rounded; anything outside, or NaN, makes the file a bad one.
- An image *has colour* if R, G and B differ in some pixel of what the network gets to see: a grey picture stored as RGB
  counts as grey.
- Colour to one channel: luma (ITU-R 601-2), as Pillow's mode L. One channel to three: repeated.
"""

import numpy as np
from jaxtyping import UInt8
from PIL import Image


class BadImageError(Exception):
    """This image cannot be used; the message is the reason, without the file's name."""


class TooSmallError(BadImageError):
    """A readable image, smaller than the size that was asked for."""


def flatten(image: Image.Image) -> Image.Image:
    """Any mode to RGB, or to L where there is nothing but grey to begin with.

    Raises:
        BadImageError: the values have no stated meaning.
    """
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_deep_grey(image))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def _deep_grey(image: Image.Image) -> UInt8[np.ndarray, "h w"]:
    values = np.asarray(image)
    if image.mode == "F":
        if not (values.min() >= 0 and values.max() <= 1):  # so put, a NaN fails too
            raise BadImageError("floating-point pixels outside 0..1")
        return np.rint(values * 255.0).astype(np.uint8)
    if values.min() < 0 or values.max() > 65535:
        raise BadImageError("integer pixels outside 0..65535")
    grey = ((values.astype(np.int32) + 128) // 257).astype(np.uint8)  # 257 is odd: no ties
    key = image.info.get("transparency")
    if isinstance(key, int):
        grey[values == key] = 255
    return grey


def has_colour(pixels: UInt8[np.ndarray, "*n c"]) -> bool:
    """Whether R, G and B differ anywhere."""
    if pixels.shape[-1] == 1:
        return False
    red = pixels[..., 0]
    return bool((red != pixels[..., 1]).any() or (red != pixels[..., 2]).any())


def to_channels(pixels: UInt8[np.ndarray, "*n c"], channels: int) -> UInt8[np.ndarray, "*n d"]:
    """One or three channels to one or three."""
    if pixels.shape[-1] == channels:
        return pixels
    if channels == 3:
        return np.repeat(pixels, 3, axis=-1)
    # Pillow's own 16-bit weights of ITU-R 601-2: they sum to 2^16, so that grey stays what it is.
    luma = pixels.astype(np.uint32) @ np.array([19595, 38470, 7471], dtype=np.uint32) + 0x8000
    return (luma >> 16).astype(np.uint8)[..., None]
