"""The images that all contenders see, and the numbers of a machine that go with a result."""

import os
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import undye
from undye.data.source import ImageSource

_START = time.perf_counter()


@dataclass(frozen=True)
class Images:
    """A data set with labels. source: the training images; the arrays are uint8 (N, 28, 28, 1) and int64 (N,)."""

    name: str
    source: ImageSource
    train: np.ndarray
    train_labels: np.ndarray
    test: np.ndarray
    test_labels: np.ndarray


def load(name: str | None) -> Images:
    """The data set of that name; None: fashion-mnist where it is on this machine, else fashion-mini.

    Raises:
        UserError: for an unknown data set, or one that is not 28x28 greyscale with labels.
    """
    if name is None:
        try:
            undye.load_images("fashion-mnist", download=False)
            name = "fashion-mnist"
        except undye.UserError:
            name = "fashion-mini"
    train, test = undye.load_images(name), undye.load_images(name, split="test")
    arrays = [(s.images(np.arange(len(s))), s.labels(np.arange(len(s)))) for s in (train, test)]
    (images, labels), (test_images, test_labels) = arrays
    if images.shape[1:] != (28, 28, 1) or labels is None or test_labels is None:
        raise undye.UserError(f"{name} is not made of labelled 28x28 greyscale images: use fashion-mnist or mnist")
    return Images(name, train, images, labels, test_images, test_labels)


def batches(images: np.ndarray, size: int, seed: int) -> Iterator[Tensor]:
    """Endless shuffled batches in [0, 1], (size, 1, 28, 28): as cheap as a data loader can be."""
    pixels = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2)
    generator = torch.Generator().manual_seed(seed)
    while True:
        for index in torch.randperm(len(pixels), generator=generator).split(size):
            if len(index) == size:
                yield pixels[index].float().div_(255)


def machine() -> dict[str, object]:
    """Processor, load and versions."""
    cpu = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model n")]
        cpu = names[0] if names else cpu
    packages = ("undye", "torch", "denoising-diffusion-pytorch", "ema-pytorch", "diffusers", "accelerate", "numpy")
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "capabilities": {
            k: v for k, v in getattr(torch.cpu, "get_capabilities", dict)().items() if "amx" in k or "avx512_bf16" in k
        },
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg(),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in packages},
        "date": time.strftime("%Y-%m-%d"),
    }


def say(text: str) -> None:
    """A line of progress, with the time since the start."""
    print(f"[{time.perf_counter() - _START:6.0f} s] {text}", flush=True)
