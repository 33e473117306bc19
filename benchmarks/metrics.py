"""Whether the metrics order images as they must, what the number of samples does to them, and what they cost.

    python -m benchmarks.metrics MODEL [--data fashion-mnist] [--sizes 500 1000 2000 5000 10000]

Real images, degraded ones and a trained model's samples beside the test images, at several numbers of samples, all
through `undye.evaluate`. It stops unless the order is what it must be, and writes metrics.json, metrics.md and the plot
of the bias, docs/images/metrics-n.png.
"""

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import psutil

import undye
from undye.data.load import load_images
from undye.data.source import ImageSource

ROOT = Path(__file__).parents[1]
STEPS = 20
NUMBERS = ("fid", "kid", "precision", "recall", "density", "coverage")
METRICS = ("fid", "kid", "pr")


def main() -> None:
    """Run everything that is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.metrics")
    parser.add_argument("model", help="a trained model of the data set")
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--sizes", type=int, nargs="+", default=[500, 1000, 2000, 5000, 10_000])
    parser.add_argument("--sampler", default="ddim")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--features", default=None)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--plot", type=Path, default=ROOT / "docs" / "images" / "metrics-n.png")
    parser.add_argument("--cost", nargs=3, help=argparse.SUPPRESS)  # one measurement, in a process of its own
    options = parser.parse_args()
    if options.cost:
        _one_cost(options.data, options.features, *options.cost)
        return
    options.sizes.sort()
    result: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "benchmarks.metrics", *sys.argv[1:]]), "sizes": options.sizes,
    }  # fmt: skip
    train = load_images(options.data, split="train")
    most = min(options.sizes[-1], len(train))
    sets = degraded(train, most, options.seed)
    rows: list[dict[str, Any]] = []
    for name, images in sets.items():
        # the reference set against itself, and degradations, at the largest n; what the plot shows at every n
        for n in options.sizes if name in ("training images", "blurred") else [most]:
            rows.append(measured(name, images, n, options))
    for n in options.sizes:
        rows.append(measured("model", options.model, n, options))
    result["rows"] = rows
    result["cost"] = [cost(options, n) for n in (most, 5 * most)]
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "metrics.json").write_text(json.dumps(result, indent=2) + "\n")
    (options.out / "metrics.md").write_text(markdown(result))
    plot(rows, options.plot)
    print(markdown(result))
    check(rows, options.sizes)


def degraded(train: ImageSource, n: int, seed: int) -> dict[str, np.ndarray]:
    """Training images, chosen by the seed, and what becomes of them."""
    draw = np.random.default_rng(seed)
    chosen = draw.permutation(len(train))[:n]
    images, labels = train.images(chosen), train.labels(chosen)
    sets = {"training images": images, "blurred": blurred(images)}
    if labels is not None:
        kept = draw.permutation(len(train))
        kept = kept[np.isin(train.labels(kept), np.unique(labels)[1:])][:n]
        sets["one class missing"] = train.images(kept)
    sets["noisy"] = np.clip(images + draw.normal(0, 25, images.shape), 0, 255).round().astype(np.uint8)
    sets["uniform noise"] = draw.integers(0, 256, images.shape, dtype=np.uint8)
    return sets


def blurred(images: np.ndarray) -> np.ndarray:
    """The mean of each pixel and its four neighbours."""
    padded = np.pad(images.astype(np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    around = padded[:, :-2, 1:-1] + padded[:, 2:, 1:-1] + padded[:, 1:-1, :-2] + padded[:, 1:-1, 2:]
    return ((around + images) / 5).round().astype(np.uint8)


def measured(name: str, what: Any, n: int, options: argparse.Namespace) -> dict[str, Any]:
    """One row of the table."""
    started = time.perf_counter()
    report = undye.evaluate(
        what, options.data, METRICS, n=n, sampler=options.sampler, sample_steps=options.steps, seed=options.seed,
        features=options.features, device="cpu", channels=1 if options.data.startswith("fashion") else None,
    )  # fmt: skip
    found = report["metrics"]
    fid = found["fid"]
    row = {
        "name": name, "n": fid["n"], "fid": fid["value"], "interval": [fid["interval"][k] for k in ("low", "high")],
        "expected_bias": fid["expected_bias"], "infinity": fid["infinity"] and fid["infinity"]["value"],
        "kid": found["kid"]["value"], **{k: found["pr"][k]["value"] for k in NUMBERS[2:]},
        "features": report["features"]["sha256"], "seconds": time.perf_counter() - started,
    }  # fmt: skip
    print(f"metrics: {name}, n = {n:,}: FID {row['fid']:.3f}, {row['seconds']:.0f} s", file=sys.stderr, flush=True)
    return row


def check(rows: list[dict[str, Any]], sizes: list[int]) -> None:
    """Stop unless the numbers are ordered as they must be.

    Raises:
        SystemExit: naming the first that is not.
    """
    n = max(row["n"] for row in rows)
    at = {row["name"]: row for row in rows if row["n"] == n}

    def demand(true: bool, says: str) -> None:
        if not true:
            raise SystemExit(f"metrics: not as it must be: {says}")

    floor = at["training images"]
    for name, row in at.items():
        demand(name == "training images" or row["fid"] > floor["fid"], f"{name} is nearer than the floor")
        demand(name == "training images" or row["kid"] > floor["kid"], f"{name} has a lower KID than the floor")
    demand(at["uniform noise"]["fid"] == max(r["fid"] for r in at.values()), "uniform noise is not the farthest")
    if "one class missing" in at:
        demand(at["one class missing"]["recall"] < floor["recall"], "a missing class does not lower recall")
        demand(at["one class missing"]["coverage"] < floor["coverage"], "a missing class does not lower coverage")
    for name in ("training images", "model"):
        values = [row["fid"] for row in sorted((r for r in rows if r["name"] == name), key=lambda r: r["n"])]
        demand(sizes[-1] < 10 * sizes[0] or values[0] > values[-1], f"the FID of the {name} does not fall with n")
        bias = [r["expected_bias"] for r in rows if r["name"] == name]
        demand(all(a > b for a, b in pairwise(bias)), f"the expected bias of the {name} does not fall")


def cost(options: argparse.Namespace, n: int) -> dict[str, Any]:
    """Seconds and memory of measuring n images, in a process of its own, without and with what the cache keeps."""
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(2):
            command = [
                sys.executable, "-m", "benchmarks.metrics", options.model, "--data", options.data,
                *(["--features", options.features] if options.features else []), "--cost", str(n), folder, "x",
            ]  # fmt: skip
            done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
            runs.append(json.loads(done.stdout.splitlines()[-1]))
    return {"n": n, "first": runs[0], "again": runs[1]}


def _one_cost(data: str, features: str | None, n: str, folder: str, _: str) -> None:
    """Measure n images (a mapped file: training images, again and again) in features; print what it took."""
    import os

    os.environ["UNDYE_CACHE"] = folder
    path = Path(folder) / "images.npy"
    train = load_images(data, split="train")
    if not path.exists():
        shape = (int(n), *train.image_size, train.channels)
        file = np.lib.format.open_memmap(path, "w+", np.uint8, shape)
        for start in range(0, int(n), 1000):
            rows = np.arange(start, min(start + 1000, int(n))) % len(train)
            file[start : start + len(rows)] = train.images(rows)
        file.flush()
    del train
    before, started = _own_memory(), time.perf_counter()
    with Peak() as peak:
        undye.evaluate(path, data, ("fid",), features=features, device="cpu", channels=1)
    seconds = time.perf_counter() - started
    print(json.dumps({"seconds": seconds, "peak_mb": peak.mb, "peak_mb_before": before}))


class Peak:
    """The most memory of its own that this process has within the block, in MB; pages of mapped files do not count."""

    def __enter__(self) -> "Peak":
        self.mb, self._stop = _own_memory(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            self.mb = max(self.mb, _own_memory())

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def _own_memory() -> float:
    """Resident memory in MB without that of files (Linux)."""
    memory = psutil.Process().memory_info()
    return (memory.rss - memory.shared) / 1024**2


def markdown(result: dict[str, Any]) -> str:
    """The tables."""
    lines = [
        "# The metrics on images whose order is known", "", f"`{result['command']}`", "",
        "| images | n | FID (95 %) | expected bias | FID-infinity | KID | precision | recall | density | coverage |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]  # fmt: skip
    for row in result["rows"]:
        low, high = row["interval"]
        infinity = "-" if row["infinity"] is None else f"{row['infinity']:.3f}"
        rest = " | ".join(f"{row[k]:.3f}" for k in NUMBERS[2:])
        lines.append(
            f"| {row['name']} | {row['n']:,} | {row['fid']:.3f} ({low:.3f} to {high:.3f}) "
            f"| {row['expected_bias']:+.3f} | {infinity} | {row['kid']:.5f} | {rest} |"
        )
    lines += [
        "",
        "| images measured (FID) | seconds | again, with what is kept | peak memory, MB |",
        "|---:|---:|---:|---:|",
    ]
    for row in result["cost"]:
        first, again = row["first"], row["again"]
        lines.append(f"| {row['n']:,} | {first['seconds']:.1f} | {again['seconds']:.1f} | {first['peak_mb']:.0f} |")
    return "\n".join([*lines, ""])


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """FID over the number of samples, with its interval, and what is left of it when the bias is taken out."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    names = ("training images", "blurred", "model")
    figure, axes = plt.subplots(1, len(names), figsize=(10.5, 3.4), layout="constrained")
    for axis, name in zip(axes, names, strict=True):
        own = sorted((r for r in rows if r["name"] == name), key=lambda r: r["n"])
        n, fid = [r["n"] for r in own], np.array([r["fid"] for r in own])
        error = np.abs(np.array([r["interval"] for r in own]).T - fid)
        axis.errorbar(n, fid, error, marker="o", capsize=3, label="FID")
        axis.plot(n, fid - [r["expected_bias"] for r in own], marker="s", ls="--", label="FID less its expected bias")
        known = [(r["n"], r["infinity"]) for r in own if r["infinity"] is not None]
        axis.plot(*zip(*known, strict=True), marker="^", ls=":", label="FID-infinity")
        axis.set(title=name, xscale="log", xlabel="samples")
        axis.set_xticks(n, [f"{k:,}" for k in n], rotation=45)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("FID")
    axes[0].legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
