"""What could make the CIFAR-10 network faster on a CPU: each try beside the network as it is, in one run.

Forward pass and training step (forward, backward, Adam). The tries marked (bound) leave something out, so they do not
compute the network: they say what the best possible version of that part could bring.

    python -m benchmarks.unet_tries [--rounds 7] [--batch 4] [--threads 2] [--compile]
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import undye
from benchmarks.turns import take_turns
from benchmarks.unet import forward
from undye.files import write_text
from undye.networks.attention import AttentionBlock
from undye.networks.resample import Downsample
from undye.networks.spec import UNetSpec
from undye.networks.unet import UNet


def build() -> UNet:
    torch.manual_seed(0)
    network = UNetSpec(config=undye.UNetConfig(dropout=0.0), image_size=(32, 32)).build()
    for parameter in network.parameters():  # or the last layers, which start near zero, hide every difference
        parameter.data += 0.02 * torch.randn_like(parameter)
    return network.to(memory_format=torch.channels_last)


def contiguous(network: UNet) -> nn.Module:
    return network.to(memory_format=torch.contiguous_format)


class Pointwise(nn.Conv2d):
    """A convolution of one pixel as a matrix product over the channels."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias).permute(0, 3, 1, 2)


def pointwise(network: UNet) -> nn.Module:
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1):
            module.__class__ = Pointwise
    return network


class JoinedAttention(AttentionBlock):
    """q, k and v in one matrix product, without copies between the layouts."""

    def forward(self, x: Tensor) -> Tensor:
        b, c, height, width = x.shape
        layers = (self.q, self.k, self.v)
        weight = torch.cat([layer.weight for layer in layers]).flatten(1)
        bias = torch.cat([layer.bias for layer in layers if layer.bias is not None])
        h = self.norm(x).permute(0, 2, 3, 1).reshape(b, height * width, c)
        q, k, v = F.linear(h, weight, bias).view(b, height * width, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        h = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, height * width, c)
        h = F.linear(h, self.proj_out.weight.flatten(1), self.proj_out.bias)
        return x + h.view(b, height, width, c).permute(0, 3, 1, 2)


def joined_attention(network: UNet) -> nn.Module:
    for module in network.modules():
        if isinstance(module, AttentionBlock):
            module.__class__ = JoinedAttention
    return network


class ShiftedDownsample(Downsample):
    """Padding on all sides inside the convolution, of the image moved by one pixel: no padded copy."""

    def forward(self, x: Tensor) -> Tensor:
        # a kernel of 4 with a first row and column of zeros sees, padded by one, what 3 sees padded right and bottom
        weight = F.pad(self.conv.weight, (1, 0, 1, 0))
        return F.conv2d(x, weight, self.conv.bias, stride=2, padding=1)


def unpadded(network: UNet) -> nn.Module:
    for module in network.modules():
        if isinstance(module, Downsample):
            module.__class__ = ShiftedDownsample
    return network


def no_norms(network: UNet) -> nn.Module:
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.GroupNorm):
                setattr(parent, name, nn.Identity())
    return network


def no_attention(network: UNet) -> nn.Module:
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, AttentionBlock):
                setattr(parent, name, nn.Identity())
    return network


class OwnNorm(nn.Module):
    """Group normalisation written with means over the layout channels_last; mean and variance in one pass each."""

    def __init__(self, norm: nn.GroupNorm):
        super().__init__()
        self.weight, self.bias, self.groups, self.eps = norm.weight, norm.bias, norm.num_groups, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        b, c, height, width = x.shape
        grouped = x.permute(0, 2, 3, 1).reshape(b, height * width, self.groups, -1)
        var, mean = torch.var_mean(grouped, dim=(1, 3), correction=0, keepdim=True)
        scale = (self.weight.view(self.groups, -1) * (var + self.eps).rsqrt()).reshape(b, c, 1, 1)
        shift = self.bias - (mean.expand(b, 1, self.groups, c // self.groups).reshape(b, c) * scale[..., 0, 0])
        return torch.addcmul(shift.view(b, c, 1, 1), x, scale)


def own_norms(network: UNet) -> nn.Module:
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.GroupNorm):
                setattr(parent, name, OwnNorm(child))
    return network


TRIES: dict[str, Callable[[UNet], nn.Module]] = {
    "as it is": lambda network: network,
    "contiguous instead of channels_last": contiguous,
    "1x1 convolutions as matrix products": pointwise,
    "the same, q, k, v in one": lambda network: joined_attention(network) and pointwise(network),
    "no padded copy before stride 2": unpadded,
    "own group norm": own_norms,
    "no norms (bound)": no_norms,
    "no attention (bound)": no_attention,
}
ADAMS = {"for-loop Adam": {"foreach": False}, "foreach Adam": {"foreach": True}, "no optimiser (bound)": None}


def training(network: nn.Module, x: Tensor, t: Tensor, adam: dict | None) -> Callable[[], None]:
    optimizer = None if adam is None else torch.optim.Adam(network.parameters(), lr=1e-6, **adam)

    def run() -> None:
        network(x, t).square().mean().backward()
        if optimizer is not None:
            optimizer.step()
        network.zero_grad()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description="What could make the CIFAR-10 network faster on a CPU.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--compile", action="store_true", help="torch.compile too; needs a C++ compiler, takes minutes")
    parser.add_argument("--out", default="benchmarks/results/unet_tries.md")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)  # without norms numbers get small, which would cost time of its own
    x, t = torch.randn(args.batch, 3, 32, 32), torch.full((args.batch,), 500.0)
    x = x.to(memory_format=torch.channels_last)
    networks = {name: make(build()) for name, make in TRIES.items()}
    if args.compile:
        networks["torch.compile"] = torch.compile(build(), fullgraph=True)
    with torch.no_grad():
        expected = networks["as it is"](x, t)
        for name, network in networks.items():
            difference = (network(x, t) - expected).abs().max() / expected.abs().max()
            assert "(bound)" in name or difference < 1e-4, (name, difference)
    contenders = {f"{name}|forward": forward(network, x, t) for name, network in networks.items()}
    fused = {"fused": True}
    contenders |= {f"{name}|training": training(network, x, t, fused) for name, network in networks.items()}
    contenders |= {f"{name}|training": training(build(), x, t, adam) for name, adam in ADAMS.items()}
    rounds = take_turns(contenders, args.rounds, time.process_time)

    def over(name: str, what: str) -> str:
        if f"{name}|{what}" not in contenders:
            return ""
        ratios = [r[f"{name}|{what}"] / r[f"as it is|{what}"] for r in rounds]
        return f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"

    compiled = " --compile" if args.compile else ""
    text = "\n".join(
        [
            "# What could make the CIFAR-10 network faster",
            "",
            f"`python -m benchmarks.unet_tries --rounds {args.rounds} --batch {args.batch} --threads {args.threads}"
            f"{compiled}`,",
            f"torch {torch.__version__}, float32. Time over that of the network as it is (channels_last, fused Adam);",
            "CPU seconds, medians and ranges over the rounds. A bound leaves its part out: none brings more.",
            "",
            "| try | forward | training step |",
            "|---|---|---|",
            *(f"| {n} | {over(n, 'forward')} | {over(n, 'training')} |" for n in [*list(networks)[1:], *ADAMS]),
            "",
        ]
    )
    print(text)
    write_text(Path(args.out), text)


if __name__ == "__main__":
    main()
