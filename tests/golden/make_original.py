"""Run the conversions' U-Nets and write tests/golden/original_*.npz: python -m tests.golden.make_original PEERS

PEERS is a folder with github.com/pesser/pytorch_diffusion (at 304bdff2196db604fb66108b0bb2d4a19058b20f) and
github.com/ermongroup/ddim (at e8df66cf02e457719930748b5c26e37e3126dfdd). Each model runs in float32 as it is, and in
float64. For that, two things that their code does in float32 are done in float64: the sines of the time embedding (by
the formula in original_models.py, found to be within 1e-4 of theirs) and the coefficients of the sampling step.
"""

import importlib
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from tests.golden.openai_models import images, part, weight
from tests.golden.original_models import MODELS, PUBLISHED, STEPS, TIMES, features, shape_lines

HERE, SINGLE = Path(__file__).parent, torch.Tensor.float


def module_of(peers, project, name):
    """A module of theirs; both projects are run from their own folder."""
    path = str(Path(peers) / project)
    sys.path.insert(0, path)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(path)


def build(peers, project, arguments):
    if project == "pytorch_diffusion":
        module = module_of(peers, project, "pytorch_diffusion.model")
        return module.Model(**arguments), module
    module = module_of(peers, project, "models.diffusion")
    size = arguments["resolution"]
    config = {k: v for k, v in arguments.items() if k != "resolution"}
    return module.Model(
        SimpleNamespace(
            model=SimpleNamespace(**config, type="simple"),
            data=SimpleNamespace(image_size=size),
            diffusion=SimpleNamespace(num_diffusion_timesteps=1000),
        )
    ), module


class InDouble:
    """Their code with its float32 islands in float64."""

    def __init__(self, module):
        self.module, self.embed = module, module.get_timestep_embedding

    def __enter__(self):
        def embed(t, dim):
            torch.Tensor.float = SINGLE
            theirs, exact = self.embed(t, dim), torch.from_numpy(features(t.numpy(), dim, "half-1"))
            torch.Tensor.float = torch.Tensor.double
            assert (theirs - exact).abs().max() < 1e-4
            return exact

        self.module.get_timestep_embedding, torch.Tensor.float = embed, torch.Tensor.double

    def __exit__(self, *_):
        self.module.get_timestep_embedding, torch.Tensor.float = self.embed, SINGLE


def run(model, arguments, dtype):
    """The output, and that output's gradient by the image for a stated cotangent."""
    size = arguments["resolution"]
    x = torch.from_numpy(images((size, size), arguments["in_channels"])).to(dtype).requires_grad_()
    out = model(x, torch.tensor(TIMES, dtype=dtype))
    out.backward(torch.from_numpy(weight("cotangent", tuple(out.shape))).to(dtype))
    return out.detach().numpy(), x.grad.numpy()


def step_means(peers, model, arguments, dtype):
    """The mean of their sampling step at each of STEPS: a step with noise of variance 0."""
    diffusion = module_of(peers, "pytorch_diffusion", "pytorch_diffusion.diffusion")
    process = object.__new__(diffusion.Diffusion)
    process.init_diffusion_parameters(
        beta_schedule="linear", beta_start=0.0001, beta_end=0.02, num_diffusion_timesteps=1000
    )
    names = ("sqrt_recip_alphas_cumprod", "sqrt_recipm1_alphas_cumprod", "posterior_mean_coef1", "posterior_mean_coef2")
    x = torch.from_numpy(images((arguments["resolution"],) * 2)).to(dtype)
    with torch.no_grad():
        return np.stack(
            [
                part(
                    diffusion.denoising_step(
                        x,
                        torch.full((len(x),), float(t), dtype=dtype),
                        model=model,
                        logvar=np.full(1000, -np.inf),
                        return_pred_xstart=True,
                        **{n: getattr(process, n) for n in names},
                    )[0].numpy()
                )
                for t in STEPS
            ]
        )


def main(peers):
    for name, (project, arguments) in MODELS.items():
        model, module = build(peers, project, arguments)
        model.eval()
        state = model.state_dict()
        model.load_state_dict({k: torch.from_numpy(weight(k, tuple(v.shape))).float() for k, v in state.items()})
        found = {"single": part(run(model, arguments, torch.float32)[0])}
        if name == "cifar10":
            found["mean_single"] = step_means(peers, model, arguments, torch.float32)
        model.double().load_state_dict({k: torch.from_numpy(weight(k, tuple(v.shape))) for k, v in state.items()})
        with InDouble(module):
            output, gradient = run(model, arguments, torch.float64)
            if name == "cifar10":
                found["mean"] = step_means(peers, model, arguments, torch.float64)
        # some of the pixels, in float64: all of them depend on all of the network
        found |= {"output": part(output), "gradient": part(gradient)}
        assert np.abs(found["single"] - found["output"]).max() < 1e-4 * np.abs(output).max()
        np.savez_compressed(HERE / f"original_{name}.npz", weights=shape_lines(state), **found)
        print(name, sum(v.numel() for v in state.values()), output.shape, output.std())
    shapes = {}
    usual = {"in_channels": 3, "out_ch": 3, "num_res_blocks": 2, "attn_resolutions": (16,)}
    for name, arguments in PUBLISHED.items():
        with torch.device("meta"):
            state = build(peers, "pytorch_diffusion", usual | arguments)[0].state_dict()
        shapes[name] = shape_lines(state)
        print("published", name, sum(v.numel() for v in state.values()))
    np.savez_compressed(HERE / "original_published.npz", **shapes)


if __name__ == "__main__":
    main(*sys.argv[1:])
