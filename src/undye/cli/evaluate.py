"""`undye eval MODEL --data ...`."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from undye.cli.options import Device, Threads, Weights
from undye.cli.parse import parse
from undye.cli.progress import Progress
from undye.data.names import NAMED_DATASETS, parse_image_size
from undye.errors import UserError

RATE_ROWS = 10


@dataclass(frozen=True, kw_only=True)
class EvalArgs:
    """The flags of `undye eval`."""

    model: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="MODEL")]
    """A run folder or a checkpoint folder."""
    data: Annotated[str, tyro.conf.arg(metavar="NAME|PATH")] = ""
    """A named data set (its test images), a folder of images, or an .npz / .npy file."""
    metrics: tuple[Literal["nll", "rate-distortion", "ode", "memorization"], ...] = ("nll",)
    """nll: the variational bound in bits/dim; rate-distortion: the paper's Table 4; ode: the probability-flow ODE's
    likelihood, an independent bound; memorization: are samples nearer to the training images than unseen images?"""
    out: Annotated[str, tyro.conf.arg(metavar="REPORT.json")] = ""
    """Also write everything, with how it was made, as JSON."""
    card: bool = False
    """Also write the numbers into the model card (README.md) of the checkpoint."""
    n: int = 1000
    """Images, drawn from the data by the seed."""
    exact: bool = False
    """Every term of the bound, all T of them, instead of some drawn for each image."""
    draws: int | None = None
    """nll: terms drawn for each image, where not --exact (16)."""
    steps: int | None = None
    """nll, rate-distortion: length of the chain; without it all T."""
    grid: Literal["uniform", "quadratic"] | None = None
    """nll, rate-distortion: how a shorter chain's steps are spread (uniform)."""
    clip: bool | None = None
    """nll, rate-distortion: clip the predicted x_0 to [-1, 1]; without it as the model says."""
    variance: Literal["fixed_small", "fixed_large", "learned_range", "learned"] | None = None
    """nll, rate-distortion: variance of the reverse steps; without it the model's own."""
    tolerance: float | None = None
    """ode: error that the solver allows in a step (0.001)."""
    sigma_min: float | None = None
    """ode: noise where the path starts, in units of [-1, 1] (0.003)."""
    repeats: int | None = None
    """ode: dequantisations of each image (1)."""
    sample_steps: int | None = None
    """memorization: DDIM steps of each sample (50)."""
    held_out: Annotated[str, tyro.conf.arg(metavar="NAME|PATH")] = ""
    """memorization: images that the model was not trained on; without it the data's test split, if it has one."""
    pairs: Annotated[str, tyro.conf.arg(metavar="PAIRS.png")] = ""
    """memorization: also write the nearest samples, each beside its training image."""
    split: Literal["train", "test"] = "test"
    """Which images of a data set that has both."""
    labels: Literal["none", "folders", "auto"] = "none"
    """Give the model the images' classes: none, from sub-folder names, or those that the data bring."""
    image_size: Annotated[str, tyro.conf.arg(metavar="H|HxW")] = ""
    """Resize and crop the images to this; without it they stay as they are."""
    channels: Literal[1, 3] | None = None
    """1 or 3; without it 3 if any image has colour."""
    upscale: bool = False
    """Enlarge images that are smaller than asked instead of leaving them out."""
    seed: int = 0
    """Names the images that are drawn, and all noise."""
    batch_size: int | None = None
    """Network inputs at a time; without it chosen by their size."""
    weights: Weights = "ema"
    device: Device = ""
    threads: Threads = 0


def main(args: list[str]) -> int:
    """Run the command; returns the exit code."""
    a = parse(EvalArgs, args, "undye eval", "Measure how good a model is.")
    if not a.data:
        raise UserError(f"no data: give --data a folder, an .npz file, or one of {', '.join(NAMED_DATASETS)}")
    size = parse_image_size(a.image_size) if a.image_size else None
    if not Path(a.model).exists():
        raise UserError(f"no model at {a.model}: give a run folder or a checkpoint folder")
    if a.out:
        _check_out(Path(a.out))
    given = _given(a)
    if a.card:
        _check_card(a)

    from undye.device import set_threads
    from undye.files import write_text
    from undye.metrics.evaluate import evaluate
    from undye.world import World

    set_threads(a.threads or None)
    world = World(a.device or None)
    bars: dict[str, Progress] = {}

    def tick(metric: str, done: int, total: int) -> None:
        unit = {"ode": "images", "loading": "images"}.get(metric, "network calls")
        if metric not in bars:
            bars[metric] = Progress(metric, unit, quiet=not world.is_main)
        bars[metric](done, total)
        if done == total:
            bars[metric].close()

    try:
        report = evaluate(
            a.model, a.data, a.metrics, n=a.n, **given, seed=a.seed, split=a.split, labels=a.labels,
            image_size=size, channels=a.channels, upscale=a.upscale, batch_size=a.batch_size,
            device=str(world.device), progress=tick, world=world, weights=a.weights,
        )  # fmt: skip
    finally:
        for bar in bars.values():
            bar.close()
    if not report:
        return 0  # another process has it all
    print("\n".join(table(report)))
    if a.out:
        write_text(Path(a.out), json.dumps(report, indent=2, allow_nan=False) + "\n")
        print(a.out)
    if a.card:
        from undye.checkpoint.native import CARD, add_measurements, find_checkpoint
        from undye.metrics.record import measurements

        folder = find_checkpoint(report["model"]["checkpoint"])
        add_measurements(folder, measurements(report))
        print(folder / CARD)
    return 0


def _check_card(a: EvalArgs) -> None:
    """Raise a UserError unless there will be a line for a card, and a card."""
    if a.weights != "ema":
        raise UserError("--card is about the EMA weights: leave --weights raw out, or --card")
    from undye.checkpoint.card import read_measurements
    from undye.checkpoint.load import is_foreign
    from undye.checkpoint.native import find_checkpoint

    if set(a.metrics) == {"rate-distortion"}:
        raise UserError("--card is for numbers, not for a curve: ask for nll or ode too, or leave it out")
    if is_foreign(Path(a.model)):
        raise UserError(f"--card is for undye's own checkpoints: `undye import {a.model} --out DIR` makes one")
    read_measurements(find_checkpoint(a.model))


def _given(a: EvalArgs) -> dict[str, Any]:
    """The settings that were given, each of which must have something to set.

    Raises:
        UserError: for one that has not.
    """
    chain = {"steps": a.steps, "grid": a.grid, "clip": a.clip, "variance": a.variance}
    path = {"tolerance": a.tolerance, "sigma_min": a.sigma_min, "repeats": a.repeats}
    copies = {"sample_steps": a.sample_steps, "held_out": a.held_out or None, "pairs": a.pairs or None}
    bound = {"nll", "rate-distortion"} & set(a.metrics)
    for settings, metrics, there in (
        (chain, "nll and rate-distortion", bound),
        (path, "ode", "ode" in a.metrics),
        (copies, "memorization", "memorization" in a.metrics),
    ):
        if not there and (unused := [k for k, v in settings.items() if v is not None]):
            raise UserError(f"--{unused[0].replace('_', '-')} is for the metrics {metrics}: leave it out")
    exact = a.exact or "rate-distortion" in a.metrics
    if a.draws is not None and (exact or "nll" not in a.metrics):
        raise UserError("--draws is for nll without --exact and rate-distortion, which take every step: leave it out")
    if a.exact and not bound:
        raise UserError("--exact is for the metrics nll and rate-distortion: leave it out")
    draws = {"draws": None} if exact else {} if a.draws is None else {"draws": a.draws}
    return {**{k: v for k, v in {**chain, **path, **copies}.items() if v is not None}, **draws}


def _check_out(out: Path) -> None:
    """Catch an unusable name before the work rather than after it."""
    if out.suffix.lower() != ".json" or out.is_dir():
        raise UserError(f"cannot write the report to {out}: give a .json file")
    parents = [p for p in out.absolute().parents if p.exists()]
    if not parents[0].is_dir():
        raise UserError(f"cannot write the report to {out}: {parents[0]} is not a folder")
    if not os.access(parents[0], os.W_OK) or str(parents[0]).startswith(("/proc", "/sys")):
        raise UserError(f"cannot write the report to {out}: {parents[0]} is not writable")


def table(report: dict[str, Any]) -> list[str]:
    """What the terminal shows of a report."""
    data, found = report["data"], report["metrics"]
    lines = [
        f"model   {report['model']['checkpoint']}" + (", raw weights" if report["model"]["weights"] == "raw" else ""),
        f"data    {data['name']}: {data['n']:,} of {data['images']:,} images",
    ]
    if "nll" in found:
        nll = found["nll"]
        how = "every step" if nll["exact"] else f"{nll['draws']} steps drawn for each image, and the last"
        lines += ["", f"variational bound, {nll['steps']} steps, {nll['variance']} ({how})"]
        names = {"total": "bits/dim", "prior": "  prior", "rate": "  rate", "decoder": "  decoder"}
        lines += [f"  {label:<12}{_number(nll['bits_per_dim'][key])}" for key, label in names.items()]
    if "ode" in found:
        ode = found["ode"]
        lines += ["", f"probability-flow ODE, uniform dequantisation ({ode['network_calls']:.0f} network calls)"]
        lines += [f"  {'bits/dim':<12}{_number(ode['bits_per_dim']['total'])}"]
    if "memorization" in found:
        m = found["memorization"]
        here, there = (m["rms_of_255"][key]["0.5"] for key in ("samples", "held_out"))
        lines += [
            "",
            f"memorization: {m['n']:,} samples and {m['held_out']['n']:,} unseen images against {m['train_images']:,}",
            f"  nearest training image, median RMS of 255: samples {here:.2f}, unseen images {there:.2f}",
            f"  nearer than 99 % of unseen images: {100 * m['near_copies']:.1f} % of the samples "
            f"({100 * m['near_by_chance']:.1f} % by chance)",
            f"  z {m['z']:+.1f} ({'the model copies its training images' if m['z'] < -3 else 'no sign of copying'})",
        ]
    if "rate-distortion" in found:
        curve = found["rate-distortion"]
        lines += ["", "rate-distortion", "  t       rate (bits/dim)  RMSE (of 255)"]
        k = len(curve["t"])
        rows = sorted({round(i * (k - 1) / RATE_ROWS) for i in range(RATE_ROWS + 1)})
        for i in rows:
            lines.append(f"  {curve['t'][i]:<8}{curve['rate_bits_per_dim'][i]:<17.5f}{curve['rmse'][i]:.3f}")
    return lines


def _number(estimate: dict[str, float | None]) -> str:
    mean, error = estimate["mean"], estimate["standard_error"]
    assert mean is not None
    if mean != 0 and abs(mean) < 1e-3:
        return f"{mean:.2g}" + (f"  +- {error:.1g}" if error is not None else "")
    return f"{mean:.4f}" + (f"  +- {error:.4f}" if error is not None else "")
