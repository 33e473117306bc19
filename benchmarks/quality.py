"""Sample quality after the same wall-clock time of training, each contender alone and by its own recipe."""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

import undye
from benchmarks.contenders import DDIM_STEPS, PEERS, SAMPLE_BATCH, Diffusers, Peer
from benchmarks.data import Images, batches, say
from undye.metrics.bootstrap import fid_replicates, resample_weights
from undye.metrics.extractor import FeatureExtractor, default_extractor, load_extractor
from undye.metrics.moments import Moments
from undye.pictures import enlarge, make_grid, save_png
from undye.training.events import BudgetSet, Event, Finished, Logged, Started

GRID = 64
Trained = tuple[np.ndarray, dict[str, object]]


def measure(
    images: Images, budget: float, samples: int, out: Path, seed: int, peer_lr: float | None, peer_bf16: bool
) -> dict[str, object]:
    """Train each contender for `budget` seconds, sample it, and compare the samples with the test images.

    Args:
        images: the data.
        budget: seconds from the first step to the last.
        samples: how many to draw of each.
        out: folder for the pictures.
        seed: of all random numbers.
        peer_lr: the peers' learning rate; None: as documented.
        peer_bf16: train the peers under bf16 autocast.

    Returns:
        What peers.json holds under "quality".
    """
    extractor = _extractor(images.name, seed)
    about = {"dims": extractor.dims, "sha256": extractor.hash, **extractor.recipe()["trained"]}
    say(f"classifier: {about['test_accuracy']:.1%} of the test images right")
    reference = Moments.of(extractor(images.test).pooled)

    def distance(name: str, what: np.ndarray) -> dict[str, object]:
        found = fid_replicates(extractor(what).pooled, reference, resample_weights(len(what), seed=seed))
        assert found is not None, "fewer images than features"
        value, spread = found.value, found.interval().standard_error
        say(f"quality: {name}: Frechet distance {value:.2f} (spread {spread:.2f})")
        return {"name": name, "n": len(what), "frechet": value, "spread": spread}

    draw = np.random.default_rng(seed)
    real = images.train[draw.permutation(len(images.train))]
    bounds = [distance(f"real training images ({n:,})", real[:n]) for n in sorted({samples, min(10_000, len(real))})]
    bounds.append(distance("uniform noise", draw.integers(0, 256, (samples, 28, 28, 1), dtype=np.uint8)))

    jobs: dict[str, Callable[[], Trained]] = {"undye": lambda: _undye(images, budget, samples, seed)}
    for kind in PEERS:
        jobs[kind.name] = lambda kind=kind: _peer(kind, images, budget, samples, seed, peer_lr, peer_bf16)
    rows, grids = [], {}
    for name, job in jobs.items():
        drawn, facts = job()
        rows.append({**distance(name, drawn), **facts})
        grids[name] = drawn[:GRID]
        save_png(enlarge(make_grid(grids[name])), out / f"{name}.png")
    side_by_side({**grids, "real": images.test[:GRID]}, out / "peers.png", f"after {budget:g} s of training each")
    return {
        "budget_seconds": budget,
        "samples": samples,
        "ddim_steps": DDIM_STEPS,
        "classifier": about,
        "test_images": len(images.test),
        "bounds": bounds,
        "contenders": rows,
    }


def _extractor(name: str, seed: int) -> FeatureExtractor:
    """The features that ship with undye where they fit the data, else some trained here."""
    known = default_extractor(name)
    if known is not None:
        return load_extractor(known, "cpu")
    with tempfile.TemporaryDirectory() as folder:
        return undye.train_features(name, Path(folder) / "features.safetensors", seed=seed, device="cpu")


def _undye(images: Images, budget: float, samples: int, seed: int) -> Trained:
    """`undye.train(budget=...)` and `undye.sample` as any user would call them."""
    facts: dict[str, object] = {"recipe": "the preset `cpu`"}
    clock = {"start": 0.0}

    def listen(event: Event) -> None:
        match event:
            case Started(lines=lines):
                facts["notes"] = list(lines)
                clock["start"] = time.perf_counter()
            case BudgetSet():
                say(f"quality: undye: {event.total_steps:,} steps fit the budget")
            case Logged():
                say(f"quality: undye: step {event.step:,}, loss {event.loss:.4f}, {event.elapsed:.0f} s")
            case Finished():
                facts.update(steps=event.step, seconds=time.perf_counter() - clock["start"])

    config = undye.run_preset("cpu")
    with tempfile.TemporaryDirectory() as folder:
        model = undye.train(
            images.name, Path(folder) / "run", budget=f"{budget:f}s", seed=seed, device="cpu", listeners=[listen]
        )
    start = time.perf_counter()
    drawn = undye.sample(model, samples, steps=DDIM_STEPS, seed=seed)
    facts.update(batch=config.training.batch_size, lr=config.training.lr, sampling_seconds=time.perf_counter() - start)
    return drawn, facts


def _peer(
    kind: type[Peer], images: Images, budget: float, samples: int, seed: int, lr: float | None, bf16: bool
) -> Trained:
    torch.manual_seed(seed)
    peer = kind(lr, bf16, ema=True) if kind is Diffusers else kind(lr, bf16)
    stream = batches(images.train, kind.recipe_batch, seed)
    start = shown = time.perf_counter()
    while (elapsed := time.perf_counter() - start) < budget:
        loss = peer.step(next(stream), elapsed / budget)
        if time.perf_counter() - shown > budget / 10:
            shown = time.perf_counter()
            say(f"quality: {kind.name}: step {peer.steps_done:,}, loss {loss:.4f}, {shown - start:.0f} s")
    seconds, start, parts = elapsed, time.perf_counter(), []
    for first in range(0, samples, SAMPLE_BATCH):
        parts.append(peer.sample(min(SAMPLE_BATCH, samples - first)))
        if len(parts) % 5 == 0:
            say(f"quality: {kind.name}: {first + len(parts[-1]):,} of {samples:,} samples")
    facts = {"recipe": kind.recipe, "batch": kind.recipe_batch, "lr": peer.lr, "precision": "bf16" if bf16 else "fp32"}
    sampling = time.perf_counter() - start
    return np.concatenate(parts), {**facts, "steps": peer.steps_done, "seconds": seconds, "sampling_seconds": sampling}


def side_by_side(grids: dict[str, np.ndarray], path: Path, caption: str) -> None:
    """One picture of several grids with their names above and a caption below."""
    font = ImageFont.load_default(size=24)
    tiles = [Image.fromarray(enlarge(make_grid(images), 480)[:, :, 0]) for images in grids.values()]
    gap, band = 16, 40
    width = sum(tile.width + gap for tile in tiles) + gap
    sheet = Image.new("L", (width, tiles[0].height + 2 * band + gap), 255)
    pen, x = ImageDraw.Draw(sheet), gap
    for name, tile in zip(grids, tiles, strict=True):
        pen.text((x + tile.width / 2, band / 2 + 4), name, fill=0, font=font, anchor="mm")
        sheet.paste(tile, (x, band + 4))
        x += tile.width + gap
    pen.text((width / 2, sheet.height - band / 2), caption, fill=0, font=font, anchor="mm")
    sheet.save(path)
