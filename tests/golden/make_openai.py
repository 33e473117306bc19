"""Run OpenAI's U-Nets and write tests/golden/openai_*.npz: python -m tests.golden.make_openai IMPROVED GUIDED

IMPROVED and GUIDED are folders with github.com/openai/improved-diffusion (at 1bc7bbbdc414d83d4abf2ad8cc1446dc36c4e4d5)
and github.com/openai/guided-diffusion (at 22e0df8183507e13a7813f8d38d51b072ca1e67c). In float64 their code still works
in float32 in places (norms, softmax); here these are told to stay in float64, all but the time embedding's sines.
"""

import importlib
import sys
from pathlib import Path

import numpy as np
import torch

from tests.golden.openai_models import LABELS, MODELS, NUM_CLASSES, TIMES, images, part, weight

SINGLE = torch.Tensor.float


def build(project, flags, extra):
    """Their UNetModel; `extra` are arguments of the class that their create_model has no flag for."""
    script, unet = (importlib.import_module(f"{project}.{m}") for m in ("script_util", "unet"))
    script.NUM_CLASSES = NUM_CLASSES
    known = script.model_and_diffusion_defaults() | flags
    names = script.create_model.__code__.co_varnames[: script.create_model.__code__.co_argcount]
    make, own = script.UNetModel, dict(extra)
    script.UNetModel = lambda **kwargs: make(**kwargs | own)
    model = script.create_model(**{n: known[n] for n in names if n in known})
    script.UNetModel = make
    return model.eval(), unet


def run(model, unet, size, dtype):
    """Its output, and that output's gradient by the image for a stated cotangent."""
    embed = unet.timestep_embedding

    def in_single(t, dim):
        torch.Tensor.float = SINGLE
        features = embed(t, dim).to(dtype)
        torch.Tensor.float = lambda self: self.to(dtype)
        return features

    model.to(dtype)
    model.dtype = dtype
    x, t = torch.from_numpy(images(size)).to(dtype).requires_grad_(), torch.tensor(TIMES)
    y = None if model.num_classes is None else torch.tensor(LABELS)
    try:
        unet.timestep_embedding = in_single
        out = model(x, t, y)
        out.backward(torch.from_numpy(weight("cotangent", tuple(out.shape))).to(dtype))
    finally:
        unet.timestep_embedding, torch.Tensor.float = embed, SINGLE
    return out.detach().numpy(), x.grad.numpy()


def main(improved, guided):
    sys.path[:0] = [improved, guided]
    for name, (project, flags, extra, size) in MODELS.items():
        model, unet = build(project, flags, extra)
        state = model.state_dict()
        model.load_state_dict({k: torch.from_numpy(weight(k, tuple(v.shape))).float() for k, v in state.items()})
        single, _ = run(model, unet, size, torch.float32)
        model.double().load_state_dict({k: torch.from_numpy(weight(k, tuple(v.shape))) for k, v in state.items()})
        double, gradient = run(model, unet, size, torch.float64)
        assert np.abs(single - double).max() < 1e-5 * np.abs(double).max()
        shapes = "\n".join(f"{k} {' '.join(map(str, v.shape))}" for k, v in state.items())
        np.savez_compressed(
            Path(__file__).parent / f"openai_{name}.npz",
            weights=np.frombuffer(shapes.encode(), np.uint8),
            # some of the pixels, in float64: all of them depend on all of the network
            output=part(double),
            gradient=part(gradient),
        )
        print(name, sum(v.numel() for v in state.values()), double.shape, double.std())


if __name__ == "__main__":
    main(*sys.argv[1:])
