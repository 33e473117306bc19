"""`undye data pack`: decodes a data set once and for all, into one file (`pack.py`).

The file is written beside its place and moved there when it is whole and on the disk; a Ctrl-C leaves nothing.
"""

import bz2
import gzip
import json
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8

from undye.data.arrays import check_labels
from undye.data.colour import BadImageError, TooSmallError, to_channels
from undye.data.decode import read_header, read_pixels, reason
from undye.data.encoded_source import EncodedSource
from undye.data.hub_stream import HubStream
from undye.data.load import load_images
from undye.data.name_list import NameList
from undye.data.names import HUB_STREAM
from undye.data.pack import PACK_SUFFIX, VERSION, PackSource
from undye.data.report import MAX_BAD_FRACTION, BadFile, LoadReport, show_path
from undye.data.resize import check_large_enough
from undye.data.source import ImageSource
from undye.data.tars import TAR_SUFFIXES, compression
from undye.data.tensor_file import TensorWriter
from undye.data.workers import Progress, in_threads, quiet_pillow
from undye.errors import UserError
from undye.files import atomic_path

_AHEAD = 256  # decoded images that wait to be written
_CHUNK = 1024
_MAX_GROWTH = 100  # a TAR archive of images, which hardly compress, that unpacks to more is a bomb
_SMALL = 2**30  # unless it is small


@dataclass(frozen=True)
class Packed:
    """What was written: path, source, images in it, those left out, sha256 of its arrays."""

    path: Path
    describe: str
    report: LoadReport
    sha256: str


def pack(
    data: str | os.PathLike[str] | np.ndarray,
    out: str | os.PathLike[str],
    *,
    split: Literal["train", "test"] = "train",
    image_size: tuple[int, int] | int | None = None,
    channels: Literal[1, 3] | None = None,
    labels: Literal["auto", "folders", "none"] = "auto",
    upscale: bool = False,
    max_bad_fraction: float = MAX_BAD_FRACTION,
    progress: Progress | None = None,
) -> Packed:
    """Decodes a data set into one file, to be given as `--data FILE.pack`: what `undye data pack` does.

    Args:
        data: whatever `load_images` takes; also a compressed TAR archive, and `hf-stream:NAME`.
        out: the file, which must end in `.pack` and must not exist.
        split: see `load_images`, as for all up to `max_bad_fraction`.
        image_size: (height, width), or one number for a square.
        channels: 1, 3, or None: what the images need.
        labels: where classes come from.
        upscale: enlarge images that are smaller than `image_size`.
        max_bad_fraction: how many images may be unusable; they are left out.
        progress: called with (done, total); the total of a stream is not known, and 0.

    Raises:
        UserError: data that cannot be used, or a file in the way.
        TooManyBadImages: more bad images than allowed.
    """
    target = Path(out).expanduser()
    if target.suffix.lower() != PACK_SUFFIX:
        raise UserError(f"{show_path(target)}: the name of a packed data set ends in {PACK_SUFFIX}")
    if target.exists():
        raise UserError(f"{show_path(target)} exists already: choose another name, or remove it")
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    if isinstance(data, str) and data.startswith(HUB_STREAM):
        return _pack_stream(data, target, split, size, channels, labels != "none", upscale, max_bad_fraction, progress)

    def load(what: Any) -> ImageSource:
        return load_images(
            what,
            split=split,
            image_size=size,
            channels=channels,
            labels=labels,
            upscale=upscale,
            max_bad_fraction=max_bad_fraction,
            progress=progress,
            decode_late=True,
        )

    archive = _compressed_tar(data)
    if archive is None:
        return _pack_source(load(data), target, max_bad_fraction, progress)
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{target.name}.tmp", dir=target.parent) as folder:
        plain = Path(folder) / f"{archive.name.split('.')[0]}.tar"
        _decompress(archive, plain)
        source = load(plain)
        source.name = show_path(archive)
        return _pack_source(source, target, max_bad_fraction, progress)


@quiet_pillow()
def _pack_source(source: ImageSource, target: Path, max_bad_fraction: float, progress: Progress | None) -> Packed:
    count, total = len(source), source.report.total
    bad = list(source.report.bad)
    kept = np.ones(count, dtype=np.bool_)
    tell = None if progress is None else lambda done: progress(done, count)
    classes = json.dumps(source.class_names)
    with atomic_path(target, durable=True) as temporary, TensorWriter(temporary, 4096 + 2 * len(classes)) as writer:
        for index, image in enumerate(_rows(source, tell)):
            if isinstance(image, BadFile):
                kept[index] = False
                bad.append(image)
                LoadReport(total, tuple(bad)).check(max_bad_fraction)
            else:
                writer.append(image)
        rows = np.flatnonzero(kept)
        writer.finish("images", np.uint8, (len(rows), *source.image_size, source.channels))
        if (labels := source.labels(rows)) is not None:
            writer.add("labels", labels)
        names = NameList.of(name for i in range(0, len(rows), _CHUNK) for name in source.names(rows[i : i + _CHUNK]))
        _finish(writer, names, source.name, classes)
    return _packed(target, LoadReport(total, tuple(bad)), writer)


def _rows(source: ImageSource, tell: Callable[[int], None] | None) -> Iterator[UInt8[np.ndarray, "h w c"] | BadFile]:
    if isinstance(source, EncodedSource):
        yield from in_threads(source.decode, range(len(source)), tell, _AHEAD)
        return
    for start in range(0, len(source), _CHUNK):
        yield from source.images(np.arange(start, min(start + _CHUNK, len(source))))
        if tell is not None:
            tell(min(start + _CHUNK, len(source)))


@quiet_pillow()
def _pack_stream(
    data: str,
    target: Path,
    split: str,
    size: tuple[int, int] | None,
    channels: Literal[1, 3] | None,
    with_labels: bool,
    upscale: bool,
    max_bad_fraction: float,
    progress: Progress | None,
) -> Packed:
    """A stream is read once: its first image says the size if none is asked for; the channels are 3 unless asked."""
    stream = HubStream(data, split, with_labels)
    channels = channels or 3
    bad: list[BadFile] = []
    labels: list[int | None] = []
    names: list[str] = []
    classes = json.dumps(stream.class_names)
    rows = chain.from_iterable(map(stream.rows, range(stream.shards)))
    with atomic_path(target, durable=True) as temporary, TensorWriter(temporary, 2**20 + 2 * len(classes)) as writer:
        for number, row in enumerate(rows):
            try:
                if isinstance(row.image, BadImageError):
                    raise row.image
                header = read_header(row.image)
                size = size or header.size
                check_large_enough(header.size, size, upscale)
                writer.append(to_channels(read_pixels(row.image, size), channels))
            except (BadImageError, OSError) as error:
                bad.append(BadFile(Path(f"row {number}"), reason(error), isinstance(error, TooSmallError)))
                continue
            names.append(f"row {number}")
            labels.append(row.label)
            if progress is not None:
                progress(len(names), 0)
        if not names and not bad:
            raise UserError(f"{stream.name} has no rows")
        report = LoadReport(len(names) + len(bad), tuple(bad))
        report.check(max_bad_fraction)
        assert size is not None
        writer.finish("images", np.uint8, (len(names), *size, channels))
        if stream.labels:
            numbers = check_labels(show_path(data), np.array(labels), len(names))
            writer.add("labels", numbers)
            classes = classes if stream.class_names else json.dumps([str(k) for k in range(numbers.max() + 1)])
        _finish(writer, NameList.of(names), show_path(data), classes)
    return _packed(target, report, writer)


def _finish(writer: TensorWriter, names: NameList, name: str, classes: str) -> None:
    writer.add("names", names.text)
    writer.add("name_ends", names.ends)
    writer.close({"undye-pack": VERSION, "source": name, "class_names": classes, "sha256": writer.hash.hexdigest()})


def _packed(target: Path, report: LoadReport, writer: TensorWriter) -> Packed:
    return Packed(target, PackSource.open(target, None, None).describe(), report, writer.hash.hexdigest())


def _compressed_tar(data: Any) -> Path | None:
    if isinstance(data, np.ndarray):
        return None
    path = Path(data).expanduser()
    if not path.name.lower().endswith(TAR_SUFFIXES) or not path.is_file():
        return None
    kind = compression(path)
    if kind == "zstd":
        raise UserError(f"{show_path(path)} is compressed with zstd: decompress it first (zstd -d)")
    return None if kind is None else path


def _decompress(archive: Path, plain: Path) -> None:
    """Undoes the compression of a whole archive; its members are not looked at.

    Raises:
        UserError: damaged, or a decompression bomb.
    """
    opener: Any = {"gzip": gzip.open, "bzip2": bz2.open, "xz": lzma.open}[compression(archive) or ""]
    limit = max(_SMALL, _MAX_GROWTH * archive.stat().st_size)
    done = 0
    try:
        with opener(archive, "rb") as packed, plain.open("wb") as out:
            while block := packed.read(2**20):
                done += len(block)
                if done > limit:
                    raise UserError(
                        f"{show_path(archive)} unpacks to more than {_MAX_GROWTH} times its size: a decompression bomb?"
                    )
                out.write(block)
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise UserError(f"{show_path(archive)} is damaged: {' '.join(str(error).split())}") from None
