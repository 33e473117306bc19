"""`undye interpolate MODEL A.png B.png --out ...`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import tyro

from undye.cli.edit_command import main_of
from undye.cli.edit_options import ImageOptions, steering
from undye.cli.edit_settings import Edit, Made, Place, SamplerName, exact
from undye.cli.parse import parse
from undye.cli.settings import joined
from undye.errors import UserError

if TYPE_CHECKING:
    from undye.cli.edit_inputs import Inputs
    from undye.denoiser import Denoiser


@dataclass(frozen=True, kw_only=True)
class InterpolateArgs(ImageOptions):
    """The flags of `undye interpolate`."""

    points: int = 9
    """Images on the way, the two ends among them."""
    t: tuple[int, ...] = ()
    """Times in 1..T to mix the images at, a row each; without it T/2 (inverted: T)."""
    method: Literal["shared", "inverted"] = "shared"
    """shared: with the same noise, the paper's; inverted: between the latents that DDIM makes the images of."""
    samples: Annotated[tuple[int, int] | None, tyro.conf.arg(metavar="I J")] = None
    """In place of images: between samples number I and J of the seed, by slerp of their noise."""
    sampler: str = ""
    """How to come down: ancestral if nothing is said, for --samples ddim; see `undye sample --help`."""
    steps: int | None = None
    """Steps on the way down."""


@dataclass(frozen=True, kw_only=True)
class Interpolate(Edit):
    """What `undye interpolate` does between images, exactly. A row is a pair of images at one of the times t.

    Attributes:
        points: where on the way each result is, from 0 to 1.
        t: the times that images are mixed at.
        times: for each of them the way down.
        method: as the flag.
        sampler: of shared; None for inverted, which has its own.
        iterations: of inverted.
    """

    command: ClassVar[str] = "interpolate"
    doing: ClassVar[str] = "interpolating"
    points: tuple[float, ...]
    t: tuple[int, ...]
    times: tuple[tuple[float, ...], ...]
    method: Literal["shared", "inverted"]
    sampler: SamplerName | None
    iterations: int

    @classmethod
    def of(cls, a: InterpolateArgs, denoiser: "Denoiser") -> "Interpolate":
        """What the flags come to."""
        from undye.edit.interpolate import INVERSION_ITERATIONS, mixing_times, way_points

        if a.method == "inverted" and a.sampler:
            raise UserError("inverted latents are decoded by the DDIM that they were made with: leave --sampler out")
        times = [exact(grid) for grid in mixing_times(denoiser, a.method, a.t or None, a.steps)]
        return cls(
            points=exact(way_points(a.points)), t=tuple(round(way[0]) for way in times), times=tuple(times),
            method=a.method, sampler=SamplerName.of(a.sampler or "ancestral") if a.method == "shared" else None,
            iterations=INVERSION_ITERATIONS, **steering(a, denoiser),
        )  # fmt: skip

    @property
    def columns(self) -> int:
        """See `Edit`."""
        return len(self.points)

    def rows(self, images: int) -> int:
        """See `Edit`."""
        return images // 2 * len(self.t)

    def images_of(self, row: int) -> list[int]:
        """See `Edit`."""
        pair = row // max(1, len(self.t))
        return [2 * pair, 2 * pair + 1]

    def make(self, denoiser: "Denoiser", inputs: "Inputs", only: Place | None, common: dict[str, Any]) -> Made:
        """See `Edit`."""
        import numpy as np

        from undye.edit.interpolate import interpolate

        images = inputs.images
        assert images is not None
        if len(images) % 2:
            raise UserError(f"an interpolation is between two images, or several pairs A B C D ...: got {len(images)}")
        points, t, times, pair = self.points, self.t, self.times, 0
        if only is not None and t:
            pair, row = divmod(only.image, len(t))
            points, t, times = points[only.variation :][:1], t[row : row + 1], times[row : row + 1]
        ways = interpolate(
            denoiser, images[0::2], images[1::2], points=points, t=t, times=times, method=self.method,
            sampler=None if self.sampler is None else self.sampler.build(), iterations=self.iterations,
            first_index=pair, **common,
        )  # fmt: skip
        first, second = (np.repeat(end, len(t), axis=0) for end in (images[0::2], images[1::2]))
        return Made(ways.reshape(-1, *ways.shape[2:]), [first], [second])


@dataclass(frozen=True, kw_only=True)
class InterpolateSamples(Edit):
    """What `undye interpolate --samples` does, exactly.

    Attributes:
        samples: numbers of the two.
        points: where on the way each result is, from 0 to 1.
        times: the way down.
        sampler: how.
    """

    command: ClassVar[str] = "interpolate --samples"
    doing: ClassVar[str] = "interpolating"
    samples: tuple[int, int]
    points: tuple[float, ...]
    times: tuple[float, ...]
    sampler: SamplerName

    @classmethod
    def of(cls, a: InterpolateArgs, denoiser: "Denoiser") -> "InterpolateSamples":
        """What the flags come to."""
        from undye.edit.interpolate import way_points
        from undye.sampling import SampleRequest, plan

        assert a.samples is not None
        sampler, times = plan(denoiser, SampleRequest(n=2, sampler=a.sampler or "ddim", steps=a.steps))
        return cls(
            samples=a.samples, points=exact(way_points(a.points)), times=exact(times), sampler=SamplerName.of(sampler),
            **steering(a, denoiser),
        )  # fmt: skip

    def shape(self, denoiser: "Denoiser") -> None:
        """See `Edit`."""
        return None

    @property
    def columns(self) -> int:
        """See `Edit`."""
        return len(self.points)

    def rows(self, images: int) -> int:
        """See `Edit`."""
        return 1

    def make(self, denoiser: "Denoiser", inputs: "Inputs", only: Place | None, common: dict[str, Any]) -> Made:
        """See `Edit`."""
        from undye.edit.interpolate import interpolate_samples

        way = interpolate_samples(
            denoiser, *self.samples, points=self.points if only is None else self.points[only.variation :][:1],
            times=self.times, sampler=self.sampler.build(), **common,
        )  # fmt: skip
        return Made(way[None])


def main(args: list[str]) -> int:
    """Run the command; returns the exit code."""
    about = "Images on the way from one to another; several --t show coarse to fine."
    a = parse(InterpolateArgs, joined(args), "undye interpolate", about)
    if a.samples and (a.images or a.data or a.t or a.method != "shared"):
        raise UserError("--samples is between samples: leave the images, --data, --t and --method out")
    return main_of(a, InterpolateSamples.of if a.samples else Interpolate.of)
