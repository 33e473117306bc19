"""Run dome272's networks and write tests/golden/dome272_*.npz: python -m tests.golden.make_dome272 FOLDER

FOLDER is a folder with github.com/dome272/Diffusion-Models-pytorch (at be352208d0576039fec061238c0e4385a562a2d4).
Its networks are 64 channels wide and for images of 64x64. The case "full" is that; the others are its parts put
together a quarter as wide, and its self-attention is told the size of its maps. In float64 the time's sines and cosines
stay in float32, as they are in training. Its sampler runs with nothing in place of the noise that it adds, in float64,
on a stand-in for the network.
"""

import importlib
import math
import sys
import types
from pathlib import Path

import numpy as np
import torch

from tests.golden.openai_models import images, part, weight

NUM_CLASSES = 7
TIMES = (960, 1)
# name: (width, channels, height and width of the images, how many, classes, labels)
MODELS = {
    "full": (64, 3, (64, 64), 1, None, None),
    "labels": (16, 3, (64, 64), 2, NUM_CLASSES, (2, 6)),
    "no_labels": (16, 3, (64, 64), 2, NUM_CLASSES, None),
    "grey": (16, 1, (32, 32), 2, None, None),
    "wide": (16, 3, (16, 64), 2, NUM_CLASSES, (0, 3)),
}
SEEN = (1, 2, 500, 998)
"""The indices of the steps of their sampler before which the images are kept, beside its last ones."""


def inputs(name):
    """Images in float64, times and labels."""
    _, channels, size, n, _, labels = MODELS[name]
    x = torch.from_numpy(images(size, channels)[:n])
    return x, torch.tensor(TIMES[:n]), None if labels is None else torch.tensor(labels)


def stand_in(x, t):
    """In place of a network: anything that depends on both will do."""
    return 0.8 * torch.sin(2 * x + 0.01 * t.to(x.dtype)[:, None, None, None]) + 0.2 * x


def build(modules, name):
    """Their network."""
    c, channels, _, _, classes, _ = MODELS[name]
    if classes is None:
        model = modules.UNet(channels, channels, device="cpu")
    else:
        model = modules.UNet_conditional(channels, channels, num_classes=classes, device="cpu")
    if c == 64:
        return model.eval()
    # nobody reads the size that is given here, see `any_shape`
    model.inc, model.outc = modules.DoubleConv(channels, c), torch.nn.Conv2d(c, channels, 1)
    for i, (down, bot, up) in enumerate((((1, 2), (4, 8), (8, 2)), ((2, 4), (8, 8), (4, 1)), ((4, 4), (8, 4), (2, 1)))):
        setattr(model, f"down{i + 1}", modules.Down(down[0] * c, down[1] * c))
        setattr(model, f"bot{i + 1}", modules.DoubleConv(bot[0] * c, bot[1] * c))
        setattr(model, f"up{i + 1}", modules.Up(up[0] * c, up[1] * c))
        for layer, width in ((f"sa{i + 1}", down[1]), (f"sa{i + 4}", up[1])):
            setattr(model, layer, any_shape(modules.SelfAttention(width * c, None)))
    return model.eval()


def any_shape(attention):
    """Their self-attention on a map of any number of positions that is a square, such as 16x64.

    It wants height and width to be its `size`. To attention it is all one which position is where, so it gets a square
    with as many positions in the same order, and what it gives goes back into the shape of the map.
    """
    theirs = attention.forward

    def forward(x):
        attention.size = math.isqrt(x.shape[2] * x.shape[3])
        return theirs(x.reshape(*x.shape[:2], attention.size, attention.size)).reshape(x.shape)

    attention.forward = forward
    return attention


def run(model, name, dtype):
    """Its output, and that output's gradient by the image for a stated cotangent."""
    model.to(dtype)
    x, t, y = inputs(name)
    x.requires_grad_()
    encode = type(model).pos_encoding
    model.pos_encoding = lambda t, channels: encode(model, t, channels).to(dtype)
    out = model(x.to(dtype), t) if MODELS[name][4] is None else model(x.to(dtype), t, y)
    out.backward(torch.from_numpy(weight("cotangent", tuple(out.shape))).to(dtype))
    return out.detach().numpy(), x.grad.numpy()


def sample(ddpm):
    """What their sampler's network is given at chosen indices, and their last images before the rounding."""
    seen = {}

    class Model:
        eval = train = lambda self: None

        def __call__(self, x, t):
            seen[int(t[0])] = x
            return stand_in(x, t)

    start = torch.from_numpy(images((4, 4)))
    # two small replacements: the noise, and the last operation, which only rounds
    ddpm.torch = types.SimpleNamespace(
        **{k: getattr(torch, k) for k in ("no_grad", "ones", "sqrt", "cumprod", "linspace", "zeros_like", "uint8")},
        randn=lambda shape: start,
        randn_like=torch.zeros_like,
    )
    torch.set_default_dtype(torch.float64)
    clamp, torch.Tensor.clamp = torch.Tensor.clamp, lambda self, low, high: seen.update({0: self}) or self
    try:
        ddpm.Diffusion(img_size=4, device="cpu").sample(Model(), len(start))
    finally:
        torch.Tensor.clamp = clamp
        torch.set_default_dtype(torch.float32)
    return {f"before_{i}": seen[i].numpy() for i in SEEN} | {"last": seen[0].numpy()}


def main(folder):
    sys.path.insert(0, folder)
    # it draws with it, and does so nowhere here
    sys.modules["matplotlib"] = types.SimpleNamespace(pyplot=None)
    modules, ddpm = (importlib.import_module(name) for name in ("modules", "ddpm"))
    here = Path(__file__).parent
    for name in MODELS:
        model = build(modules, name)
        state = model.state_dict()
        model.load_state_dict({k: torch.from_numpy(weight(k, tuple(v.shape))).float() for k, v in state.items()})
        single, _ = run(model, name, torch.float32)
        model.double().load_state_dict({k: torch.from_numpy(weight(k, tuple(v.shape))) for k, v in state.items()})
        double, gradient = run(model, name, torch.float64)
        assert np.abs(single - double).max() < 1e-5 * np.abs(double).max()
        shapes = "\n".join(f"{k} {' '.join(map(str, v.shape))}" for k, v in state.items())
        np.savez_compressed(
            here / f"dome272_{name}.npz",
            weights=np.frombuffer(shapes.encode(), np.uint8),
            # some of the pixels, in float64: all of them depend on all of the network
            output=part(double),
            gradient=part(gradient),
        )
        print(name, sum(v.numel() for v in state.values()), double.shape, double.std())
    np.savez_compressed(here / "dome272_sampler.npz", **sample(ddpm))


if __name__ == "__main__":
    main(*sys.argv[1:])
