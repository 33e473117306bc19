"""`undye sample MODEL --out ...`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from undye.cli.options import Device, Threads, Weights
from undye.cli.parse import parse
from undye.cli.progress import Progress
from undye.cli.settings import Set, joined
from undye.errors import UserError


@dataclass(frozen=True, kw_only=True)
class SampleArgs:
    """The flags of `undye sample`."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """A run folder, a checkpoint folder, or another project's model."""
    out: Annotated[str, tyro.conf.arg(metavar="OUT")] = ""
    """grid.png, samples.npz (array `images`), or a folder (one PNG per image)."""
    n: int = 16
    """How many images."""
    sampler: Literal["ddim", "ancestral", "langevin"] = "ddim"
    """ddim (deterministic, few steps), ancestral (the paper's Algorithm 2) or langevin (annealed Langevin dynamics)."""
    steps: int | None = None
    """Steps of the grid; without it 50, all T for ancestral, 200 for langevin. A network call each; langevin more."""
    grid: Literal["uniform", "quadratic"] = "uniform"
    """How the steps are spread over the times: uniform or quadratic."""
    seed: int = 0
    """Image number i depends on the seed and i alone."""
    eta: float | None = None
    """ddim: 0 (the default) is deterministic, 1 as random as ancestral."""
    variance: Literal["fixed_small", "fixed_large", "learned_range", "learned"] | None = None
    """ancestral: fixed_small or fixed_large, or what the model has learned; without it the model's own."""
    repeats: int | None = None
    """langevin: steps at each noise level (5)."""
    step_size: float | None = None
    """langevin: length of a step, in units of the noise's variance (0.3)."""
    clip: bool | None = None
    """Clip the predicted x_0 to [-1, 1] at each step; without it as the model says."""
    label: str = ""
    """A class by number or name; for models that were trained with labels."""
    guidance: float = 1.0
    """Classifier-free guidance: above 1 exaggerates the class."""
    film: Annotated[str, tyro.conf.arg(metavar="FILM")] = ""
    """Also write the reverse process: .gif plays it, .png shows it as a strip."""
    frames: int = 10
    """States in the film, beside the noise that it starts from."""
    batch_size: int | None = None
    """Images at a time; without it chosen by their size."""
    weights: Weights = "ema"
    set: Set = ()
    device: Device = ""
    threads: Threads = 0


def main(args: list[str]) -> int:
    """Run the command; returns the exit code."""
    a = parse(SampleArgs, joined(args), "undye sample", "Draw images from a model.")
    if not a.out and not a.film:
        raise UserError("nothing to write: give --out grid.png, samples.npz or a folder, or --film film.gif")
    if not Path(a.model).exists():
        raise UserError(f"no model at {a.model}: give a run folder or a checkpoint folder")

    from undye.checkpoint.imported import Settings
    from undye.checkpoint.load import load
    from undye.device import set_threads
    from undye.pictures import check_film, check_target, save_film, save_images
    from undye.sampling import SampleRequest, with_options
    from undye.sharding import shared_film, shared_sample
    from undye.world import World

    if a.out:
        check_target(a.out)
    if a.film:
        check_film(Path(a.film))
        if a.out and Path(a.film) == Path(a.out):
            raise UserError("--film and --out need different names")
    set_threads(a.threads or None)
    world = World(a.device or None)
    denoiser = load(a.model, world.device, Settings.parse(a.set).values, weights=a.weights)
    request = SampleRequest(
        n=a.n,
        sampler=with_options(
            a.sampler, eta=a.eta, variance=a.variance, repeats=a.repeats, step_size=a.step_size, clip=a.clip
        ),
        steps=a.steps,
        grid=a.grid,
        seed=a.seed,
        label=_label(a.label, denoiser.config.class_names, denoiser.config.num_classes),
        guidance=a.guidance,
        batch_size=a.batch_size,
    )
    with Progress("sampling", "network calls", quiet=not world.is_main) as progress:
        frames = shared_film(world, denoiser, request, a.frames, progress) if a.film else None
        images = frames[-1] if frames else None if a.film else shared_sample(world, denoiser, request, progress)
    if images is None:
        return 0  # another process writes
    if frames:
        save_film(frames, Path(a.film))
    if a.out:
        save_images(images, a.out)
    for path in filter(None, (a.out, a.film)):
        print(path)
    return 0


def _label(text: str, names: tuple[str, ...] | None, num_classes: int | None) -> int | None:
    """A class by number or name."""
    if not text:
        return None
    if num_classes is None:
        raise UserError("this model was trained without labels: leave --label out")
    lower = [name.lower() for name in names or ()]
    if text.lower() in lower:
        return lower.index(text.lower())
    if text.isascii() and text.isdecimal() and int(text) < num_classes:
        return int(text)
    known = ", ".join(names) if names else f"0..{num_classes - 1}"
    raise UserError(f"no class {text!r}: choose from {known}")
