"""Models in half precision on the CPU: the network computes in its own dtype, the process in float32 or better."""

import numpy as np
import pytest
import torch
from torch import nn

import undye
from undye.config import CompactConfig, ModelConfig, ScheduleConfig, UNetConfig
from undye.denoiser import Denoiser
from undye.errors import UserError
from undye.samplers import RK45, SAMPLERS
from undye.sampling import SampleRequest, batches

NETWORKS = {
    "compact": CompactConfig(channels=(16, 24), blocks=(1, 1), patch=2, head_channels=8, dropout=0.0),
    "unet": UNetConfig(
        base_channels=16, channel_mult=(1, 2), num_res_blocks=1, attention_levels=(1,), norm_groups=8, dropout=0.0
    ),
}
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float64": torch.float64}
every_network = pytest.mark.parametrize("network", NETWORKS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)
# grey levels of 255, root mean square over the images: 8 and 11 bits of mantissa, over a walk of a network
NEAR = {"float16": 1.0, "bfloat16": 6.0, "float64": 0.1}


def model(network: str, dtype: torch.dtype = torch.float32, **options) -> Denoiser:
    """One that moves what it is given: not a new network, whose last layer is zero."""
    torch.manual_seed(1)
    config = ModelConfig(image_size=(8, 8), channels=1, network=NETWORKS[network], **options)
    made = Denoiser.from_config(config)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return made.to(dtype)


def off(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.square(a.astype(float) - b.astype(float)).mean()))


class Watched(nn.Module):
    """Keeps the dtypes of what passes through a network."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network, self.seen = network, set[tuple]()

    def forward(self, x, t, label=None):
        out = self.network(x, t, label)
        self.seen.add((x.dtype, t.dtype, out.dtype))
        return out


@every_network
@every_dtype
def test_the_network_computes_in_its_own_dtype_and_the_process_does_not(network, dtype):
    wide = torch.float64 if dtype == "float64" else torch.float32
    made = model(network, DTYPES[dtype])
    made.network = Watched(made.network)
    ((x_T, steps),) = batches(made, SampleRequest(n=2, steps=3, sampler="ancestral"))
    assert x_T.dtype == wide
    for step in steps:
        assert step.x.dtype == step.x_0.dtype == wide
    assert made.network.seen == {(DTYPES[dtype], torch.float32, DTYPES[dtype])}
    # whatever x_t is given in
    for given in (torch.float16, torch.bfloat16):
        out = made(torch.randn(1, 1, 8, 8).to(given), torch.tensor([1]))
        assert out.x_0.dtype == out.eps.dtype == torch.float32


@every_network
@every_dtype
@pytest.mark.parametrize("sampler", ["ancestral", "unipc"])
def test_samples_are_near_those_of_float32(network, dtype, sampler):
    expected, got = (undye.sample(model(network, d), 4, sampler, 8) for d in (torch.float32, DTYPES[dtype]))
    assert off(expected, got) < NEAR[dtype]
    assert expected.std() > 20


@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_takes_a_network_in_half_precision(name):
    # rk45's steps answer to the network's rounding, so they are others
    sampler, near = (RK45(tolerance=0.02), 30.0) if name == "rk45" else (name, NEAR["bfloat16"])
    expected, got = (
        undye.sample(model("compact", d), 4, sampler, 1 if name == "rk45" else 8)
        for d in (torch.float32, torch.bfloat16)
    )
    assert off(expected, got) < near


@every_network
@every_dtype
def test_edits_are_near_those_of_float32(network, dtype):
    images = (np.arange(2 * 64).reshape(2, 8, 8, 1) * 2).astype(np.uint8)
    hole = np.zeros((8, 8), dtype=bool)
    hole[2:6, 2:6] = True
    edits = {
        "inpaint": lambda m: undye.inpaint(m, images, hole, steps=6),
        "img2img": lambda m: undye.img2img(m, images, steps=6),
        "interpolate": lambda m: undye.interpolate(m, images[:1], images[1:], steps=6),
        "denoise": lambda m: undye.denoise(m, images, 30.0),
    }
    for name, edit in edits.items():
        expected, got = (edit(model(network, d)) for d in (torch.float32, DTYPES[dtype]))
        expected, got = (x[0] if isinstance(x, tuple) else x for x in (expected, got))
        assert off(np.asarray(expected), np.asarray(got)) < NEAR[dtype], name


@every_network
@every_dtype
@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_the_bound_is_near_that_of_float32(network, dtype, prediction):
    images = (np.arange(2 * 64).reshape(2, 8, 8, 1) * 2).astype(np.uint8)
    options = {"prediction": prediction, "schedule": ScheduleConfig(name="cosine", num_steps=50)}
    expected, got = (
        undye.bits_per_dim(model(network, d, **options), images).total for d in (torch.float32, DTYPES[dtype])
    )
    near = {"float16": 3e-3, "bfloat16": 3e-2, "float64": 1e-4}[dtype]
    np.testing.assert_allclose(np.asarray(got), np.asarray(expected), rtol=near)


@every_dtype
@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_the_odes_likelihood_is_near_that_of_float32(dtype, prediction):
    """In coordinates of data plus noise, of up to 20,000 here: float16 ends at 65,504, and is not what they are in."""
    images = (np.arange(64).reshape(1, 8, 8, 1) * 4).astype(np.uint8)
    options = {"prediction": prediction, "schedule": ScheduleConfig(name="cosine", num_steps=1000)}
    expected, got = (
        undye.ode_bits_per_dim(model("compact", d, **options), images, tolerance=0.01).total
        for d in (torch.float32, DTYPES[dtype])
    )
    near = {"float16": 1e-2, "bfloat16": 5e-2, "float64": 2e-3}[dtype]  # the solver's own steps differ, too
    np.testing.assert_allclose(np.asarray(got), np.asarray(expected), rtol=near)


@every_network
def test_a_double_model_is_double_all_along(network):
    """Not through float32 on the way: 1e-12 apart from itself in other coordinates."""
    made = model(network, torch.float64)
    x_t, t = torch.randn(2, 1, 8, 8, dtype=torch.float64), torch.tensor([3, 900])
    moved = made(x_t * (1 + 1e-12), t).eps - made(x_t, t).eps
    assert 0 < moved.abs().max() < 1e-9


class CannotHalf(nn.Module):
    def __init__(self, words: str):
        super().__init__()
        self.weight, self.words = nn.Parameter(torch.zeros(1)), words

    def forward(self, x, t, label=None):
        raise RuntimeError(self.words)


def test_a_device_that_cannot_compute_in_half_precision_is_an_error_of_one_line():
    made = Denoiser(CannotHalf("\"some_conv\" not implemented for 'Half'"), ModelConfig(image_size=(8, 8), channels=1))
    with pytest.raises(RuntimeError, match="some_conv"):  # nothing to do with half precision
        undye.sample(made, 1)
    with pytest.raises(UserError, match=r"cannot compute in float16 on the cpu .*some_conv.*: use \.float\(\)") as told:
        undye.sample(made.half(), 1)
    assert "\n" not in str(told.value)
    other = Denoiser(CannotHalf("shapes do not fit"), ModelConfig(image_size=(8, 8), channels=1)).half()
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        undye.sample(other, 1)
