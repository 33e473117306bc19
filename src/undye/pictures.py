"""Images to files: one PNG per image, a grid, a film, an array. Every file is whole or not there."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from undye.errors import UserError
from undye.files import atomic_path

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


def check_target(out: str | Path) -> None:
    """Catch an unusable output before the sampling rather than after it.

    Raises:
        UserError: for an unknown ending, or a parent that is not a folder.
    """
    if _kind(out) not in ("folder", ".png", ".npz"):
        raise UserError(f"cannot write {out}: give a .png (a grid), an .npz, or a folder/ (one PNG per image)")
    path = Path(out)
    _check_place(path)
    if _kind(out) == "folder" and path.is_file():
        raise UserError(f"cannot write a folder of images to {out}: a file has that name")
    if _kind(out) == "folder" and path.is_dir() and any(path.iterdir()):
        raise UserError(f"cannot write a folder of images to {out}: it holds files already; choose a new one")


def _kind(out: str | Path) -> str:
    """`folder`, or the ending of a file. A folder is there already, ends in a slash, or has no ending."""
    path = Path(out)
    return "folder" if path.is_dir() or str(out).endswith("/") or not path.suffix else path.suffix.lower()


def _check_place(path: Path) -> None:
    """Raise a UserError if one of the parents is no folder."""
    parent = next(p for p in path.parents if p.exists())
    if not parent.is_dir():
        raise UserError(f"cannot write {path}: {parent} is not a folder")


def save_images(images: UInt8[np.ndarray, "n h w c"], out: str | Path) -> None:
    """Write images as the ending of `out` says: .png a grid, .npz the array `images`, none a new folder of PNGs."""
    check_target(out)
    path = Path(out)
    match _kind(out):
        case ".png":
            save_png(enlarge(make_grid(images)), path)
        case ".npz":
            with atomic_path(path) as temporary, temporary.open("wb") as file:
                np.savez_compressed(file, images=images)
        case _:
            path.mkdir(parents=True, exist_ok=True)
            for i, image in enumerate(images):
                save_png(image, path / f"{i:06d}.png")


def save_png(image: UInt8[np.ndarray, "h w c"], out: Path) -> None:
    """Write one PNG."""
    with atomic_path(out) as temporary:
        to_pil(image).save(temporary, format="PNG")


def save_film(
    frames: Sequence[UInt8[np.ndarray, "n h w c"]], out: Path, seconds: float = 4.0, last_seconds: float = 2.0
) -> None:
    """A process as a film: .gif plays it as a grid; .png shows it as a strip, a row per image, the start on the left.

    Raises:
        UserError: for another ending.
    """
    check_film(out)
    if out.suffix.lower() == ".png":
        strip = np.stack(frames, axis=1)
        save_png(enlarge(make_grid(strip.reshape(-1, *strip.shape[2:]), columns=len(frames)), 256), out)
        return
    pages = [to_pil(enlarge(make_grid(frame), 256)) for frame in frames]
    # the last frame, where it ends, stays on longer
    durations = [round(1000 * seconds / len(pages))] * (len(pages) - 1) + [round(1000 * last_seconds)]
    with atomic_path(out) as temporary:
        pages[0].save(temporary, format="GIF", save_all=True, append_images=pages[1:], duration=durations, loop=0)


def check_film(out: Path) -> None:
    """Catch an unusable film name before the sampling.

    Raises:
        UserError: unless it ends in .gif or .png.
    """
    if out.suffix.lower() not in (".gif", ".png") or out.is_dir():
        raise UserError(f"cannot write the film {out}: its name must end in .gif or .png, and no folder may have it")
    _check_place(out)
