"""undye against denoising-diffusion-pytorch and diffusers: `python -m benchmarks.peers`. See README.md."""

import argparse
import json
import os
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# tqdm reads this when it is imported; the peers' samplers would draw a bar for every batch
os.environ.setdefault("TQDM_DISABLE", "1")


PACKAGES = ("denoising-diffusion-pytorch", "diffusers")


def main(argv: list[str] | None = None) -> int:
    """Measure, print a Markdown report, write it with all raw numbers into a folder."""
    arguments = sys.argv[1:] if argv is None else argv
    args = _parse(arguments)
    missing = [package for package in PACKAGES if find_spec(package.replace("-", "_")) is None]
    if missing:
        print(f"error: the peers are not installed: pip install {' '.join(missing)}", file=sys.stderr)
        return 2
    import torch

    from benchmarks import quality, speed
    from benchmarks.data import load, machine, say
    from benchmarks.report import markdown
    from undye.errors import UserError
    from undye.training.run import parse_duration

    torch.set_num_threads(args.threads)
    try:
        images, budget = load(args.data), parse_duration(args.budget)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "benchmarks.peers", *arguments]),
        "settings": {**vars(args), "out": str(args.out)},
        "data": f"{images.name} ({len(images.train):,} training images)",
        "machine": machine(),
    }

    def write() -> str:
        text = markdown(result)
        (args.out / "peers.json").write_text(json.dumps(result, indent=1) + "\n")
        (args.out / "peers.md").write_text(text)
        return text

    if not args.skip_speed:
        result["speed"] = speed.measure(images, args.batch, args.rounds, args.turn_seconds, args.seed, args.peer_bf16)
        write()
    if not args.skip_quality:
        result["quality"] = quality.measure(
            images, budget, args.samples, args.out, args.seed, args.peer_lr, args.peer_bf16
        )
    say(f"written to {args.out}")
    print(f"\n{write()}")
    return 0


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.peers", description=__doc__)
    parser.add_argument("--budget", default="5m", help="training time of each contender, such as 90s or 5m")
    parser.add_argument("--data", help="labelled 28x28 greyscale data; default: fashion-mnist if here, or fashion-mini")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder of the results")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads for everyone")
    parser.add_argument("--samples", type=int, default=2000, help="samples of each contender")
    parser.add_argument("--batch", type=int, help="images per step in the speed part; default: undye's preset")
    parser.add_argument("--rounds", type=int, default=9, help="turns of each contender in the speed part")
    parser.add_argument("--turn-seconds", type=float, default=3.0, help="length of a turn")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peer-lr", type=float, help="another learning rate for the peers than their documentation's")
    parser.add_argument("--peer-bf16", action="store_true", help="give the peers bf16 autocast too")
    parser.add_argument("--skip-speed", action="store_true")
    parser.add_argument("--skip-quality", action="store_true")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
