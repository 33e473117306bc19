"""What the exact variational bound costs beside the bare network calls that it cannot do without.

In each round both are timed, in random order: `undye.bits_per_dim` of a few images, all T terms of each; and the same
number of inputs of the same shape through the network alone, in the same batches. The ratio of a round is what counts.

    python -m benchmarks.likelihood [--rounds 9] [--images 2] [--threads 2]
"""

import argparse
import platform
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch

import undye
from benchmarks.turns import take_turns
from undye.device import default_batch
from undye.files import write_text


def bound(denoiser: undye.Denoiser, images: np.ndarray) -> Callable[[], None]:
    def run() -> None:
        undye.bits_per_dim(denoiser, images)

    return run


def bare(denoiser: undye.Denoiser, images: np.ndarray) -> Callable[[], None]:
    calls, batch = len(images) * denoiser.schedule.num_steps, default_batch(*images.shape[1:3])
    x = torch.randn(batch, images.shape[3], *images.shape[1:3])
    t = torch.linspace(0, 1000, batch)

    def run() -> None:
        with torch.inference_mode():
            for start in range(0, calls, batch):
                n = min(batch, calls - start)
                denoiser.network(x[:n], t[:n], None)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description="The exact bound beside the bare network calls.")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--images", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", default="benchmarks/results/likelihood.md")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    rows = []
    for preset, channels, size in (("cpu", 1, 28), ("cpu", 3, 32)):
        denoiser = undye.Denoiser.from_preset(preset, image_size=(size, size), channels=channels).eval()
        images = np.random.default_rng(0).integers(0, 256, (args.images, size, size, channels), dtype=np.uint8)
        contenders = {"bound": bound(denoiser, images), "bare": bare(denoiser, images)}
        rounds = take_turns(contenders, args.rounds)
        ratios, seconds = [r["bound"] / r["bare"] for r in rounds], [r["bare"] for r in rounds]
        terms = args.images * denoiser.schedule.num_steps
        rows.append(
            f"| `{preset}`, {size}x{size}x{channels} | {median(ratios):.3f} | {min(ratios):.3f} to {max(ratios):.3f} "
            f"| {1000 * median(seconds) / terms:.2f} ms |"
        )
    command = f"python -m benchmarks.likelihood --rounds {args.rounds} --images {args.images} --threads {args.threads}"
    text = "\n".join(
        [
            "# The exact variational bound beside the bare network calls",
            "",
            f"`{command}`, torch {torch.__version__}, {platform.machine()}.",
            "Time of all T = 1000 terms of each image, over that of the network calls alone; float32.",
            "",
            "| network | median ratio | range | bare call |",
            "|---|---|---|---|",
            *rows,
            "",
        ]
    )
    print(text)
    write_text(Path(args.out), text)


if __name__ == "__main__":
    main()
