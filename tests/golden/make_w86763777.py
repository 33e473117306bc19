"""Run w86763777's U-Net and write tests/golden/w86763777_*.npz: python -m tests.golden.make_w86763777 PEERS

PEERS is a folder with github.com/w86763777/pytorch-ddpm (at f804ccbd58a758b07f79a3b9ecdfb1beb67258f6). Each model runs
twice: in float32 as it is, and in float64, where the network and the sampler are built with float64 as torch's default,
so that the table of times and the betas are float64 too, and the sampler's coefficients are told to stay so.
"""

import importlib
import sys
from pathlib import Path

import numpy as np
import torch

from tests.golden.openai_models import images, part, weight
from tests.golden.original_models import features, shape_lines
from tests.golden.w86763777_models import MODELS, PUBLISHED, STEPS, TIMES

HERE, SINGLE = Path(__file__).parent, torch.Tensor.float
TABLE = "time_embedding.timembedding.0.weight"


def build(module, arguments):
    """Their network; its weights by the rule, its table of times its own."""
    model = module.UNet(**arguments).eval()
    state = model.state_dict()
    new = {k: v if k == TABLE else torch.from_numpy(weight(k, tuple(v.shape))).to(v.dtype) for k, v in state.items()}
    model.load_state_dict(new)
    return model


def run(model, size, dtype):
    """The output, and that output's gradient by the image for a stated cotangent."""
    x = torch.from_numpy(images(size)).to(dtype).requires_grad_()
    out = model(x, torch.tensor(TIMES))
    out.backward(torch.from_numpy(weight("cotangent", tuple(out.shape))).to(dtype))
    return out.detach().numpy(), x.grad.numpy()


def steps(module, model, size, dtype):
    """Mean and log variance of their sampling step, at each of STEPS."""
    sampler = module.GaussianDiffusionSampler(model, 1e-4, 0.02, 1000, size[0], "epsilon", "fixedlarge")
    x, means, log_vars = torch.from_numpy(images(size)).to(dtype), [], []
    with torch.no_grad():
        for t in STEPS:
            mean, log_var = sampler.p_mean_variance(x, torch.full((len(x),), t))
            means.append(part(mean.numpy()))
            log_vars.append(log_var.flatten()[0].item())
    return np.stack(means), np.array(log_vars)


def main(peers):
    sys.path.insert(0, str(Path(peers) / "pytorch-ddpm"))
    network, diffusion = importlib.import_module("model"), importlib.import_module("diffusion")
    for name, (arguments, size) in MODELS.items():
        model, found = build(network, arguments), {}
        found["single"] = part(run(model, size, torch.float32)[0])
        if name == "cifar10":
            found["mean_single"], _ = steps(diffusion, model, size, torch.float32)
        torch.set_default_dtype(torch.float64)
        torch.Tensor.float = torch.Tensor.double
        model = build(network, arguments)
        table = model.state_dict()[TABLE].numpy()
        sines = features(np.arange(arguments["T"]), arguments["ch"], "half")
        assert np.abs(np.stack(np.split(sines, 2, axis=1), axis=2).reshape(table.shape) - table).max() < 1e-9
        output, gradient = run(model, size, torch.float64)
        # some of the pixels, in float64: all of them depend on all of the network
        found |= {"output": part(output), "gradient": part(gradient)}
        if name == "cifar10":
            found["mean"], found["log_var"] = steps(diffusion, model, size, torch.float64)
        torch.set_default_dtype(torch.float32)
        torch.Tensor.float = SINGLE
        assert np.abs(found["single"] - found["output"]).max() < 1e-4 * np.abs(output).max()
        np.savez_compressed(HERE / f"w86763777_{name}.npz", weights=shape_lines(model.state_dict()), **found)
        print(name, sum(v.numel() for v in model.parameters()), output.shape, output.std())
    with torch.device("meta"):
        published = network.UNet(**PUBLISHED)
    np.savez_compressed(HERE / "w86763777_published.npz", weights=shape_lines(published.state_dict()))
    print("published", sum(v.numel() for v in published.parameters()))


if __name__ == "__main__":
    main(*sys.argv[1:])
