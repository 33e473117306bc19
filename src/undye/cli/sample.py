"""`undye sample MODEL --out ...`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from undye.cli.options import Device, Threads, Weights
from undye.cli.parse import parse
from undye.cli.progress import Progress
from undye.cli.settings import Set, joined
from undye.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    import torch

    from undye.cli.sample_like import ModelSource
    from undye.denoiser import Denoiser
    from undye.samplers import Sampler
    from undye.sampling import SampleRequest
    from undye.writers import ProvenanceOf


@dataclass(frozen=True, kw_only=True)
class SampleArgs:
    """The flags of `undye sample`."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")] = ""
    """A run folder, a checkpoint folder, or another project's model; with --like, without it the picture's own."""
    out: Annotated[str, tyro.conf.arg(metavar="OUT")] = ""
    """grid.png, samples.npz (array `images`, and `labels`), or a folder (a PNG per image, as soon as it is finished).
    Every PNG says inside how it was made."""
    like: Annotated[str, tyro.conf.arg(metavar="PICTURE.png")] = ""
    """Make again what a PNG of undye sample, or of an edit, shows: with the settings, the model and the images that it
    names."""
    resume: bool = False
    """A folder that has some of the images: draw the others."""
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
    """A class by number or name, or all: every class in turn; for models that were trained with labels."""
    guidance: float = 1.0
    """Classifier-free guidance: above 1 exaggerates the class."""
    guidance_interval: tuple[float, float] | None = None
    """Lowest and highest sigma (noise relative to signal) at which to guide; without it at all."""
    guidance_rescale: float = 0.0
    """0 to 1: bring guided images back to the contrast of unguided ones, against overexposure."""
    threshold: float | None = None
    """Dynamic thresholding of the predicted x_0, by this percentile of each image's numbers, such as 0.995."""
    film: Annotated[str, tyro.conf.arg(metavar="FILM")] = ""
    """Also write the reverse process: .gif, .apng and .mp4 play it, .png shows it as a strip."""
    frames: int = 10
    """States in the film, beside the noise that it starts from."""
    captions: bool = False
    """In a grid, write below each image its class, or its number where there are no classes."""
    batch_size: int | None = None
    """Images at a time; without it chosen by their size and the memory there is."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """What the network computes in (float16: GPUs only); the sampler always in float32."""
    runtime: Literal["pytorch", "onnxruntime", "onnxruntime-int8"] = "pytorch"
    """What computes the network on a CPU: onnxruntime is faster for few images at a time, its int8 for any number."""
    calibration: Annotated[str, tyro.conf.arg(metavar="NAME|PATH")] = ""
    """onnxruntime-int8: images like those that the model makes."""
    weights: Weights = "ema"
    set: Set = ()
    device: Device = ""
    threads: Threads = 0


def main(args: list[str]) -> int:
    """Run the command; returns the exit code."""
    args = joined(args)
    a = parse(SampleArgs, args, "undye sample", "Draw images from a model.")
    if not a.model and not a.like:
        raise UserError("no model: give a run folder or a checkpoint folder, or --like a picture that names one")
    if not a.out and not a.film:
        raise UserError("nothing to write: give --out grid.png, samples.npz or a folder, or --film film.gif")
    if a.like and (other := [k for k, v in vars(a).items() if k not in BESIDE_LIKE and v != getattr(SampleArgs, k)]):
        raise UserError(f"--like takes the settings from the picture: leave --{other[0].replace('_', '-')} out")
    if a.resume and (a.film or not a.out):
        raise UserError("--resume goes on with a folder of PNGs: give it as --out, and no --film")

    from undye.device import set_threads
    from undye.film_files import check_film, save_film
    from undye.pictures import kind_of
    from undye.provenance import read_provenance
    from undye.sharding import shared_film, shared_sample, shared_stream
    from undye.world import World
    from undye.writers import FolderWriter, open_writer

    found = read_provenance(Path(a.like)) if a.like else None
    if found is not None and found.get("command", "sample") != "sample":
        from undye.cli.edit_like import again

        return again(a, found)
    if a.out:
        open_writer(a.out, 1, resume=a.resume)  # says what is wrong before the model is loaded
        if a.resume and kind_of(a.out) != "folder":
            raise UserError("--resume goes on with a folder of PNGs: other files are written at once")
        if a.captions and kind_of(a.out) != ".png":
            raise UserError("--captions are for a grid: give --out grid.png")
    if a.film:
        check_film(Path(a.film))
        if a.out and Path(a.film) == Path(a.out):
            raise UserError("--film and --out need different names")
    set_threads(a.threads or None)
    world = World(a.device or None)
    task = _Task.of(a, found, world.device)
    denoiser, request = task.denoiser, task.request
    writer = None
    if a.out:
        writer = open_writer(
            a.out, request.n, task.provenance, labels=task.labels, captions=task.captions(a.captions), resume=a.resume
        )
    with Progress("sampling", "network calls", quiet=not world.is_main) as progress:
        if isinstance(writer, FolderWriter) and not a.film:
            if a.resume:
                folder = writer
                world.on_main(lambda: task.check_same(folder.present()))
            # each process writes its own, as soon as they are finished
            shared_stream(world, denoiser, request, writer.add, world.broadcast(writer.missing()), progress)
            world.wait()
            images = frames = None
        else:
            frames = shared_film(world, denoiser, request, a.frames, progress) if a.film else None
            images = frames[-1] if frames else None if a.film else shared_sample(world, denoiser, request, progress)
            if writer is not None and images is not None:
                writer.add(range(len(images)), images)
    if not world.is_main:
        return 0  # another process writes
    if frames:
        save_film(frames, Path(a.film), provenance=task.provenance(range(request.n)))
    if writer is not None:
        writer.close()
    for path in filter(None, (a.out, a.film)):
        print(path)
    return 0


BESIDE_LIKE = frozenset(
    ("model", "out", "like", "film", "frames", "captions", "resume", "batch_size", "device", "threads")
)
"""Flags that do not decide what the images are."""


@dataclass(frozen=True)
class _Task:
    """What is to be drawn, from the flags or from a picture."""

    denoiser: "Denoiser"
    request: "SampleRequest"
    provenance: "ProvenanceOf"

    @classmethod
    def of(cls, a: SampleArgs, found: dict[str, Any] | None, device: "torch.device") -> "_Task":
        """Load the model, and say what to draw."""
        from undye.cli.sample_like import ModelSource, note_another, open_source, provenance_of, request_in, source_in

        said = None if found is None else source_in(found)
        source = said or ModelSource(
            model=a.model, weights=a.weights, set=a.set, runtime=a.runtime, calibration=a.calibration
        )
        if source.runtime == "pytorch" and source.calibration:
            raise UserError("--calibration is for --runtime onnxruntime-int8: leave it out")
        denoiser, source = open_source(source, device, "" if said is None else a.like, a.model)
        if said is not None:
            note_another(said, source, a.like)
        if found is None:
            _check_memory(a, denoiser)
        request = _request(a, denoiser) if found is None else request_in(found, a.batch_size)
        if source.runtime != "pytorch" and request.dtype != "float32":
            raise UserError("--dtype is for PyTorch: leave it or --runtime out")
        provenance = provenance_of(source, denoiser, request)  # finds what is wrong with the request
        return cls(_computed(denoiser, source, device), request, provenance)

    @property
    def labels(self) -> "np.ndarray | None":
        """The class of each image."""
        import numpy as np

        return None if self.request.label is None else np.broadcast_to(self.request.label, self.request.n).copy()

    def captions(self, wanted: bool) -> list[str] | None:
        """What stands below each image: its class, or its number where there are none."""
        if not wanted:
            return None
        labels, names = self.labels, self.denoiser.config.class_names
        if labels is None:
            return [str(self.request.first_index + i) for i in range(self.request.n)]
        return [names[k] if names else str(k) for k in labels]

    def check_same(self, present: "Iterator[tuple[int, Path]]") -> None:
        """Make sure that a folder to go on with has samples of this kind.

        Raises:
            UserError: if it has others.
        """
        import json

        from undye.cli.sample_like import settings_in
        from undye.provenance import read_provenance

        settings, labels = settings_in(json.loads(json.dumps(self.provenance(range(1))))), self.labels
        for number, path in present:
            found, label = read_provenance(path), None if labels is None else [int(labels[number])]
            if (settings_in(found), found.get("label")) != (settings, label):
                raise UserError(f"{path} was made by another model or with other settings: give another folder")


def _computed(denoiser: "Denoiser", source: "ModelSource", device: "torch.device") -> "Denoiser":
    """The model, computed by the runtime that is asked for."""
    if source.runtime == "pytorch":
        return denoiser
    if source.runtime not in ("onnxruntime", "onnxruntime-int8"):
        raise UserError(f"unknown runtime {source.runtime!r}")
    if device.type != "cpu":
        raise UserError("onnxruntime computes on the CPU here: add --device cpu, or leave --runtime out")
    import numpy as np

    from undye.data.load import load_images
    from undye.runtimes import accelerated

    if source.runtime == "onnxruntime":
        if source.calibration:
            raise UserError("--calibration is for --runtime onnxruntime-int8: leave it out")
        return accelerated(denoiser)
    if not source.calibration:
        raise UserError("--runtime onnxruntime-int8 needs --calibration: images like those that the model makes")
    config = denoiser.config
    channels = 1 if config.channels == 1 else 3
    images = load_images(source.calibration, image_size=config.image_size, channels=channels, labels="none")
    return accelerated(denoiser, precision="int8", calibration=images.images(np.arange(min(256, len(images)))))


def _check_memory(a: SampleArgs, denoiser: "Denoiser") -> None:
    """Raise a UserError for more samples than can be; in a folder they need not fit the memory."""
    from undye.cli.memory import check_memory
    from undye.pictures import kind_of

    height, width, channels = *denoiser.config.image_size, denoiser.config.channels
    steps = denoiser.schedule.num_steps if a.steps is None else a.steps
    states = min(a.frames, steps) + 2 if a.film else 1
    together = a.film or (a.out and kind_of(a.out) != "folder")
    # in parts and joined, and the sheet; of a folder only what says which there are
    each = 3 * states * height * width * channels if together else 8
    check_memory(a.n, each, f"samples of {height}x{width}")


def _request(a: SampleArgs, denoiser: "Denoiser") -> "SampleRequest":
    """What the flags ask for."""
    from undye.cli.labels import class_numbers
    from undye.sampling import SampleRequest

    config = denoiser.config
    return SampleRequest(
        n=a.n,
        sampler=_sampler(a),
        steps=a.steps,
        grid=a.grid,
        seed=a.seed,
        label=class_numbers(a.label, config.class_names, config.num_classes, a.n),
        guidance=a.guidance,
        guidance_interval=a.guidance_interval,
        guidance_rescale=a.guidance_rescale,
        threshold=a.threshold,
        batch_size=a.batch_size,
        dtype=a.dtype,
    )


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
