"""The paper's CIFAR-10 network here and in diffusers: the same architecture, weights and input, in one run.

Forward pass and training step (forward, backward, Adam) in turns, in random order; the ratio within a round is what
counts. Beside it, the share of the machine's own convolution rate that each reaches: that rate is measured in the same
rounds, by the network's largest kind of layer alone.

    python -m benchmarks.unet [--rounds 5] [--batch 4] [--threads 2]
"""

import argparse
import copy
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import undye
from benchmarks.turns import take_turns
from undye.files import write_text
from undye.networks.names_diffusers import to_diffusers_config, to_diffusers_weights
from undye.networks.spec import UNetSpec

CHANNELS, SIDE = 256, 16


def pair() -> tuple[nn.Module, nn.Module]:
    """Our network and theirs, with the same weights."""
    spec = UNetSpec(config=undye.UNetConfig(dropout=0.0), image_size=(32, 32))
    ours = spec.build()
    config = {k: v for k, v in to_diffusers_config(spec).items() if not k.startswith("_")}
    theirs = UNet2DModel(**config)
    theirs.load_state_dict(to_diffusers_weights(ours.state_dict()))
    return ours.to(memory_format=torch.channels_last), theirs


def answer(network: nn.Module, x: Tensor, t: Tensor) -> Tensor:
    out = network(x, t)
    return out if isinstance(out, Tensor) else out.sample


def forward(network: nn.Module, x: Tensor, t: Tensor) -> Callable[[], None]:
    def run() -> None:
        with torch.inference_mode():
            answer(network, x, t)

    return run


def training(network: nn.Module, x: Tensor, t: Tensor) -> Callable[[], None]:
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-5, fused=True)

    def run() -> None:
        answer(network, x, t).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def convolution(batch: int) -> Callable[[], None]:
    layer = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1).to(memory_format=torch.channels_last)
    x = torch.randn(batch, CHANNELS, SIDE, SIDE).to(memory_format=torch.channels_last)

    def run() -> None:
        with torch.inference_mode():
            for _ in range(10):
                layer(x)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description="The CIFAR-10 network beside diffusers'.")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", default="benchmarks/results/unet.md")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    ours, theirs = pair()
    theirs_last = copy.deepcopy(theirs).to(memory_format=torch.channels_last)
    x, t = torch.randn(args.batch, 3, 32, 32), torch.full((args.batch,), 500.0)
    ours_x = x.to(memory_format=torch.channels_last)
    with torch.no_grad():
        difference = (answer(ours, ours_x, t) - answer(theirs, x, t)).abs().max().item()
    assert difference < 1e-5, difference
    with FlopCounterMode(display=False) as counter:
        forward(ours, ours_x, t)()
    flops = counter.get_total_flops()
    conv_flops = 10 * 2 * args.batch * SIDE**2 * CHANNELS**2 * 9

    contenders = {
        "undye forward": forward(ours.eval(), ours_x, t), "diffusers forward": forward(theirs.eval(), x, t),
        "undye training": training(ours, ours_x, t), "diffusers training": training(theirs, x, t),
        "channels_last forward": forward(theirs_last.eval(), ours_x, t),
        "channels_last training": training(theirs_last, ours_x, t),
        "convolution": convolution(args.batch),
    }  # fmt: skip
    rounds = take_turns(contenders, args.rounds, time.process_time)

    def over(a: str, b: str) -> str:
        ratios = [r[a] / r[b] for r in rounds]
        return f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"

    def share(name: str, passes: int) -> str:
        shares = [passes * flops / r[name] / (conv_flops / r["convolution"]) for r in rounds]
        return f"{100 * median(shares):.0f} % ({100 * min(shares):.0f} to {100 * max(shares):.0f})"

    command = f"python -m benchmarks.unet --rounds {args.rounds} --batch {args.batch} --threads {args.threads}"
    text = "\n".join(
        [
            "# The paper's CIFAR-10 network beside diffusers' UNet2DModel",
            "",
            f"`{command}`, torch {torch.__version__}, {platform.machine()}, float32.",
            "35,746,307 weights, the same in both; outputs differ by less than 1e-5. Shares are of the rate of a",
            f"{CHANNELS}-channel 3x3 convolution at {SIDE}x{SIDE}, measured in the same rounds (a training step counts",
            "as three forward passes). CPU seconds; medians and ranges over the rounds. diffusers as it comes",
            "(contiguous weights), and in the layout that undye gives its own (channels_last), which its users may",
            "ask for.",
            "",
            "| | undye's time over diffusers' | over diffusers' in channels_last | share of the convolution rate: "
            "undye | diffusers | in channels_last |",
            "|---|---|---|---|---|---|",
            *(
                f"| {label} | {over(f'undye {what}', f'diffusers {what}')} "
                f"| {over(f'undye {what}', f'channels_last {what}')} | {share(f'undye {what}', passes)} "
                f"| {share(f'diffusers {what}', passes)} | {share(f'channels_last {what}', passes)} |"
                for label, what, passes in (("forward", "forward", 1), ("training step", "training", 3))
            ),
            "",
        ]
    )
    print(text)
    write_text(Path(args.out), text)


if __name__ == "__main__":
    main()
