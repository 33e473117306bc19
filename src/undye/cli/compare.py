"""`undye compare A B ... --data ...`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from undye.cli.bars import Bars
from undye.cli.eval_table import compare_table
from undye.cli.evaluate import check_out, sampler_of
from undye.cli.options import Device, Threads, Weights
from undye.cli.parse import parse
from undye.cli.settings import Set, joined
from undye.data.names import HUB, NAMED_DATASETS, parse_image_size
from undye.errors import UserError

IN_FEATURES = ("fid", "kid", "is", "pr", "sfid")


@dataclass(frozen=True, kw_only=True)
class CompareArgs:
    """The flags of `undye compare`."""

    models: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="MODEL MODEL ...")] = ()
    """Models or images, as `undye eval` takes them: run folders, checkpoints, folders, .npz files, named data sets."""
    data: Annotated[str, tyro.conf.arg(metavar="NAME|PATH")] = ""
    """What to measure on and beside: a named data set (its test images), a folder of images, or an .npz / .npy file."""
    metrics: tuple[Literal["nll", "ode", "fid", "kid", "is", "pr", "sfid"], ...] = ("fid", "kid")
    """fid (and FID-infinity), kid, is (Inception Score), pr (precision, recall, density, coverage), sfid. What models
    say of the data's images, all of the same ones: nll (the variational bound in bits/dim), ode (the probability-flow
    ODE's likelihood)."""
    out: Annotated[str, tyro.conf.arg(metavar="REPORT.json")] = ""
    """Also write everything, with how it was made, as JSON."""
    n: int | None = None
    """Samples of each model, images of each set, and images of the data for the likelihoods; without it 10,000 samples,
    all images, and 1,000 images."""
    exact: bool = False
    """nll: every term of the bound, all T of them, instead of some drawn for each image."""
    draws: int | None = None
    """nll: terms drawn for each image, where not --exact (16)."""
    steps: int | None = None
    """nll: length of the chain; without it all T."""
    grid: Literal["uniform", "quadratic"] | None = None
    """nll: how a shorter chain's steps are spread (uniform)."""
    clip: bool | None = None
    """nll: clip the predicted x_0 to [-1, 1]; without it as each model says."""
    variance: Literal["fixed_small", "fixed_large", "learned_range", "learned"] | None = None
    """nll: variance of the reverse steps; without it each model's own."""
    tolerance: float | None = None
    """ode: error that the solver allows in a step (0.001)."""
    sigma_min: float | None = None
    """ode: noise where the path starts, in units of [-1, 1] (0.003)."""
    repeats: int | None = None
    """ode: dequantisations of each image (1)."""
    labels: Literal["none", "folders", "auto"] | None = None
    """nll, ode: give the models the images' classes: none, from sub-folder names, or those that the data bring."""
    sampler: str = ""
    """How samples are drawn; without it as `undye sample` does, as for the next two."""
    sampler_options: Annotated[tuple[str, ...], tyro.conf.arg(metavar="KEY=VALUE")] = ()
    """The sampler's options, such as eta=1 or clip=false."""
    sample_steps: int | None = None
    """Steps of the grid."""
    sample_grid: str = ""
    """How the steps are spread over the times."""
    guidance: float | None = None
    """Classifier-free guidance (1), for models with labels, which draw sample i of class i mod K."""
    samples: Annotated[str, tyro.conf.arg(metavar="DIR")] = ""
    """Keep the samples in this folder; without it in the cache. What is there already is checked, not drawn again."""
    features: Annotated[str, tyro.conf.arg(metavar="NAME|FILE")] = ""
    """What fid and its kin are measured in, see `undye eval --help`."""
    split: Literal["train", "test"] = "test"
    """Which images of a data set that has both."""
    image_size: Annotated[str, tyro.conf.arg(metavar="H|HxW")] = ""
    """Resize and crop all images to this; without it they stay as they are."""
    channels: Literal[1, 3] | None = None
    """1 or 3; without it 3 if any image has colour."""
    upscale: bool = False
    """Enlarge images that are smaller than asked instead of leaving them out."""
    seed: int = 0
    """Names the images that are drawn and all noise: sample i of every model begins with the same."""
    batch_size: int | None = None
    """Network inputs at a time; without it chosen by their size."""
    weights: Weights = "ema"
    set: Set = ()
    device: Device = ""
    threads: Threads = 0


def main(args: list[str]) -> int:
    """Run the command; returns the exit code."""
    a = parse(CompareArgs, joined(args), "undye compare", "Measure several models or folders of images, and compare.")
    if not a.data:
        raise UserError(f"no data: give --data a folder, an .npz file, or one of {', '.join(NAMED_DATASETS)}")
    size = parse_image_size(a.image_size) if a.image_size else None
    for model in a.models:
        if not Path(model).exists() and model not in NAMED_DATASETS and not model.startswith(HUB):
            raise UserError(f"no model at {model}: give run folders or checkpoint folders, or images")
    if a.out:
        check_out(Path(a.out))
    given = _given(a)

    from undye.checkpoint.imported import Settings
    from undye.device import set_threads
    from undye.files import write_text
    from undye.metrics.compare import compare
    from undye.metrics.findings import UnfinishedReport
    from undye.world import World

    set_threads(a.threads or None)
    world = World(a.device or None)
    unfinished: UnfinishedReport | None = None
    try:
        with Bars(quiet=not world.is_main) as bars:
            report = compare(
                a.models, a.data, a.metrics, n=a.n, **given, out=a.out or None, seed=a.seed, split=a.split,
                image_size=size, channels=a.channels, upscale=a.upscale, batch_size=a.batch_size,
                device=str(world.device), progress=bars, world=world, weights=a.weights,
                settings=Settings.parse(a.set).values,
            )  # fmt: skip
    except UnfinishedReport as error:
        report, unfinished = error.report, error
    if not report:
        return 0  # another process has it all
    print("\n".join(compare_table(report)))
    if a.out:
        write_text(Path(a.out), json.dumps(report, indent=2, allow_nan=False) + "\n")
        print(a.out)
    if unfinished is not None:
        raise unfinished
    return 0


def _given(a: CompareArgs) -> dict[str, Any]:
    """The settings that were given, each of which must have something to set.

    Raises:
        UserError: for one that has not.
    """
    chain = {"draws": a.draws, "steps": a.steps, "grid": a.grid, "clip": a.clip, "variance": a.variance}
    path = {"tolerance": a.tolerance, "sigma_min": a.sigma_min, "repeats": a.repeats}
    drawn = {
        "sampler": sampler_of(a.sampler, a.sampler_options), "sample_steps": a.sample_steps,
        "sample_grid": a.sample_grid or None, "guidance": a.guidance, "samples": a.samples or None,
        "features": a.features or None,
    }  # fmt: skip
    given: dict[str, Any] = {}
    for settings, metrics in (
        ({**chain, "exact": a.exact or None}, ("nll",)),
        (path, ("ode",)),
        ({"labels": a.labels}, ("nll", "ode")),
        (drawn, IN_FEATURES),
    ):
        known = {k: v for k, v in settings.items() if v is not None}
        if known and not set(metrics) & set(a.metrics):
            raise UserError(f"--{next(iter(known)).replace('_', '-')} is for {', '.join(metrics)}: leave it out")
        given |= known
    if given.pop("exact", False):
        if a.draws is not None:
            raise UserError("--draws is for nll without --exact, which takes every step: leave one of them out")
        given["draws"] = None
    return given
