"""A part of another source: some of its images, held out or trained on."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from undye.data.report import BadFile, LoadReport
from undye.data.source import ImageSource, Indices


class Part(ImageSource):
    """Some images of another source, numbered anew.

    Attributes:
        whole: the other source.
        indices: which of its images.
    """

    def __init__(self, whole: ImageSource, indices: Indices):
        self.whole, self.indices = whole, indices
        self.name, self.image_size, self.channels = whole.name, whole.image_size, whole.channels
        self.class_names, self.can_crop = whole.class_names, whole.can_crop

    @property
    def on_bad(self) -> Callable[[BadFile], None]:  # pyrefly: ignore
        """Called for each image that turns out to be bad: the whole source finds them."""
        return self.whole.on_bad

    @on_bad.setter
    def on_bad(self, tell: Callable[[BadFile], None]) -> None:
        self.whole.on_bad = tell

    @property
    def report(self) -> LoadReport:
        """That of the whole source."""
        return self.whole.report

    def __len__(self) -> int:
        return len(self.indices)

    def images(self, indices: Indices) -> UInt8[np.ndarray, "n h w c"]:
        """The images at `indices` of this part."""
        return self.whole.images(self.indices[indices])

    def crops(self, indices: Indices, at: Float64[np.ndarray, "n 2"]) -> UInt8[np.ndarray, "n h w c"]:
        """The same, each cut out at a place of its own."""
        return self.whole.crops(self.indices[indices], at)

    def labels(self, indices: Indices) -> Int64[np.ndarray, " n"] | None:
        """The classes of the images at `indices` of this part."""
        return self.whole.labels(self.indices[indices])

    def names(self, indices: Indices) -> list[str]:
        """What a person would call the images at `indices` of this part."""
        return self.whole.names(self.indices[indices])
