"""What the editing commands share: their flags, reading the images that they are given, writing results beside them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from undye.cli.options import Device, Threads, Weights
from undye.cli.settings import Set
from undye.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from undye.denoiser import Denoiser


@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """The flags of every edit."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """A run folder, a checkpoint folder, or another project's model."""
    out: Annotated[str, tyro.conf.arg(metavar="OUT")] = ""
    """grid.png (what went in beside what came out), images.npz or a folder (what came out alone)."""
    seed: int = 0
    """Names all that is random; a result does not depend on the others made with it."""
    label: str = ""
    """A class by number or name; for models that were trained with labels."""
    guidance: float = 1.0
    """Classifier-free guidance: above 1 exaggerates the class."""
    batch_size: int | None = None
    """Images at a time; without it chosen by their size."""
    weights: Weights = "ema"
    set: Set = ()
    device: Device = ""
    threads: Threads = 0


@dataclass(frozen=True, kw_only=True)
class ImageOptions(ModelOptions):
    """The flags of an edit of images."""

    images: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="IMAGE")] = ()
    """Image files, or .npz / .npy arrays of images."""
    data: Annotated[str, tyro.conf.arg(metavar="NAME|PATH")] = ""
    """Take images of a data set instead: those that --index says."""
    index: tuple[int, ...] = (0,)
    """Numbers of the images to take of --data, from 0."""
    split: Literal["train", "test"] = "test"
    """The part of a named data set to take them of."""
    fit: bool = False
    """Resize, crop and convert the images to what the model is for."""


def open_model(a: ModelOptions) -> "Denoiser":
    """The model, after all that can be known to be wrong before it is read."""
    if not a.out:
        raise UserError("nothing to write: give --out grid.png, images.npz or a folder")
    if not Path(a.model).exists():
        raise UserError(f"no model at {a.model}: give a run folder or a checkpoint folder")
    from undye.checkpoint.imported import Settings
    from undye.checkpoint.load import load
    from undye.device import pick_device, set_threads
    from undye.pictures import check_target

    check_target(a.out)
    set_threads(a.threads or None)
    return load(a.model, pick_device(a.device or None), Settings.parse(a.set).values, weights=a.weights)


def common(a: ModelOptions, denoiser: "Denoiser") -> dict[str, Any]:
    """The arguments that every edit takes."""
    from undye.cli.labels import class_number

    label = class_number(a.label, denoiser.config.class_names, denoiser.config.num_classes)
    return {"seed": a.seed, "label": label, "guidance": a.guidance, "batch_size": a.batch_size}


def model_shape(denoiser: "Denoiser") -> tuple[int, int, int]:
    """(height, width, channels) of the model's images."""
    return *denoiser.config.image_size, denoiser.config.channels


def read_images(a: ImageOptions, shape: tuple[int, int, int]) -> "np.ndarray":
    """The images that a command was given, uint8 (N, H, W, C), brought to `shape` if they are to be fitted.

    Raises:
        UserError: for none, unreadable ones, and ones of another size, or with colour where there is to be none.
    """
    import numpy as np

    if bool(a.images) == bool(a.data):
        raise UserError("give images to edit: files, or --data NAME --index I (one or the other)")
    if a.data and not a.index:
        raise UserError("give --index the numbers of the images to take")
    found = [_take(a, shape)] if a.data else [_read(Path(name), a.fit, shape) for name in a.images]
    return np.concatenate(found)


def _take(a: ImageOptions, shape: tuple[int, int, int]) -> "np.ndarray":
    """Images of a data set."""
    import numpy as np

    from undye.data import load_images

    fit: dict[str, Any] = {"image_size": shape[:2], "channels": shape[2], "upscale": True} if a.fit else {}
    source = load_images(a.data, split=a.split, labels="none", **fit)
    if wrong := [i for i in a.index if not 0 <= i < len(source)]:
        raise UserError(f"{a.data} has images 0..{len(source) - 1}: there is no image {wrong[0]}")
    return _checked(a.data, source.images(np.array(a.index, dtype=np.int64)), shape)


def _read(path: Path, fit: bool, shape: tuple[int, int, int]) -> "np.ndarray":
    """The image, or images, of a file."""
    import numpy as np

    from undye.data import load_images
    from undye.data.colour import BadImageError, has_colour, to_channels
    from undye.data.decode import read_header, read_pixels

    if not path.is_file():
        raise UserError(f"no image at {path}")
    if path.suffix.lower() in (".npz", ".npy"):
        wanted: dict[str, Any] = {"image_size": shape[:2], "channels": shape[2], "upscale": True} if fit else {}
        source = load_images(path, labels="none", **wanted)
        return _checked(str(path), source.images(np.arange(len(source))), shape)
    try:
        pixels = read_pixels(path, shape[:2] if fit else read_header(path).size)
    except BadImageError as error:
        raise UserError(f"cannot read the image {path}: {error}") from None
    return _checked(str(path), to_channels(pixels, shape[2] if fit else 3 if has_colour(pixels) else 1)[None], shape)


def _checked(name: str, images: "np.ndarray", shape: tuple[int, int, int]) -> "np.ndarray":
    """Images of exactly this shape; a grey picture will do as one in colour."""
    from undye.data.colour import to_channels
    from undye.edit.inputs import show

    if images.shape[3] == 1:
        images = to_channels(images, shape[2])
    if images.shape[1:] != shape:
        have, want = (show(tuple(s)) for s in (images.shape[1:], shape))
        raise UserError(f"{name} is {have}, this needs {want}: --fit resizes, crops and converts it")
    return images


def read_mask(path: Path) -> "np.ndarray":
    """What is to be filled, (H, W) or (N, H, W): white in an image file, or true in an .npy file.

    Raises:
        UserError: if it cannot be read.
    """
    import numpy as np

    from undye.data.arrays import load_array_file
    from undye.data.colour import BadImageError, to_channels
    from undye.data.decode import read_header, read_pixels

    if not path.is_file():
        raise UserError(f"no mask at {path}: give an image (white is what is to be filled) or an .npy file")
    if path.suffix.lower() in (".npy", ".npz"):
        mask = np.array(load_array_file(path)[0])
        return mask[..., 0] if mask.ndim == 4 and mask.shape[3] == 1 else mask
    try:
        return to_channels(read_pixels(path, read_header(path).size), 1)[..., 0]
    except BadImageError as error:
        raise UserError(f"cannot read the mask {path}: {error}") from None


def write_results(out: str, results: "np.ndarray", *before: "np.ndarray", after: "np.ndarray | None" = None) -> None:
    """Results as the ending of `out` says; in a grid each image has a row: what went in, then what came out of it.

    Args:
        out: the target.
        results: (N, K, H, W, C), K results for each image.
        before: (N, H, W, C) each, shown in front of the results; grey ones may stand beside colour.
        after: the same, shown behind.
    """
    import numpy as np

    from undye.data.colour import to_channels
    from undye.pictures import enlarge, make_grid, save_png
    from undye.writers import save_images

    if Path(out).suffix.lower() != ".png" or Path(out).is_dir():
        save_images(results.reshape(-1, *results.shape[2:]), out)
        return
    channels = results.shape[4]
    sides = [[to_channels(b, channels)[:, None] for b in group if b is not None] for group in (before, (after,))]
    sheet = np.concatenate([*sides[0], results, *sides[1]], axis=1)
    save_png(enlarge(make_grid(sheet.reshape(-1, *sheet.shape[2:]), columns=sheet.shape[1])), Path(out))
