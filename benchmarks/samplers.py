"""Every sampler, and diffusers' schedulers stepping our model, by network calls: `python -m benchmarks.samplers MODEL`.

On the same x_T's (and classes, every one in turn, where the model has them): the distance (root mean square of x_0 in
[-1, 1]) to the many-step solution, and the FID in the package's own features against the test images. Each line is
kept as soon as it is there; a run goes on where an earlier one stopped.
"""

import argparse
import json
import multiprocessing
import shlex
import sys
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

import undye
from benchmarks.sampler_lines import Walk, adaptive, aims, contenders
from benchmarks.sampler_report import plot, report
from undye.data.pixels import to_uint8
from undye.denoiser import Denoiser
from undye.files import atomic_path, write_text
from undye.samplers import DenoiserLike, SampleNoise
from undye.samplers.guidance import Conditioned

Line = tuple[str, int]
"""A sampler's name and its network calls; 0 where it takes as many as it takes."""

AIMS = {"ode": "many steps of the ODE", "ancestral": "ancestral sampling in all steps"}

_denoiser: Denoiser
_walks: dict[Line, Walk]


def lines_of(denoiser: Denoiser) -> dict[Line, Walk]:
    """Everything that can be drawn, by name and network calls."""
    walks = {(name, calls): walk for name, calls, walk in (*contenders(denoiser), *adaptive(denoiser)) if walk}
    return walks | {(AIMS[key], 0): walk for key, walk in aims(denoiser).items()}


def start(model: Path, runtime: str) -> None:
    """Make a worker ready: a core of its own, and the model."""
    global _denoiser, _walks
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    _denoiser = undye.load(model)
    if runtime == "onnxruntime":
        _denoiser = undye.accelerated(_denoiser)
    _walks = lines_of(_denoiser)


def draw(line: Line, rows: range) -> tuple[np.ndarray, float]:
    """Some samples of a line, clamped, and the seconds that they took."""
    config, began = _denoiser.config, time.process_time()
    with torch.inference_mode():
        x_T = SampleNoise(0, rows)(torch.empty(len(rows), config.channels, *config.image_size))
        model: DenoiserLike = _denoiser
        if config.num_classes is not None:
            model = Conditioned(_denoiser, torch.arange(rows.start, rows.stop) % config.num_classes)
        x = _walks[line](model, x_T, rows).float().clamp(-1, 1)
    return x.numpy(), time.process_time() - began


class Bench:
    """Draws lines, keeps their samples, and measures them."""

    def __init__(self, args: argparse.Namespace, pool: ProcessPoolExecutor, cache: Path):
        from undye.metrics.bootstrap import resample_weights
        from undye.metrics.extractor import load_extractor
        from undye.metrics.extractor_names import default_extractor
        from undye.metrics.moments import Moments

        self.n, self.batch, self.pool, self.cache = args.n, args.batch, pool, cache
        self.extractor = load_extractor(default_extractor(args.data) or "fashion-mnist")
        source = undye.load_images(args.data, split="test")
        chunks = (np.arange(i, min(i + 1000, len(source))) for i in range(0, len(source), 1000))
        self.reference = Moments.of(np.concatenate([self.extractor(source.images(rows)).pooled for rows in chunks]))
        self.weights = resample_weights(self.n)

    def run(self, line: Line, path: Path) -> float:
        """Draw the samples of a line into a file; the CPU seconds they took."""
        rows = [range(start, min(start + self.batch, self.n)) for start in range(0, self.n, self.batch)]
        parts = list(self.pool.map(draw, [line] * len(rows), rows))
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.save(file, np.concatenate([x for x, _ in parts]))
        return sum(seconds for _, seconds in parts)

    def measure(self, line: Line, num_steps: int) -> dict[str, Any]:
        """One line of the table, without its distances."""
        from undye.metrics.bootstrap import fid_replicates

        found: dict[str, Any] = {"name": line[0], "calls": line[1]}
        path = samples_of(self.cache, line)
        same = samples_of(self.cache, (AIMS["ancestral"], 0))
        if line == ("ancestral, uniform", num_steps) and same.exists():
            path.write_bytes(same.read_bytes())  # the same thing
        else:
            found["cpu_seconds"] = self.run(line, path)
        if line[0] in AIMS.values():
            return found
        features = self.extractor(to_uint8(torch.from_numpy(np.load(path)))).pooled
        replicates = fid_replicates(features, self.reference, self.weights)
        if replicates is not None:
            interval = replicates.interval()
            found |= {"fid": replicates.value, "fid_low": interval.low, "fid_high": interval.high}
            found["fid_replicates"] = replicates.values.tolist()
        return found


def samples_of(cache: Path, line: Line) -> Path:
    """Where the samples of a line are kept."""
    return cache / f"{line[0]}-{line[1]}.npy".replace(": ", "-").replace(", ", "-").replace(" ", "-")


def add_distances(lines: list[dict[str, Any]], cache: Path) -> None:
    """How far each line's samples are from the many-step solutions that have been drawn."""
    for key, name in AIMS.items():
        path = samples_of(cache, (name, 0))
        if path.exists():
            aim = np.load(path)
            for line in lines:
                x = np.load(samples_of(cache, (line["name"], line["calls"])))
                line[f"distance_{key}"] = float(np.sqrt(np.square(x - aim, dtype=np.float64).mean()))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what is not measured yet, write the table and the plot."""
    parser = argparse.ArgumentParser("python -m benchmarks.samplers", description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=25)
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument(
        "--runtime", choices=("pytorch", "onnxruntime"), default="pytorch", help="what computes them all"
    )
    parser.add_argument("--max-calls", type=int, default=1000)
    parser.add_argument("--without", nargs="*", default=(), help="names of lines that are not to be measured now")
    parser.add_argument("--cache", type=Path, default=Path("runs/samplers"), help="what is measured already")
    parser.add_argument("--table", type=Path, help="such as benchmarks/results/samplers.md")
    parser.add_argument("--plot", type=Path, help="such as docs/images/samplers.png")
    args = parser.parse_args(argv)
    cache = args.cache / str(args.n)
    cache.mkdir(parents=True, exist_ok=True)
    target = cache / "lines.json"
    lines = json.loads(target.read_text())["lines"] if target.exists() else []
    done = {(line["name"], line["calls"]) for line in lines}
    denoiser = undye.load(args.model)
    num_steps = denoiser.schedule.num_steps
    # what costs most comes last; the ODE's solution, which most rests on, first
    cost = {(AIMS["ode"], 0): -1, (AIMS["ancestral"], 0): num_steps - 1}
    todo = sorted(lines_of(denoiser), key=lambda line: cost.get(line, line[1]))
    todo = [line for line in todo if line not in done and line[0] not in args.without]
    todo = [line for line in todo if cost.get(line, line[1]) <= args.max_calls]
    if todo:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(args.workers, context, start, (args.model, args.runtime)) as pool:
            bench = Bench(args, pool, cache)
            for line in todo:
                lines.append(bench.measure(line, num_steps))
                about = {"model": str(args.model), "n": args.n, "data": args.data, "runtime": args.runtime}
                write_text(target, json.dumps({**about, "lines": lines}) + "\n")
                shown = {k: v for k, v in lines[-1].items() if k != "fid_replicates"}
                print(json.dumps(shown), flush=True)
    lines = [line for line in lines if line["name"] not in AIMS.values()]
    add_distances(lines, cache)
    for text in (
        told := report(
            lines, args.n, f"python -m benchmarks.samplers {shlex.join(sys.argv[1:] if argv is None else argv)}"
        )
    ):
        print(text)
    if args.table is not None:
        write_text(args.table, "\n".join(told) + "\n")
    if args.plot is not None:
        plot([line for line in lines if line["calls"]], args.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
