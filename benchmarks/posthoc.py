"""How close post-hoc EMA comes to averages that were tracked, and what tracking costs; see docs/ema.md.

    python -m benchmarks.posthoc --steps 2000 --cost 30

trains the CPU preset's network, made small, and tracks an average of each length beside the two that are stored; then
makes each length from snapshots at several distances. `--cost N` times N updates of the whole CPU preset's averages
against N of its steps.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import undye
from undye.data import load_images
from undye.training.batches import BatchStream
from undye.training.ema import PowerEMA
from undye.training.posthoc import Averages, Snapshots, write_snapshot
from undye.training.profile import fit, gamma_of, step_weights
from undye.training.setup import build_model, build_objective
from undye.training.trainer import Trainer
from undye.world import World

STORED = (0.05, 0.10)
WANTED = (0.02, 0.03, 0.05, 0.075, 0.10, 0.15, 0.20, 0.25)
SNAPSHOTS = (100, 50, 20, 10)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--cost", type=int, default=0)
    a = parser.parse_args()
    torch.set_num_threads(1)
    walk(a.steps)
    trained(a.steps)
    if a.cost:
        cost(a.cost)


def row(std: float, cells: Iterable[str]) -> None:
    """A line of a table."""
    print(f"| {std:g} | {' | '.join(cells)} |")


def head(what: str) -> None:
    """The first lines of a table."""
    print(f"\n{what}\n\n| std | {' | '.join(f'{n} snapshots' for n in SNAPSHOTS)} |\n|---|{'---|' * len(SNAPSHOTS)}")


def walk(steps: int, n: int = 500) -> None:
    """Weights that walk, drift and shake, each by about their own size: the averages by their definition, float32."""
    rng = np.random.default_rng(0)
    theta = rng.normal(size=(1, n)) + np.linspace(1, 0, steps)[:, None] ** 2 * rng.normal(size=(1, n))
    theta = theta + np.cumsum(rng.normal(size=(steps, n)), 0) / steps**0.5 + rng.normal(size=(steps, n)) * 0.1
    for name, solve in (("shares of weight (undye)", fit_one), ("densities (the paper)", by_densities)):
        head(f"synthetic weights, fit of {name}: error over the weights' size / over their distance from the average")
        for std in WANTED:
            direct, cells = step_weights(std, steps) @ theta, []
            for count in SNAPSHOTS:
                at = np.repeat(np.arange(steps // count, steps + 1, steps // count), 2)
                stds = np.tile(STORED, count)
                pairs = zip(at.tolist(), stds.tolist(), strict=True)
                have = np.stack([step_weights(s, k) @ theta[:k] for k, s in pairs])
                error = solve(at, stds, steps, std) @ have.astype(np.float32) - direct
                size, change = np.linalg.norm(direct), np.linalg.norm(direct - theta[-1])
                cells.append(f"{np.linalg.norm(error) / size:.0e} / {np.linalg.norm(error) / change:.0e}")
            row(std, cells)


def fit_one(steps: np.ndarray, stds: np.ndarray, step: int, std: float) -> np.ndarray:
    """The coefficients of undye."""
    return fit(steps, stds, step, [std])[0][:, 0]


def by_densities(steps: np.ndarray, stds: np.ndarray, step: int, std: float) -> np.ndarray:
    """Least squares on the densities of the weights over time, brought to the sum 1 (Karras et al. 2024, app. C)."""
    at, g = np.append(steps / step, 1.0), np.array([gamma_of(s) + 1 for s in [*stds.tolist(), std]])
    less = np.minimum(at[:, None], at)
    inner = g[:, None] * g / (g[:, None] + g - 1) / less * (less / at[:, None]) ** g[:, None] * (less / at) ** g
    x = np.linalg.solve(inner[:-1, :-1], inner[:-1, -1])
    return x / x.sum()


def trainer(
    network: undye.CompactConfig | None = None, batch_size: int = 64
) -> tuple[Trainer, BatchStream, undye.ModelConfig]:
    """The CPU preset on fashion-mini, with another network if one is given."""
    config = replace(undye.run_preset("cpu"), data="fashion-mini")
    source = load_images("fashion-mini", image_size=(28, 28) if network is None else (12, 12))
    if network is not None:
        config = replace(config, model=replace(config.model, network=network))
    training = replace(config.training, steps=10**6, batch_size=batch_size, precision="fp32", decay="none")
    config, denoiser = build_model(replace(config, training=training), source)
    made = Trainer(denoiser, build_objective(config), training, 0, World("cpu"))
    return made, BatchStream(source, training.batch_size, 0), config.model


def trained(steps: int) -> None:
    """A real run."""
    small = undye.CompactConfig(channels=(16, 32), blocks=(1, 1), head_channels=16)
    made, stream, config = trainer(small, batch_size=8)
    made.config = replace(made.config, decay="linear")
    made.total_steps = steps
    network = made.denoiser.network
    direct, stored = PowerEMA(network, WANTED), PowerEMA(network, STORED)
    with tempfile.TemporaryDirectory() as folder:
        for event in made.steps(stream.since(0)):
            direct.update(network, event.step)
            stored.update(network, event.step)
            if event.step % (steps // SNAPSHOTS[0]) == 0:
                path = Path(folder) / "ema" / f"{event.step}.safetensors"
                write_snapshot(path, Averages(event.step, stored.network_states(network), config, {}))
        everything, raw = Snapshots.of(folder), flat(network.parameters())
        own, names = network.state_dict(), {name for name, _ in network.named_parameters()}
        head("a real run: error over the weights' size / over their distance from the average")
        for std in WANTED:
            tracked, cells = flat(direct.averages[std].values()), []
            for count in SNAPSHOTS:
                stride = SNAPSHOTS[0] // count
                some = slice(stride - 1, None, stride)
                snapshots = Snapshots(everything.run, everything.paths[some], everything.headers[some])
                found = snapshots.sum(fit(*snapshots.known, steps, [std])[0][:, 0], own, names)
                error = (flat(found[name] for name in direct.averages[std]) - tracked).norm()
                cells.append(f"{error / tracked.norm():.0e} / {error / (tracked - raw).norm():.0e}")
            row(std, cells)


def flat(tensors: Iterable[Tensor]) -> Tensor:
    """All of them in a row, in float64."""
    return torch.cat([t.detach().double().flatten() for t in tensors])


def cost(rounds: int) -> None:
    """Seconds of the CPU preset's steps, of the update of its averages, and of a snapshot; by turns, medians."""
    made, stream, config = trainer()
    averages, times = PowerEMA(made.denoiser.network, STORED), {"step": [], "update": [], "snapshot, loop": []}
    size = sum(p.numel() for p in made.parameters)
    network, batches = made.denoiser.network, iter(stream.since(0))
    for _ in range(rounds):
        batch = next(batches)
        for name, work in (
            ("step", lambda batch=batch: next(iter(made.steps([batch])))),
            ("update", lambda: averages.update(network, made.step)),
            ("snapshot, loop", lambda: averages.network_states(network)),
        ):
            start = time.process_time()  # of this process: others on the machine do not count
            work()
            times[name].append(time.process_time() - start)
    middle = {name: float(np.median(t)) for name, t in times.items()}
    print(f"\n{size:,} weights, {torch.get_num_threads()} thread")
    for name, seconds in middle.items():
        print(f"{name:<16}{1e3 * seconds:8.2f} ms  {seconds / middle['step']:.2%} of a step")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "1.safetensors"
        write_snapshot(path, Averages(1, averages.network_states(network), config, {}))
        print(f"snapshot        {os.path.getsize(path) / 1e6:8.2f} MB; in memory {2 * 8 * size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
