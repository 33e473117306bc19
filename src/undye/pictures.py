"""Images as pictures: side by side, enlarged, as PNG files. Every file is whole or not there."""

import math
import os
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from undye.errors import UserError
from undye.files import atomic_path
from undye.provenance import Provenance, text_chunks

GAP = 2
"""Pixels between the images of a grid."""


def to_pil(image: UInt8[np.ndarray, "h w c"]) -> Image.Image:
    """One image, greyscale or RGB."""
    return Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)


def make_grid(images: UInt8[np.ndarray, "n h w c"], columns: int | None = None) -> UInt8[np.ndarray, "H W c"]:
    """The images side by side in rows, as near to a square as their number allows."""
    n, height, width, channels = images.shape
    columns = columns or math.ceil(math.sqrt(n))
    rows = math.ceil(n / columns)
    sheet = np.full((rows * (height + GAP) + GAP, columns * (width + GAP) + GAP, channels), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = GAP + (i // columns) * (height + GAP), GAP + (i % columns) * (width + GAP)
        sheet[top : top + height, left : left + width] = image
    return sheet


def enlarge(image: UInt8[np.ndarray, "h w c"], at_least: int = 512) -> UInt8[np.ndarray, "H W c"]:
    """Repeat pixels until the longer side has `at_least` of them: small images are hard to judge on a modern screen."""
    factor = max(1, math.ceil(at_least / max(image.shape[:2])))
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def check_target(out: str | Path, resume: bool = False) -> None:
    """Catch an unusable output before the sampling rather than after it.

    Args:
        out: where to.
        resume: a folder may hold samples already.

    Raises:
        UserError: for an unknown ending, or a parent that is not a folder or cannot be written to.
    """
    if kind_of(out) not in ("folder", ".png", ".npz"):
        raise UserError(f"cannot write {out}: give a .png (a grid), an .npz, or a folder/ (one PNG per image)")
    path = Path(out)
    check_place(path)
    if kind_of(out) == "folder" and path.is_file():
        raise UserError(f"cannot write a folder of images to {out}: a file has that name")
    # other processes may be trying whether they can write there
    if kind_of(out) == "folder" and not resume and path.is_dir() and any(".tmp" not in p.name for p in path.iterdir()):
        raise UserError(
            f"cannot write a folder of images to {out}: it holds files already; choose a new one, or --resume"
        )


def kind_of(out: str | Path) -> str:
    """`folder`, or the ending of a file. A folder is there already, ends in a slash, or has no ending."""
    path = Path(out)
    return "folder" if path.is_dir() or str(out).endswith("/") or not path.suffix else path.suffix.lower()


def check_place(path: Path) -> None:
    """Make sure that something can be written there; nothing is left of the try.

    Raises:
        UserError: if one of the parents is no folder, or the nearest that there is cannot be written to.
    """
    parent = path if path.is_dir() else next(p for p in path.absolute().parents if p.exists())
    if not parent.is_dir():
        raise UserError(f"cannot write {path}: {parent} is not a folder")
    trial = parent / f".undye-trial.tmp{os.getpid()}"
    try:
        os.close(os.open(trial, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        trial.unlink()
    except FileExistsError:
        pass  # another thread's, or what is left of one that was killed: it could be written
    except OSError as error:
        raise UserError(f"cannot write {path}: {parent} cannot be written to ({error.strerror})") from None


def save_png(image: UInt8[np.ndarray, "h w c"], out: Path, provenance: Provenance | None = None) -> None:
    """Write one PNG, which says how it was made if `provenance` does."""
    with atomic_path(out) as temporary:
        to_pil(image).save(temporary, format="PNG", pnginfo=text_chunks(provenance))
