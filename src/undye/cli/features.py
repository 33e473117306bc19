"""`undye features --data ... --out features.safetensors`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from undye.cli.options import Device, Threads
from undye.cli.parse import parse
from undye.data.names import NAMED_DATASETS, parse_image_size
from undye.errors import UserError


@dataclass(frozen=True, kw_only=True)
class FeaturesArgs:
    """The flags of `undye features`."""

    data: Annotated[str, tyro.conf.arg(metavar="NAME|PATH")] = ""
    """Labelled images: a named data set, a folder with a sub-folder per class (--labels folders), an .npz file, ..."""
    out: Annotated[str, tyro.conf.arg(metavar="FILE.safetensors")] = ""
    """The new file, to be given to `undye eval --features`."""
    labels: Literal["auto", "folders"] = "auto"
    """The classes: those that the data bring, or from sub-folder names."""
    image_size: Annotated[str, tyro.conf.arg(metavar="H|HxW")] = ""
    """Resize and crop the images to this, the size that will be measured; without it they stay as they are."""
    channels: Literal[1, 3] | None = None
    """1 or 3; without it 3 if any image has colour."""
    upscale: bool = False
    """Enlarge images that are smaller than asked instead of leaving them out."""
    epochs: int | None = None
    """Passes over the images; without it as many as make 360,000 images, from 1 to 100."""
    seed: int = 0
    """Names the weights at the start, the images' order, and the part held out where there is no test split."""
    device: Device = ""
    threads: Threads = 0


def main(args: list[str]) -> int:
    """Run the command; returns the exit code."""
    about = "Train a small classifier of labelled images, whose features FID and its kin are measured in."
    a = parse(FeaturesArgs, args, "undye features", about)
    if not a.data:
        raise UserError(f"no data: give --data a folder, an .npz file, or one of {', '.join(NAMED_DATASETS)}")
    if not a.out:
        raise UserError("no --out: name the new file, features.safetensors")
    size = parse_image_size(a.image_size) if a.image_size else None

    from undye.cli.progress import Progress
    from undye.device import set_threads
    from undye.metrics.train_classifier import train_features

    set_threads(a.threads or None)
    with Progress("features", "images") as progress:
        made = train_features(
            a.data, Path(a.out), labels=a.labels, image_size=size, channels=a.channels, upscale=a.upscale,
            epochs=a.epochs, seed=a.seed, device=a.device or None, progress=progress,
        )  # fmt: skip
    trained = made.trained
    print(f"test accuracy {trained['test_accuracy']:.2%} on {trained['tested_on']}, after {trained['epochs']} epochs")
    print(f"{a.out} (sha256 {made.hash[:16]})")
    return 0
