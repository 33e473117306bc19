"""Every sampler, and diffusers' schedulers stepping our model, by network calls: `python -m benchmarks.samplers MODEL`.

On the same x_T's (and classes, every one in turn, where the model has them): the distance (root mean square of x_0 in
[-1, 1]) to the many-step solution, and the FID in the package's own features against the test images. Each line is
written as soon as it is there; a run goes on where an earlier one stopped.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import undye
from undye.data.pixels import to_uint8
from undye.denoiser import Denoiser
from undye.files import atomic_path, write_text
from undye.samplers import (
    DDIM,
    DPM2M,
    DPM2MSDE,
    DPM3M,
    RK45,
    Ancestral,
    DenoiserLike,
    Euler,
    Heun,
    Langevin,
    PredictorCorrector,
    SampleNoise,
    Sampler,
    UniPC,
    final,
)  # fmt: skip
from undye.samplers.defaults import choose
from undye.samplers.grid import make_grid
from undye.samplers.guidance import Conditioned

CALLS = (5, 8, 10, 15, 20, 50)
MANY = (100, 1000)
Walk = Callable[[DenoiserLike, Tensor, range], Tensor]
"""(the model with the samples' classes filled in, x_T, the numbers of the samples) -> x_0."""


def ours(denoiser: Denoiser, sampler: Sampler | None, calls: int, grid: str | None = None) -> Walk | None:
    """A sampler of ours that makes exactly this many network calls; None where it cannot."""
    for steps in range(min(calls, denoiser.schedule.num_steps), 0, -1):
        chosen, times = choose(denoiser, sampler, grid, steps)
        made = chosen.calls(denoiser.schedule, times)
        if made is None or made == calls:
            return lambda model, x_T, rows: final(chosen.steps(model, x_T, times, SampleNoise(1, rows)))
        if made < calls:
            return None
    return None


def theirs(denoiser: Denoiser, cls_name: str, calls: int, **options: Any) -> Walk | None:
    """A scheduler of diffusers' on our model, which tells it eps; trailing times, so that it starts at T."""
    import diffusers

    betas = denoiser.schedule.beta[1:].numpy()
    steps = (calls + 1) // 2 if cls_name.startswith("Heun") else calls
    if cls_name.startswith("Heun") and 2 * steps - 1 != calls:
        return None

    def walk(model: DenoiserLike, x: Tensor, rows: range) -> Tensor:
        made = getattr(diffusers, cls_name)(
            num_train_timesteps=len(betas), trained_betas=betas, timestep_spacing="trailing", **options
        )
        made.set_timesteps(steps)
        if hasattr(made, "set_begin_index"):
            made.set_begin_index(
                0
            )  # with Karras' sigmas the first timesteps may be equal, and it would begin at the second
        generator = torch.Generator().manual_seed(rows.start)
        x = x * made.init_noise_sigma
        for t in made.timesteps:
            seen = made.scale_model_input(x, t)
            eps = model(seen, torch.full((len(x),), min(float(t) + 1, len(betas)))).eps
            arguments = {"generator": generator} if "generator" in made.step.__code__.co_varnames else {}
            x = made.step(eps, t, x, **arguments).prev_sample
        return x

    return walk


def contenders(denoiser: Denoiser) -> Iterator[tuple[str, int, Walk | None]]:
    """(name, network calls, how) for every line of the table."""
    named: dict[str, tuple[Sampler | None, str | None]] = {
        "default": (None, None),
        "unipc of order 2, karras": (UniPC(), "karras"),
        "unipc of order 3, karras": (UniPC(order=3), "karras"),
        "unipc of order 2, uniform": (UniPC(), "uniform"),
        "dpm++2m, karras": (DPM2M(), "karras"),
        "dpm++2m, log-snr": (DPM2M(), "log-snr"),
        "dpm++3m, karras": (DPM3M(), "karras"),
        "dpm++2m-sde, karras": (DPM2MSDE(), "karras"),
        "ddim, uniform": (DDIM(), "uniform"),
        "ancestral, uniform": (Ancestral(), "uniform"),
        "euler with churn, karras": (Euler(s_churn=5), "karras"),
        "heun, karras": (Heun(), "karras"),
        "pc, uniform": (PredictorCorrector(), "uniform"),
        "langevin, log-snr": (Langevin(repeats=1), "log-snr"),
    }
    for name, (sampler, grid) in named.items():
        for calls in (*CALLS, *(MANY if name.startswith(("ddim", "ancestral")) else ())):
            yield name, calls, ours(denoiser, sampler, calls, grid)
    plain: dict[str, tuple[str, dict[str, Any]]] = {
        "diffusers DDIM": ("DDIMScheduler", {"clip_sample": True}),
        "diffusers DDPM": ("DDPMScheduler", {"clip_sample": True}),
        "diffusers DPM++ 2M": ("DPMSolverMultistepScheduler", {}),
        "diffusers DPM++ 2M, karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
        "diffusers DPM++ 2M SDE": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
        "diffusers DPM++ 3M": ("DPMSolverMultistepScheduler", {"solver_order": 3}),
        "diffusers UniPC": ("UniPCMultistepScheduler", {}),
        "diffusers UniPC, karras": ("UniPCMultistepScheduler", {"use_karras_sigmas": True}),
        "diffusers Euler": ("EulerDiscreteScheduler", {}),
        "diffusers Heun": ("HeunDiscreteScheduler", {}),
        "diffusers Heun, karras": ("HeunDiscreteScheduler", {"use_karras_sigmas": True}),
    }
    for name, (cls_name, options) in plain.items():
        for calls in (*CALLS, *(MANY if name in ("diffusers DDIM", "diffusers DDPM") else ())):
            yield name, calls, theirs(denoiser, cls_name, calls, **options)


class Bench:
    """The x_T's, the aim, and the measures."""

    def __init__(self, denoiser: Denoiser, n: int, batch: int, cache: Path, data: str):
        from undye.metrics.bootstrap import fid_replicates, resample_weights
        from undye.metrics.extractor import load_extractor
        from undye.metrics.extractor_names import default_extractor
        from undye.metrics.moments import Moments

        self.denoiser, self.n, self.batch = denoiser, n, batch
        self.extractor = load_extractor(default_extractor(data) or "fashion-mnist")
        source = undye.load_images(data, split="test")
        reference = [
            self.extractor(source.images(np.arange(i, min(i + 1000, len(source))))).pooled
            for i in range(0, len(source), 1000)
        ]
        self.reference = Moments.of(np.concatenate(reference))
        self.weights, self.replicates = resample_weights(n), fid_replicates
        self.aims = {}
        for name, sampler, grid, steps in (
            ("ode", UniPC(order=3), "log-snr", 500), ("ancestral", Ancestral(), "uniform", 1000)
        ):  # fmt: skip
            path = cache / f"{name}-{n}.npy"
            if not path.exists():
                times = make_grid(grid, denoiser.schedule, min(steps, denoiser.schedule.num_steps))
                print(f"{name}: the many-step solution", file=sys.stderr, flush=True)
                walk = lambda model, x, rows, s=sampler, g=times: final(s.steps(model, x, g, SampleNoise(1, rows)))  # noqa: E731
                with atomic_path(path) as temporary, temporary.open("wb") as file:
                    np.save(file, self.run(walk)[0].numpy())
            self.aims[name] = torch.from_numpy(np.load(path))

    def run(self, walk: Walk) -> tuple[Tensor, float]:
        """The samples, clamped, and the seconds they took."""
        config, parts, began = self.denoiser.config, [], time.perf_counter()
        with torch.inference_mode():
            for start in range(0, self.n, self.batch):
                rows = range(start, min(start + self.batch, self.n))
                x_T = SampleNoise(0, rows)(torch.empty(len(rows), config.channels, *config.image_size))
                model: DenoiserLike = self.denoiser
                if config.num_classes is not None:
                    model = Conditioned(self.denoiser, torch.arange(rows.start, rows.stop) % config.num_classes)
                parts.append(walk(model, x_T, rows).float().clamp(-1, 1))
        return torch.cat(parts), time.perf_counter() - began

    def measure(self, walk: Walk) -> dict[str, Any]:
        """One line of the table."""
        x, seconds = self.run(walk)
        line: dict[str, Any] = {"seconds": seconds}
        for name, aim in self.aims.items():
            line[f"distance_{name}"] = (x - aim).double().square().mean().sqrt().item()
        features = self.extractor(to_uint8(x)).pooled
        found = self.replicates(features, self.reference, self.weights)
        if found is not None:
            interval = found.interval()
            line |= {"fid": found.value, "fid_low": interval.low, "fid_high": interval.high}
        return line


def plot(lines: list[dict[str, Any]], path: Path) -> None:
    """Distance and FID against network calls; diffusers' dashed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(13, 6), constrained_layout=True)
    for axis, key, label in (
        (axes[0], "distance_ode", "distance to the 500-step ODE solution (RMS)"), (axes[1], "fid", "FID, own features")
    ):  # fmt: skip
        for name in dict.fromkeys(line["name"] for line in lines):
            points = sorted((line["calls"], line[key]) for line in lines if line["name"] == name and key in line)
            if points:
                style = {"linestyle": "--", "alpha": 0.7} if name.startswith("diffusers") else {}
                wide = 3 if name == "default" else 1.2
                axis.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name, linewidth=wide, **style)
        axis.set(xscale="log", yscale="log", xlabel="network calls", ylabel=label)
        axis.set_xticks([*CALLS, *MANY], [str(c) for c in (*CALLS, *MANY)])
        axis.minorticks_off()
    axes[1].legend(fontsize=7, ncols=2)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def main(argv: list[str] | None = None) -> int:
    """Measure what is not measured yet, write the JSON and the plot."""
    parser = argparse.ArgumentParser("python -m benchmarks.samplers", description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--max-calls", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--plot", type=Path, help="such as docs/images/samplers.png")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    target = args.out / f"samplers-{args.n}.json"
    lines = json.loads(target.read_text())["lines"] if target.exists() else []
    done = {(line["name"], line["calls"]) for line in lines}
    denoiser = undye.load(args.model)
    bench = Bench(denoiser, args.n, args.batch, args.out, args.data)
    rk45 = (("rk45, tolerance 0.001", RK45(tolerance=1e-3)), ("rk45, tolerance 0.01", RK45(tolerance=1e-2)))
    todo = [*contenders(denoiser), *((name, 0, ours(denoiser, sampler, 10)) for name, sampler in rk45)]
    todo.sort(key=lambda one: one[1])  # what costs most comes last
    for name, calls, walk in todo:
        if walk is None or (name, calls) in done or calls > args.max_calls:
            continue
        line = {"name": name, "calls": calls, **bench.measure(walk)}
        lines.append(line)
        write_text(target, json.dumps({"model": str(args.model), "n": args.n, "lines": lines}, indent=1) + "\n")
        print(json.dumps(line), flush=True)
    if args.plot is not None:
        plot([line for line in lines if line["calls"]], args.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
