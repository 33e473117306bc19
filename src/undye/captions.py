"""Images side by side with words below them."""

from collections.abc import Sequence
from math import ceil, sqrt

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from undye.pictures import GAP, enlarge

SMALLEST = 96
"""Width in pixels below which no words would fit: smaller images are enlarged to it."""
_SIZE = 13


def captioned_grid(
    images: UInt8[np.ndarray, "n h w c"], captions: Sequence[str], columns: int | None = None
) -> UInt8[np.ndarray, "H W c"]:
    """The images in rows as near to a square as their number allows, each with its caption, cut off where too long."""
    channels = images.shape[3]
    columns = columns or ceil(sqrt(len(images)))
    large = [enlarge(image, SMALLEST) for image in images]
    height, width = large[0].shape[:2]
    rows, line = ceil(len(images) / columns), _SIZE + 5
    mode, white, black = ("L", 255, 0) if channels == 1 else ("RGB", (255, 255, 255), (0, 0, 0))
    sheet = Image.new(mode, (columns * (width + GAP) + GAP, rows * (height + line + GAP) + GAP), white)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(_SIZE)
    for i, (image, caption) in enumerate(zip(large, captions, strict=True)):
        left, top = GAP + (i % columns) * (width + GAP), GAP + (i // columns) * (height + line + GAP)
        sheet.paste(Image.fromarray(image[:, :, 0] if channels == 1 else image), (left, top))
        draw.text((left + width / 2, top + height + line / 2), _cut(caption, font, width), black, font, anchor="mm")
    return np.asarray(sheet).reshape(sheet.height, sheet.width, channels)


def _cut(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """As much of a text as fits into a width, with dots where it was cut."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
