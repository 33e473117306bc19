"""`undye progressive MODEL --n 8 --out grid.png`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import tyro

from undye.cli.edit_command import main_of
from undye.cli.edit_options import ModelOptions, steering
from undye.cli.edit_settings import Edit, Made, Place, SamplerName, exact
from undye.cli.parse import parse
from undye.cli.settings import joined
from undye.errors import UserError

if TYPE_CHECKING:
    from undye.cli.edit_inputs import Inputs
    from undye.denoiser import Denoiser


@dataclass(frozen=True, kw_only=True)
class ProgressiveArgs(ModelOptions):
    """The flags of `undye progressive`."""

    n: int | None = None
    """How many images (8), a row each; with --shared how many that share each x_t (8)."""
    frames: int = 10
    """Predictions of x_0 shown for each, from pure noise to the sample."""
    film: Annotated[str, tyro.conf.arg(metavar="FILM")] = ""
    """Also as a film: .gif plays it, .png shows it as a strip."""
    sampler: str = "ddim"
    """How to sample: see `undye sample --help`."""
    steps: int | None = None
    """Steps from T; without it the sampler's own number, with --shared 100."""
    shared: bool = False
    """Instead: samples that share their way down to x_t and go on alone (ancestral); x_t, then the samples."""
    t: tuple[int, ...] = ()
    """With --shared: the times t, a row each; without it T, 3/4 T, T/2 and T/4."""
    groups: int = 1
    """With --shared: ways down, all their rows."""


@dataclass(frozen=True, kw_only=True)
class Progressive(Edit):
    """What `undye progressive` does, exactly. A row is an image, its results are the frames."""

    command: ClassVar[str] = "progressive"
    doing: ClassVar[str] = "sampling"
    n: int
    frames: int
    times: tuple[float, ...]
    sampler: SamplerName

    @classmethod
    def of(cls, a: ProgressiveArgs, denoiser: "Denoiser") -> "Progressive":
        """What the flags come to."""
        from undye.sampling import SampleRequest, plan

        n = 8 if a.n is None else a.n
        sampler, times = plan(denoiser, SampleRequest(n=n, sampler=a.sampler, steps=a.steps))
        return cls(n=n, frames=a.frames, times=exact(times), sampler=SamplerName.of(sampler), **steering(a, denoiser))

    def shape(self, denoiser: "Denoiser") -> None:
        """See `Edit`."""
        return None

    @property
    def columns(self) -> int:
        """See `Edit`."""
        return min(self.frames, len(self.times) - 1)

    def rows(self, images: int) -> int:
        """See `Edit`."""
        return self.n

    def make(self, denoiser: "Denoiser", inputs: "Inputs", only: Place | None, common: dict[str, Any]) -> Made:
        """See `Edit`."""
        import numpy as np

        from undye.edit.progressive import progressive

        n, first = (self.n, 0) if only is None else (1, only.image)
        frames = progressive(
            denoiser, n, self.frames, sampler=self.sampler.build(), times=self.times, first_index=first, **common
        )
        return Made(np.stack(frames if only is None else frames[only.variation :][:1], axis=1))


@dataclass(frozen=True, kw_only=True)
class ProgressiveShared(Edit):
    """What `undye progressive --shared` does, exactly. A row is a group at one of the times t."""

    command: ClassVar[str] = "progressive --shared"
    doing: ClassVar[str] = "sampling"
    groups: int
    members: int
    t: tuple[int, ...]
    times: tuple[float, ...]

    @classmethod
    def of(cls, a: ProgressiveArgs, denoiser: "Denoiser") -> "ProgressiveShared":
        """What the flags come to."""
        from undye.edit.progressive import shared_times

        chosen, way = shared_times(denoiser, a.t or None, 100 if a.steps is None else a.steps)
        members = 8 if a.n is None else a.n
        return cls(groups=a.groups, members=members, t=tuple(chosen), times=exact(way), **steering(a, denoiser))

    def shape(self, denoiser: "Denoiser") -> None:
        """See `Edit`."""
        return None

    @property
    def columns(self) -> int:
        """See `Edit`."""
        return self.members

    def rows(self, images: int) -> int:
        """See `Edit`."""
        return self.groups * len(self.t)

    def make(self, denoiser: "Denoiser", inputs: "Inputs", only: Place | None, common: dict[str, Any]) -> Made:
        """See `Edit`; for one result its group is made, whose members' numbers count in the noise."""
        from undye.edit.progressive import shared_latents

        if list(self.t) != sorted(set(self.t), reverse=True):
            raise UserError("the times t at which samples part must fall")  # only a changed picture has others
        groups, first, row = self.groups, 0, 0
        if only is not None and self.t:
            groups, (first, row) = 1, divmod(only.image, len(self.t))
        found = shared_latents(denoiser, groups, self.members, self.t, grid=self.times, first_index=first, **common)
        samples, latents = (x.reshape(-1, *x.shape[2:]) for x in (found.samples, found.latents))
        if only is not None:
            samples = samples[row : row + 1, only.variation :][:, :1]
            latents = latents[row : row + 1]
        return Made(samples, [latents])


def main(args: list[str]) -> int:
    """Run the command; returns the exit code."""
    about = "What the model takes the image to be while it samples, or samples that share their beginning."
    a = parse(ProgressiveArgs, joined(args), "undye progressive", about)
    if not a.shared and (a.t or a.groups != 1):
        raise UserError("--t and --groups are for --shared: leave them out, or add it")
    if a.shared and (a.film or a.frames != 10 or a.sampler != "ddim"):
        raise UserError("--film, --frames and --sampler are not for --shared: leave them out")
    return main_of(a, ProgressiveShared.of if a.shared else Progressive.of, film=a.film)
