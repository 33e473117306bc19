"""`undye data pack SRC --out FILE.pack` and `undye data verify FILE.pack`."""

import sys
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from undye.cli.parse import parse
from undye.data.names import parse_image_size
from undye.errors import UserError

_USAGE = (
    "usage: undye data pack SRC --out FILE.pack ...\n"
    "       undye data verify FILE.pack\n\n"
    "pack decodes images into one file, which is then trained on with --data FILE.pack;\n"
    "verify reads all of such a file and checks it. `undye data pack --help` explains more.\n"
)


@dataclass(frozen=True, kw_only=True)
class PackArgs:
    """The flags of `undye data pack`."""

    source: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="SRC")]
    """A folder of images, a .zip or .tar archive of them (compressed too), shards ('a-{000..123}.tar', or a folder of
    .tar files), hf:NAME, hf-stream:NAME, a named data set, or an .npz / .npy file."""
    out: Annotated[str, tyro.conf.arg(metavar="FILE.pack")] = ""
    """The new file."""
    image_size: Annotated[str, tyro.conf.arg(metavar="H|HxW")] = ""
    """Resize (aspect ratio kept) and crop the images to this; without it they must all have one size."""
    channels: Literal[1, 3] | None = None
    """1 or 3; without it 3 if any image has colour (3 for a stream)."""
    labels: Literal["auto", "folders", "none"] = "auto"
    """Class labels: those that come with the data (auto), from sub-folder names (folders), or none."""
    split: Literal["train", "test"] = "train"
    """Which part, where the data have parts."""
    upscale: bool = False
    """Enlarge images that are smaller than asked instead of leaving them out."""


@dataclass(frozen=True, kw_only=True)
class VerifyArgs:
    """The flags of `undye data verify`."""

    file: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FILE.pack")]
    """A file that `undye data pack` wrote."""


def main(args: list[str]) -> int:
    """Run the command; returns the exit code."""
    if not args or args[0] in ("-h", "--help"):
        print(_USAGE, end="", file=sys.stdout if args else sys.stderr)
        return 0 if args else 2
    command = {"pack": _pack, "verify": _verify}.get(args[0])
    if command is None:
        raise UserError(f"unknown command 'data {args[0]}': there are data pack and data verify")
    return command(args[1:])


def _pack(args: list[str]) -> int:
    a = parse(PackArgs, args, "undye data pack", "Decode a data set into one file, so that training need not.")
    if not a.out:
        raise UserError("no --out: name the new file, FILE.pack")
    size = parse_image_size(a.image_size) if a.image_size else None

    from undye.cli.progress import Progress
    from undye.data.packing import pack

    with Progress("packing", "images") as progress:
        packed = pack(
            a.source,
            a.out,
            split=a.split,
            image_size=size,
            channels=a.channels,
            labels=a.labels,
            upscale=a.upscale,
            progress=progress,
        )
    for line in packed.report.lines():
        print(line, file=sys.stderr)
    print(f"{packed.describe} (sha256 {packed.sha256[:16]})")
    return 0


def _verify(args: list[str]) -> int:
    a = parse(VerifyArgs, args, "undye data verify", "Read all of a packed data set and check it.")

    from undye.cli.progress import Progress
    from undye.data.pack import verify

    with Progress("checking", "bytes") as progress:
        digest = verify(a.file, progress)
    print(f"{a.file} is whole (sha256 {digest[:16]})")
    return 0
