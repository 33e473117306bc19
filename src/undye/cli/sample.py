"""`undye sample MODEL --out ...`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from undye.cli.options import Device, Threads, Weights
from undye.cli.parse import parse
from undye.cli.progress import Progress
from undye.cli.settings import Set, joined
from undye.errors import UserError

if TYPE_CHECKING:
    from undye.samplers import Sampler


@dataclass(frozen=True, kw_only=True)
class SampleArgs:
    """The flags of `undye sample`."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """A run folder, a checkpoint folder, or another project's model."""
    out: Annotated[str, tyro.conf.arg(metavar="OUT")] = ""
    """grid.png, samples.npz (array `images`), or a folder (one PNG per image)."""
    n: int = 16
    """How many images."""
    sampler: (
        Literal[
            "ancestral", "ddim", "dpm++2m", "dpm++3m", "dpm++2m-sde", "unipc", "euler", "heun", "rk45", "langevin", "pc"
        ]
        | None
    ) = None
    """Without it the best known for the model and number of steps. unipc, dpm++2m and dpm++3m are for few steps;
    ancestral is the paper's Algorithm 2; ddim and euler are of first order, heun of second; rk45 keeps to a tolerance;
    dpm++2m-sde, langevin and pc (predictor-corrector) draw noise at every step."""
    steps: int | None = None
    """Steps of the grid; without it the sampler's own number: 20 for unipc and dpm++, 50 for ddim, all T for ancestral.
    A network call each; heun takes two, langevin and pc more, rk45 as many as its tolerance asks for."""
    grid: Literal["optimised", "uniform", "quadratic", "cosine", "log-snr", "karras", "trailing", "leading"] | None = (
        None
    )
    """How the steps are spread over the times; optimised: as undye optimise-grid found it for this model. Without it as
    fits the sampler."""
    seed: int = 0
    """Image number i depends on the seed and i alone."""
    eta: float | None = None
    """ddim: 0 (the default) is deterministic, 1 as random as ancestral."""
    variance: Literal["fixed_small", "fixed_large", "learned_range", "learned"] | None = None
    """ancestral: fixed_small or fixed_large, or what the model has learned; without it the model's own."""
    repeats: int | None = None
    """langevin: steps at each noise level (5). pc: corrector steps after each predictor step (1)."""
    step_size: float | None = None
    """langevin: length of a step, in units of the noise's variance (0.3)."""
    order: Literal[1, 2, 3] | None = None
    """unipc: order of the predictor (2)."""
    s_churn: float | None = None
    """euler, heun: noise that is added before each step (0)."""
    s_tmin: float | None = None
    """euler, heun: lowest sigma with churn (0)."""
    s_tmax: float | None = None
    """euler, heun: highest sigma with churn."""
    s_noise: float | None = None
    """euler, heun: standard deviation of churn's noise (1)."""
    tolerance: float | None = None
    """rk45: error allowed in a step (0.0001)."""
    predictor: Literal["ancestral", "ddim"] | None = None
    """pc: the step that is corrected (ancestral)."""
    snr: float | None = None
    """pc: length of a corrector step, as the ratio of its two parts (0.16)."""
    clip: bool | None = None
    """Clip the predicted x_0 to [-1, 1] at each step; without it as the model says."""
    label: str = ""
    """A class by number or name; for models that were trained with labels."""
    guidance: float = 1.0
    """Classifier-free guidance: above 1 exaggerates the class."""
    guidance_interval: tuple[float, float] | None = None
    """Lowest and highest sigma (noise relative to signal) at which to guide; without it at all."""
    guidance_rescale: float = 0.0
    """0 to 1: bring guided images back to the contrast of unguided ones, against overexposure."""
    threshold: float | None = None
    """Dynamic thresholding of the predicted x_0, by this percentile of each image's numbers, such as 0.995."""
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
    from undye.film_files import check_film, save_film
    from undye.pictures import check_target
    from undye.sampling import SampleRequest
    from undye.sharding import shared_film, shared_sample
    from undye.world import World
    from undye.writers import save_images

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
        sampler=_sampler(a),
        steps=a.steps,
        grid=a.grid,
        seed=a.seed,
        label=_label(a.label, denoiser.config.class_names, denoiser.config.num_classes),
        guidance=a.guidance,
        guidance_interval=a.guidance_interval,
        guidance_rescale=a.guidance_rescale,
        threshold=a.threshold,
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


OPTIONS = (
    "eta", "variance", "repeats", "step_size", "order", "s_churn", "s_tmin", "s_tmax", "s_noise", "tolerance",
    "predictor", "snr", "clip",
)  # fmt: skip
"""The flags that are a sampler's own."""


def _sampler(a: SampleArgs) -> "Sampler | None":
    """The sampler that is asked for with its options; None for whatever is best."""
    from undye.sampling import with_options

    given = {name: value for name in OPTIONS if (value := getattr(a, name)) is not None}
    if a.sampler is not None:
        return with_options(a.sampler, **given)
    if given:
        raise UserError(f"--{next(iter(given)).replace('_', '-')} belongs to a sampler: name it with --sampler")
    return None


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
