"""A folder of images, in any layout.

Up to `MAX_DECODED` files are decoded whole before anything else happens, and every bad file is named; the pixels stay
in memory if they fit in `MAX_DECODED_BYTES`. Of a larger folder only the headers are read at first.
Images that are not kept are decoded when they are asked for (`folder_source.py`).

- Split: if the folder has both a `train` and a `test` sub-folder, the split picks one of them; else it is all one set.
- Labels: the class of an image is the first folder on its way, the names sorted.
- Size: the common size of all images if none is asked for; otherwise resize + crop (`resize.py`).
- Channels: 3 if any image has colour (`colour.py`), else 1.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from undye.data.colour import BadImageError, TooSmallError, has_colour, to_channels
from undye.data.decode import Header, read_header, read_pixels
from undye.data.folder_source import FolderSource
from undye.data.listing import list_images
from undye.data.names import show_size
from undye.data.report import BadFile, LoadReport, show_path
from undye.data.resize import check_large_enough
from undye.data.source import ArraySource, ImageSource
from undye.data.workers import Progress, in_threads, quiet_pillow
from undye.errors import UserError

MAX_DECODED = 20_000
MAX_DECODED_BYTES = 4 * 2**30


def load_folder(
    root: Path,
    *,
    split: str,
    image_size: tuple[int, int] | None,
    channels: int | None,
    by_folder: bool,
    upscale: bool,
    max_bad_fraction: float,
    progress: Progress | None,
) -> ImageSource:
    """All images below `root`; `by_folder`: with the first sub-folder as the class.

    Raises:
        UserError: no images, sizes that differ where none is asked for, or files outside any class.
        TooManyBadImages: more than `max_bad_fraction` are damaged or too small.
    """
    if (root / "train").is_dir() and (root / "test").is_dir():
        root = root / split
    paths = list_images(root)
    if by_folder:
        _check_all_in_classes(root, paths)
    return load_files(
        show_path(root), root, paths, image_size, channels, by_folder, upscale, max_bad_fraction, progress
    )


@quiet_pillow()
def load_files(
    name: str,
    root: Path,
    paths: list[Path],
    image_size: tuple[int, int] | None,
    channels: int | None,
    by_folder: bool,
    upscale: bool,
    max_bad_fraction: float,
    progress: Progress | None,
) -> ImageSource:
    """The files at `paths`, relative to `root`, in that order."""
    total = len(paths)
    whole = total <= MAX_DECODED
    # Decoding whole, the headers take no time to speak of; reading headers only, they are what there is to wait for.
    tell = None if progress is None else lambda done: progress(done, total)
    headers, bad = _read_headers(root, paths, None if whole else tell)
    LoadReport(total, tuple(bad.values())).check(max_bad_fraction)
    size = image_size or _common_size(root, paths, headers)
    for index, header in headers.items():
        try:
            check_large_enough(header.size, size, upscale)
        except TooSmallError as error:
            bad[index] = BadFile(paths[index], str(error), too_small=True)
    LoadReport(total, tuple(bad[i] for i in sorted(bad))).check(max_bad_fraction)
    good = [i for i in range(total) if i not in bad]
    stored_channels = 1 if all(headers[i].grey for i in good) else 3

    keep = whole and len(good) * size[0] * size[1] * (channels or stored_channels) <= MAX_DECODED_BYTES
    pixels = np.empty((len(good) if keep else 0, *size, channels or stored_channels), dtype=np.uint8)
    coloured = False
    if whole:
        coloured, late = _decode_all(root, [paths[i] for i in good], pixels, size, tell)
        bad |= {good[k]: reason for k, reason in late.items()}
        if late and keep:
            kept = [k for k in range(len(good)) if k not in late]
            for to, k in enumerate(kept):  # in place: a copy would need the memory twice
                pixels[to] = pixels[k]
            pixels = pixels[: len(kept)]
        good = [i for i in good if i not in bad]
    elif channels is None and stored_channels == 3:
        candidates = [paths[i] for i in good if not headers[i].grey]
        coloured = _any_colour(root, candidates, size)
    report = LoadReport(total, tuple(bad[i] for i in sorted(bad)))
    report.check(max_bad_fraction)

    channels = channels or (3 if coloured else 1)
    good_paths = [paths[i] for i in good]
    labels, class_names = _classes(good_paths) if by_folder else (None, None)
    if keep:
        return ArraySource(name, to_channels(pixels, channels), labels, class_names, report, good_paths)
    return FolderSource(name, root, good_paths, size, channels, labels, class_names, report, max_bad_fraction)


def _check_all_in_classes(root: Path, paths: list[Path]) -> None:
    for path in paths:
        if len(path.parts) == 1:
            raise UserError(
                f"{show_path(path)} lies in no class folder: with --labels folders every image belongs in a sub-folder "
                f"of {show_path(root)} that names its class"
            )


def _classes(paths: list[Path]) -> tuple[Int64[np.ndarray, " n"], tuple[str, ...]]:
    names = sorted({path.parts[0] for path in paths})
    number = {name: k for k, name in enumerate(names)}
    labels = np.array([number[path.parts[0]] for path in paths], dtype=np.int64)
    return labels, tuple(map(show_path, names))


def _read_headers(
    root: Path, paths: list[Path], tell: Callable[[int], None] | None
) -> tuple[dict[int, Header], dict[int, BadFile]]:
    def read(path: Path) -> Header | BadFile:
        try:
            return read_header(root / path)
        except BadImageError as error:
            return BadFile(path, str(error))

    headers: dict[int, Header] = {}
    bad: dict[int, BadFile] = {}
    for index, header in enumerate(in_threads(read, paths, tell)):
        if isinstance(header, Header):
            headers[index] = header
        else:
            bad[index] = header
    return headers, bad


def _common_size(root: Path, paths: list[Path], headers: dict[int, Header]) -> tuple[int, int]:
    first, *rest = headers
    for other in rest:
        if headers[other].size != headers[first].size:
            raise UserError(
                f"the images in {show_path(root)} differ in size ({show_path(paths[first])} is "
                f"{show_size(headers[first].size)}, {show_path(paths[other])} {show_size(headers[other].size)}, height "
                "x width): pass --image-size H or HxW"
            )
    return headers[first].size


def _decode_all(
    root: Path,
    paths: list[Path],
    out: UInt8[np.ndarray, "_n _h _w _c"],
    size: tuple[int, int],
    tell: Callable[[int], None] | None,
) -> tuple[bool, dict[int, BadFile]]:
    """Decodes into the rows of `out` (if it has any); returns whether any image has colour, and the bad files."""

    def decode(row: int) -> bool | BadFile:
        try:
            pixels = read_pixels(root / paths[row], size)
        except BadImageError as error:
            return BadFile(paths[row], str(error))
        if len(out):
            out[row] = to_channels(pixels, out.shape[-1])
        return has_colour(pixels)

    results = list(in_threads(decode, range(len(paths)), tell))
    return any(r is True for r in results), {row: r for row, r in enumerate(results) if isinstance(r, BadFile)}


def _any_colour(root: Path, paths: list[Path], size: tuple[int, int]) -> bool:
    """Decodes until the first image with colour, which is usually the first image."""

    def look(path: Path) -> bool:
        try:
            return has_colour(read_pixels(root / path, size))
        except BadImageError:
            return False  # named when it is asked for

    step = 64
    return any(any(in_threads(look, paths[i : i + step])) for i in range(0, len(paths), step))
