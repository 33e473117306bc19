"""`undye.train_features`: train the small classifier of a labelled data set, for its features.

Nothing but the data decides how long: about `EXAMPLES` images are looked at, so that it takes minutes on a CPU. The
weights, the order of the images and the shifts are functions of the seed (`undye.keyed`): on a CPU the same command
makes the same file again, bit for bit, with the same number of threads and version of PyTorch.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from undye import keyed
from undye.data.load import load_images
from undye.data.part import Part
from undye.data.source import ImageSource
from undye.device import pick_device
from undye.errors import UserError
from undye.keyed import Stream
from undye.metrics.classifier import Classifier, ClassifierConfig
from undye.metrics.classifier_file import SUFFIX, ClassifierExtractor, load_classifier, network_input, save_classifier

EXAMPLES = 360_000
"""Images looked at in all, unless `epochs` are given; no more than `MOST_EPOCHS` times each, at least once."""
MOST_EPOCHS = 100
BATCH, SMALLEST_BATCH, FEWEST_BATCHES = 128, 16, 16
"""Images in a batch, fewer where an epoch would have less than 16 of them."""
CALIBRATION = 100
"""Batches that the normalisations' means and variances are taken over, once the weights are final."""
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY, WARM_UP = 0.1, 0.9, 5e-4, 0.2
SHIFT = 14
"""Images are moved by up to a 14th of their sides, and the edge repeated. No flips: a 2 is no 2 in the mirror."""
HELD_OUT = 0.1
"""Share of the images that measures the accuracy where the data have no test split."""

_INIT, _ORDER, _SHIFT, _SPLIT, _CALIBRATE = range(5)  # what a draw of the stream FEATURES is for


@dataclass(frozen=True)
class _Data:
    """What is trained on, what is measured on, and how a person would call the latter."""

    train: ImageSource
    test: ImageSource
    tested_on: str


def train_features(
    data: str | PathLike[str] | np.ndarray,
    out: str | PathLike[str],
    *,
    labels: Literal["auto", "folders"] = "auto",
    image_size: tuple[int, int] | int | None = None,
    channels: Literal[1, 3] | None = None,
    upscale: bool = False,
    epochs: int | None = None,
    seed: int = 0,
    device: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ClassifierExtractor:
    """Train a feature extractor for FID and its kin on labelled images: what `undye features` does.

    Args:
        data: a named data set, a folder of folders of images, an .npz file with labels, ...: see `undye.load_images`.
        out: the new file, .safetensors.
        labels: those that the data bring (auto), or from sub-folder names (folders).
        image_size: (height, width), or one number for a square, to resize and crop to; None: as the images are.
        channels: 1 or 3; None: 3 if any image has colour.
        upscale: enlarge images that are smaller than asked instead of leaving them out.
        epochs: passes over the images; None: as many as make 360,000 images, from 1 to 100.
        seed: names the weights at the start, the order of the images, and the part that is held out.
        device: "cpu", "cuda", "mps"; None: the best there is.
        progress: called with (images done, images in all).

    Returns:
        The extractor, as it reads from the file. The file is there only if all went well.

    Raises:
        UserError: for data without labels, or settings that cannot be used.
    """
    out, where = Path(out), pick_device(device)
    check_target(out)
    if epochs is not None and epochs < 1:
        raise UserError(f"epochs must be at least 1, got {epochs}")
    if seed < 0:
        raise UserError(f"the seed must be at least 0, got {seed}")
    size = (image_size, image_size) if isinstance(image_size, int) else image_size

    def load(split: Literal["train", "test"]) -> ImageSource:
        return load_images(data, split=split, labels=labels, image_size=size, channels=channels, upscale=upscale)

    parts = _parts(load, seed)
    source = parts.train
    assert source.class_names is not None
    config = ClassifierConfig(
        image_size=source.image_size, channels=source.channels, num_classes=len(source.class_names)
    )
    epochs = epochs or min(MOST_EPOCHS, max(1, round(EXAMPLES / len(source))))
    network = train_classifier(source, config, epochs, seed, where, progress).fused().half()  # as the file holds it
    right = accuracy(network.float().to(where), parts.test, where)
    trained: dict[str, Any] = {
        "data": source.name if not isinstance(data, str | PathLike) else fspath(data),
        "images": len(source), "epochs": epochs, "batch_size": batch_size(len(source)), "seed": seed,
        "tested_on": parts.tested_on, "test_images": len(parts.test), "test_accuracy": round(right, 6),
        "undye": version("undye"), "torch": torch.__version__,
    }  # fmt: skip
    save_classifier(out, network, source.class_names, trained)
    return load_classifier(out, device=where)


def check_target(out: Path) -> None:
    """Raise a UserError unless a file of features can be called that. It takes no time."""
    if out.suffix != SUFFIX:
        raise UserError(f"{out} should end in {SUFFIX}, as files of features do")
    if out.exists():
        raise UserError(f"{out} exists already: choose another name")


def train_classifier(
    source: ImageSource,
    config: ClassifierConfig,
    epochs: int,
    seed: int,
    device: torch.device,
    progress: Callable[[int, int], None] | None = None,
) -> Classifier:
    """The network after `epochs` passes over labelled images: SGD with momentum, one cycle of the learning rate.

    Raises:
        UserError: if it diverges.
    """
    network = _initial(config, seed).to(device, memory_format=torch.channels_last).train()  # pyrefly: ignore
    size = batch_size(len(source))
    batches = len(source) // size  # the rest of an epoch is left to the next one's order
    # weights decay, the offsets and scales of the normalisation do not
    matrices = [p for p in network.parameters() if p.ndim > 1]
    vectors = [p for p in network.parameters() if p.ndim == 1]
    optimizer = torch.optim.SGD(
        [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": vectors}],
        lr=LEARNING_RATE, momentum=MOMENTUM, nesterov=True,
    )  # fmt: skip
    total, order = epochs * batches, np.arange(0)
    with torch.backends.cudnn.flags(deterministic=True, benchmark=False):
        for step in range(total):
            epoch, within = divmod(step, batches)
            if within == 0:
                order = keyed.permutation(len(source), seed, Stream.FEATURES, _ORDER, epoch)
            chosen = order[within * size : (within + 1) * size]
            images, label = source.images(chosen), source.labels(chosen)
            assert label is not None
            x = network_input(images, config, device)
            x = _shifted(x, keyed.generator(seed, Stream.FEATURES, _SHIFT, step))
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * one_cycle(step / total)
            loss = F.cross_entropy(network(x)[2], torch.from_numpy(label).to(device))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            if not math.isfinite(loss.item()):
                raise UserError("the training of the classifier diverged: look at the labels, or try another seed")
            if progress is not None:
                progress((step + 1) * size, total * size)
        _calibrate(network, source, size, seed, device)
    return network


def batch_size(images: int) -> int:
    """Of the training, for a data set of so many images."""
    return min(images, BATCH, max(SMALLEST_BATCH, images // FEWEST_BATCHES))


def one_cycle(share: float) -> float:
    """The learning rate, in parts of the highest, after a share of the steps: up in a line, then down to 0 in one."""
    return (0.04 + share) / (0.04 + WARM_UP) if share < WARM_UP else (1 - share) / (1 - WARM_UP)


@torch.inference_mode()
def accuracy(network: Classifier, source: ImageSource, device: torch.device) -> float:
    """Share of the images whose class is the likeliest."""
    network.eval()
    right = 0
    for start in range(0, len(source), 500):
        index = np.arange(start, min(start + 500, len(source)))
        label = source.labels(index)
        logits = network(network_input(source.images(index), network.config, device))[2]
        right += int((logits.argmax(1).cpu().numpy() == label).sum())
    return right / len(source)


def _parts(load: Callable[[Literal["train", "test"]], ImageSource], seed: int) -> _Data:
    """The data's own test split where it has one, else a tenth of it.

    Raises:
        UserError: without labels, with one class, or with too few images.
    """
    train = load("train")
    if train.class_names is None:
        raise UserError(
            f"{train.name} has no labels, and features are learned from labels: sort the images into one sub-folder "
            "per class and give --labels folders, or use --features inception, which needs none"
        )
    everything = np.arange(len(train))
    label = train.labels(everything)
    assert label is not None
    if len(np.unique(label)) < 2:
        raise UserError(f"{train.name} has images of one class only: features are learned from 2 or more")
    test = load("test")
    if test.name != train.name:
        if test.class_names is None or len(test.class_names) != len(train.class_names):
            raise UserError(f"{test.name} and {train.name} have not the same classes: rename or merge their folders")
        return _Data(train, test, f"the {len(test):,} images of {test.name}")
    order = keyed.permutation(len(train), seed, Stream.FEATURES, _SPLIT)
    count = max(1, round(HELD_OUT * len(train)))
    if len(train) - count < 2:
        raise UserError(f"{train.name} has {len(train)} images: too few to learn features from")
    held_out = Part(train, np.sort(order[:count]))
    return _Data(Part(train, np.sort(order[count:])), held_out, f"{count:,} images held out by the seed")


def _initial(config: ClassifierConfig, seed: int) -> Classifier:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(keyed.generator(seed, Stream.FEATURES, _INIT).integers(2**63)))
        return Classifier(config)


@torch.no_grad()
def _calibrate(network: Classifier, source: ImageSource, size: int, seed: int, device: torch.device) -> None:
    """Take the normalisations' means and variances with the final weights: those of the training trail behind it."""
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches
    order = keyed.permutation(len(source), seed, Stream.FEATURES, _CALIBRATE)
    for step in range(min(CALIBRATION, len(source) // size)):
        chosen = order[step * size : (step + 1) * size]
        network(network_input(source.images(chosen), network.config, device))


def _shifted(x: Tensor, draw: np.random.Generator) -> Tensor:
    """Each image (B, C, H, W) moved by its own whole pixels down and across, the edge repeated."""
    n, _, height, width = x.shape
    rows, columns = (_moved(side, n, draw, x.device) for side in (height, width))
    index = torch.arange(n, device=x.device).view(n, 1, 1)
    # (B, H, W, C): indexing channels last keeps the memory in the order that the convolutions like
    return x.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _moved(side: int, n: int, draw: np.random.Generator, device: torch.device) -> Tensor:
    reach = side // SHIFT
    by = torch.from_numpy(draw.integers(-reach, reach + 1, size=(n, 1))).to(device)
    return (torch.arange(side, device=device) + by).clamp(0, side - 1)
