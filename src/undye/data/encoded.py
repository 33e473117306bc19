"""From encoded images to a source: which of them can be used, their size, channels and classes.

Up to `MAX_DECODED` images are decoded whole before anything else happens, and every bad one is named; the pixels stay
in memory if they fit in `MAX_DECODED_BYTES`. Of more images only the headers are read at first, and what they say is
kept for the next start (`index.py`). Images not kept in memory are decoded when asked for (`encoded_source.py`).

- Labels: the class of an image is the first folder on its way, the names sorted; or what the data themselves bring.
- Size: the common size of all images if none is asked for; otherwise resize + crop (`resize.py`).
- Channels: 3 if any image has colour (`colour.py`), else 1.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Int64, UInt8

from undye.data.colour import BadImageError, has_colour, to_channels
from undye.data.decode import Header, read_header, read_pixels, reason
from undye.data.encoded_source import EncodedSource
from undye.data.index import Headers, keep_index
from undye.data.members import Members, folder_classes
from undye.data.names import show_size
from undye.data.report import BadFile, LoadReport, show_path
from undye.data.source import ArraySource, ImageSource
from undye.data.workers import Progress, in_threads, quiet_pillow
from undye.errors import UserError

MAX_DECODED = 20_000
MAX_DECODED_BYTES = 4 * 2**30

Labels = Literal["auto", "folders", "none"]


@dataclass(frozen=True)
class Wanted:
    """What is asked of a data set; the meanings are those of `load_images`.

    Attributes:
        decode_late: never decode whole: the images will be cut out at changing places, or each is needed only once.
    """

    split: str
    image_size: tuple[int, int] | None
    channels: Literal[1, 3] | None
    labels: Labels
    upscale: bool
    max_bad_fraction: float
    progress: Progress | None
    decode_late: bool = False


def is_large(count: int, wanted: Wanted) -> bool:
    """Whether only headers are read at first."""
    return wanted.decode_late or count > MAX_DECODED


@quiet_pillow()
def load_encoded(members: Members, wanted: Wanted, headers: Headers | None, about: dict[str, str]) -> ImageSource:
    """The source.

    Args:
        members: the encoded images.
        wanted: what is asked of them.
        headers: from an index, if there is one.
        about: more to be kept in an index.

    Raises:
        UserError: sizes that differ where none is asked for, or images without a class where classes are.
        TooManyBadImages: more than allowed are damaged or too small.
    """
    total, large = len(members), is_large(len(members), wanted)
    labels, class_names = _classes(members, wanted.labels)
    progress = wanted.progress
    tell = None if progress is None else lambda done: progress(done, total)
    if headers is None:
        # Decoding whole, the headers take no time to speak of; reading headers only, they are what to wait for.
        headers = _read_headers(members, tell if large else None)
    bad = {i: BadFile(Path(members.names[i]), why) for i, why in headers.bad.items()}
    LoadReport(total, tuple(bad.values())).check(wanted.max_bad_fraction)
    size = wanted.image_size or _common_size(members, headers)
    if not wanted.upscale:
        small = (headers.sizes < size).any(axis=1)
        for i in np.flatnonzero(small).tolist():
            if i not in bad:
                have = f"{show_size((int(headers.sizes[i, 0]), int(headers.sizes[i, 1])))}"
                text = f"{have} is smaller than {show_size(size)} (height x width)"
                bad[i] = BadFile(Path(members.names[i]), text, too_small=True)
    _report(total, bad).check(wanted.max_bad_fraction)
    good = _without(np.arange(total), bad)
    stored = 1 if headers.grey[good].all() else 3

    if large:
        channels = wanted.channels or (3 if stored == 3 and _any_colour(members, headers, good, size) else 1)
        if members.stamp is not None and total > MAX_DECODED and not headers.kept:
            keep_index(members.stamp, members.tensors(), headers, about)
        pixels = None
    else:
        channels = wanted.channels or stored
        keep = len(good) * size[0] * size[1] * channels <= MAX_DECODED_BYTES
        pixels = np.empty((len(good) if keep else 0, *size, channels), dtype=np.uint8)
        coloured, late = _decode_all(members, good, pixels, size, tell)
        bad |= late
        if late and keep:
            kept = np.flatnonzero(~np.isin(good, list(late)))
            for to, row in enumerate(kept):  # in place: a copy would need the memory twice
                pixels[to] = pixels[row]
            pixels = pixels[: len(kept)]
        good = _without(good, late)
        channels = wanted.channels or (3 if coloured else 1)
        pixels = to_channels(pixels, channels) if keep else None
    report = _report(total, bad)
    report.check(wanted.max_bad_fraction)
    if labels is not None:
        labels = labels[good]
    if pixels is not None:
        return ArraySource(members.name, pixels, labels, class_names, report, [members.names[i] for i in good.tolist()])
    return EncodedSource(members, good, size, channels, labels, class_names, report, wanted.max_bad_fraction)


def _report(total: int, bad: dict[int, BadFile]) -> LoadReport:
    return LoadReport(total, tuple(bad[i] for i in sorted(bad)))


def _without(rows: Int64[np.ndarray, " n"], bad: dict[int, BadFile]) -> Int64[np.ndarray, " m"]:
    return rows[~np.isin(rows, list(bad))] if bad else rows


def _classes(members: Members, labels: Labels) -> tuple[Int64[np.ndarray, " n"] | None, tuple[str, ...] | None]:
    if labels == "folders":
        return folder_classes(members.name, members.names)
    if labels == "none" or members.own_labels is None:
        return None, None
    missing = np.flatnonzero(members.own_labels < 0)
    if len(missing):
        raise UserError(
            f"{len(missing):,} of {len(members):,} images in {members.name} have no label "
            f"({show_path(members.names[int(missing[0])])} is the first): leave --labels out, or give them one"
        )
    return members.own_labels, members.own_class_names


def _read_headers(members: Members, tell: Callable[[int], None] | None) -> Headers:
    def read(index: int) -> Header | str:
        try:
            return read_header(members.read(index))
        except (BadImageError, OSError) as error:
            return reason(error)

    headers = Headers(np.zeros((len(members), 2), dtype=np.int32), np.zeros(len(members), dtype=np.bool_), {})
    for index, header in enumerate(in_threads(read, range(len(members)), tell)):
        if isinstance(header, Header):
            headers.sizes[index], headers.grey[index] = header.size, header.grey
        else:
            headers.bad[index] = header
    return headers


def _common_size(members: Members, headers: Headers) -> tuple[int, int]:
    good = np.flatnonzero(headers.sizes[:, 0])
    first = headers.sizes[good[0]]
    others = good[(headers.sizes[good] != first).any(axis=1)]
    if len(others):
        other = headers.sizes[others[0]]
        raise UserError(
            f"the images in {members.name} differ in size ({show_path(members.names[int(good[0])])} is "
            f"{first[0]}x{first[1]}, {show_path(members.names[int(others[0])])} {other[0]}x{other[1]}, height x width)"
            ": pass --image-size H or HxW"
        )
    return int(first[0]), int(first[1])


def _decode_all(
    members: Members,
    rows: Int64[np.ndarray, " m"],
    out: UInt8[np.ndarray, "_n _h _w _c"],
    size: tuple[int, int],
    tell: Callable[[int], None] | None,
) -> tuple[bool, dict[int, BadFile]]:
    """Decodes into the rows of `out` (if it has any); returns whether any image has colour, and the bad ones."""

    def decode(row: int) -> bool | BadFile:
        index = int(rows[row])
        try:
            pixels = read_pixels(members.read(index), size)
        except (BadImageError, OSError) as error:
            return BadFile(Path(members.names[index]), reason(error))
        if len(out):
            out[row] = to_channels(pixels, out.shape[-1])
        return has_colour(pixels)

    results = list(in_threads(decode, range(len(rows)), tell))
    late = {int(rows[row]): r for row, r in enumerate(results) if isinstance(r, BadFile)}
    return any(r is True for r in results), late


def _any_colour(members: Members, headers: Headers, good: Int64[np.ndarray, " n"], size: tuple[int, int]) -> bool:
    """Decodes until the first image with colour, which is usually the first; all of them if there is none."""
    key = show_size(size)
    if key in headers.colour:
        return headers.colour[key]

    def look(index: int) -> bool:
        try:
            return has_colour(read_pixels(members.read(index), size))
        except (BadImageError, OSError):
            return False  # named when it is asked for

    candidates = good[~headers.grey[good]].tolist()
    step = 64
    starts = range(0, len(candidates), step)
    headers.colour[key] = any(any(in_threads(look, candidates[i : i + step])) for i in starts)
    headers.kept = False
    return headers.colour[key]
