"""Feature extractors: images to the numbers that FID, KID, precision and recall compare. What all of them share."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import nn

from undye.data.names import show_size
from undye.device import pick_device
from undye.errors import UserError
from undye.metrics.extractor_names import EXTRACTORS, default_extractor, help_for

__all__ = ["EXTRACTORS", "FeatureExtractor", "Features", "default_extractor", "help_for", "load_extractor"]


@dataclass(frozen=True)
class Features:
    """Features of a chunk of images, float32.

    Attributes:
        pooled: (n, D), the layer that FID is about.
        spatial: (n, S), part of an earlier layer that still knows places, for sFID (Nash et al. 2021); None: none.
        logits: (n, K), for the Inception Score; None: none.
    """

    pooled: Float32[np.ndarray, "n d"]
    spatial: Float32[np.ndarray, "n s"] | None
    logits: Float32[np.ndarray, "n k"] | None

    def __len__(self) -> int:
        return len(self.pooled)

    @classmethod
    def joined(cls, parts: "Sequence[Features]") -> "Features":
        """Those of several chunks, at least one, as one."""

        def join(found: list[np.ndarray | None]) -> np.ndarray | None:
            arrays = [array for array in found if array is not None]
            return np.concatenate(arrays) if len(arrays) == len(found) else None

        pooled = np.concatenate([part.pooled for part in parts])
        return cls(pooled, join([part.spatial for part in parts]), join([part.logits for part in parts]))


class FeatureExtractor(ABC):
    """Images to features. Its own subclass is how to bring one that `load_extractor` does not know.

    Attributes:
        name: as the user gave it.
        hash: SHA-256, 64 hex digits, of the file, or of a module's weights and source.
        dims: D of the pooled features.
        spatial_dims: S of the spatial ones; None: there are none.
        num_classes: K of the logits; None: there are none.
        class_names: where they are known.
        image_size: (height, width) of the images that it takes; None: any.
        channels: of the images that it takes; None: 1 and 3.
        batch_size: images that go through it together, unless asked otherwise.
        cacheable: whether the hash vouches for the numbers, so that statistics may be kept on disk under it.
    """

    name: str
    hash: str
    dims: int
    spatial_dims: int | None = None
    num_classes: int | None = None
    class_names: tuple[str, ...] | None = None
    image_size: tuple[int, int] | None = None
    channels: int | None = None
    batch_size: int = 64
    cacheable: bool = True

    @property
    def device(self) -> torch.device:
        """Where it computes; the last bits differ between kinds of devices."""
        return torch.device("cpu")

    def recipe(self) -> dict[str, Any]:
        """How to get the same features again, as plain data for a report. Subclasses add what is theirs."""
        return {
            "name": self.name, "sha256": self.hash, "dims": self.dims, "spatial_dims": self.spatial_dims,
            "num_classes": self.num_classes, "image_size": list(self.image_size) if self.image_size else None,
            "channels": self.channels, "rounding": "uint8 pixels, rounded to nearest", "batch_size": self.batch_size,
            "device": self.device.type,
        }  # fmt: skip

    @abstractmethod
    def features(self, images: UInt8[np.ndarray, "n h w c"]) -> Features:
        """Those of one batch that fits the extractor."""

    def check(self, image_size: tuple[int, int], channels: int) -> None:
        """Catch images that it does not take, before any work.

        Raises:
            UserError: says what it takes and what to do.
        """
        if self.channels is not None and channels != self.channels:
            want = {1: "greyscale", 3: "colour"}.get(self.channels, f"{self.channels}-channel")
            raise UserError(
                f"the features {self.name} are for {want} images, these have {channels} "
                f"channel{'s' if channels > 1 else ''}: give --channels {self.channels}, or other --features"
            )
        if self.image_size is not None and tuple(image_size) != self.image_size:
            raise UserError(
                f"the features {self.name} are for images of {show_size(self.image_size)}, these are "
                f"{show_size(image_size)} (height x width): give --image-size {show_size(self.image_size)}, or train "
                "features at this size (undye features)"
            )

    @torch.inference_mode()
    def __call__(self, images: UInt8[np.ndarray, "n h w c"], batch_size: int | None = None) -> Features:
        """The features of any number of images; the batch size touches them within float32 rounding only.

        Raises:
            UserError: images that do not fit, or features that are not finite.
        """
        if batch_size is not None and batch_size < 1:
            raise UserError(f"the batch size must be at least 1, got {batch_size}")
        self.check((images.shape[1], images.shape[2]), images.shape[3])
        if not len(images):
            sizes = (self.dims, self.spatial_dims, self.num_classes)
            pooled, spatial, logits = (None if k is None else np.zeros((0, k), np.float32) for k in sizes)
            assert pooled is not None
            return Features(pooled, spatial, logits)
        size = batch_size or self.batch_size
        found = Features.joined([self.features(images[i : i + size]) for i in range(0, len(images), size)])
        for array in (found.pooled, found.spatial, found.logits):
            if array is not None and not np.isfinite(array).all():
                raise UserError(f"the features {self.name} of these images are not finite: the extractor is broken")
        return found


def load_extractor(
    what: str | PathLike[str] | nn.Module | FeatureExtractor, device: str | torch.device | None = None
) -> FeatureExtractor:
    """A feature extractor.

    Args:
        what: a name of `EXTRACTORS`; `inception:FILE`; a .safetensors file that `undye features` wrote; an .onnx file;
            or a torch module, see `undye.metrics.program_features`.
        device: where to compute; None: the best there is (an .onnx file: the CPU; a module: where it is).

    Raises:
        UserError: for something else, or a file that cannot be used.
    """
    if isinstance(what, FeatureExtractor):
        return what
    if isinstance(what, nn.Module):
        from undye.metrics.program_features import ModuleExtractor

        return ModuleExtractor(what, None if device is None else pick_device(str(device)))
    text, where = fspath(what), pick_device(None if device is None else str(device))
    if text == "inception" or text.startswith("inception:"):
        from undye.metrics.inception import load_inception

        return load_inception(text.partition(":")[2] or None, where)
    from undye.metrics.classifier_file import EMBEDDED, SUFFIX, load_classifier, load_embedded

    if text in EMBEDDED:
        return load_embedded(text, where)
    path = Path(text).expanduser()
    suffix = path.suffix.lower()
    if suffix == ".onnx":
        from undye.metrics.program_features import load_onnx

        return load_onnx(path)
    if suffix == ".pt2":
        raise UserError(
            f"{path} is an archive of torch.export, which torch unpickles: it could run anything. Export the network "
            "to ONNX (torch.onnx.export) and give the .onnx file, or give the module itself in Python"
        )
    if suffix in (".pt", ".pth", ".ckpt", ".bin"):
        raise UserError(
            f"{path} holds weights without a network: give inception:{path} if they are torch-fidelity's InceptionV3, "
            "an .onnx file, or the module itself in Python"
        )
    if suffix == SUFFIX:
        return load_classifier(path, where, name=text)
    raise UserError(
        f"no features called {text}: give {', '.join(EXTRACTORS)}, inception:FILE, a .safetensors file of `undye "
        "features`, or an .onnx file"
    )
