"""An edit with all that decides its results, as plain data: what the editing commands run, and what pictures keep."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from undye.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from undye.cli.edit_inputs import Inputs, Shape
    from undye.denoiser import Denoiser
    from undye.samplers import Sampler


@dataclass(frozen=True, kw_only=True)
class Place:
    """Which result.

    Attributes:
        image: number of its image; of an interpolation of its row.
        variation: which of the results for it.
    """

    image: int
    variation: int


@dataclass(frozen=True, kw_only=True)
class SamplerName:
    """A sampler with all its options, as plain data."""

    name: str
    options: dict = field(default_factory=dict)

    @classmethod
    def of(cls, sampler: "str | Sampler") -> "SamplerName":
        """The data of a sampler.

        Raises:
            UserError: for an unknown name.
        """
        from undye.sampling import resolve_sampler

        found = resolve_sampler(sampler)
        return cls(name=found.name, options=asdict(found))

    def build(self) -> "Sampler":
        """The sampler.

        Raises:
            UserError: if there is none such.
        """
        from undye.sampling import resolve_sampler
        from undye.structure import structure

        base = resolve_sampler(self.name)
        try:
            return structure(type(base), self.options, f"the sampler {self.name}", base)
        except ValueError as error:
            raise UserError(str(error)) from None


@dataclass(frozen=True)
class Made:
    """What an edit gives.

    Attributes:
        results: uint8 (N, K, H, W, C), K results for each of N images.
        before: uint8 (N, H, W, C) each, shown in front of the results of a grid; grey ones may stand beside colour.
        after: the same, shown behind.
    """

    results: "np.ndarray"
    before: "Sequence[np.ndarray]" = ()
    after: "Sequence[np.ndarray]" = ()


@dataclass(frozen=True, kw_only=True)
class Edit(ABC):
    """An edit with all settings that decide its results: its fields are what a picture says of it.

    Defaults are resolved, times and sampler options included, so that no later version's change them.
    """

    command: ClassVar[str]
    """As the user types it."""
    doing: ClassVar[str]
    """For the progress."""
    masked: ClassVar[bool] = False
    """Whether it takes a mask."""
    seed: int
    label: int | None
    guidance: float

    def shape(self, denoiser: "Denoiser") -> "Shape | None":
        """The size of the images that it starts from; None: from none."""
        return model_shape(denoiser)

    @property
    @abstractmethod
    def columns(self) -> int:
        """Results for an image."""

    def rows(self, images: int) -> int:
        """Rows of results for so many images."""
        return images

    def images_of(self, row: int) -> list[int]:
        """The images that a row of results is made from."""
        return [row]

    @abstractmethod
    def make(self, denoiser: "Denoiser", inputs: "Inputs", only: Place | None, common: dict[str, Any]) -> Made:
        """The results.

        Args:
            denoiser: the model.
            inputs: the images; with `only`, those of that result.
            only: the result that is wanted; None: all.
            common: arguments of `undye.edit.job.Common`.

        Raises:
            UserError: for settings that do not fit the model.
        """


@dataclass(frozen=True, kw_only=True)
class ImageEdit(Edit):
    """An edit of images: n results for each."""

    n: int

    @property
    def columns(self) -> int:
        """See `Edit`."""
        return self.n


def model_shape(denoiser: "Denoiser") -> "Shape":
    """(height, width, channels) of the model's images."""
    return *denoiser.config.image_size, denoiser.config.channels


def exact(times: "Tensor") -> tuple[float, ...]:
    """Times as a picture keeps them."""
    return tuple(float(t) for t in times)


def varied(n: int, only: Place | None) -> dict[str, Any]:
    """The arguments of `undye.edit.job.Varied` that ask for all results, or for one."""
    if only is None:
        return {"variations": n}
    return {"variations": 1, "first_index": only.image, "first_variation": only.variation}
