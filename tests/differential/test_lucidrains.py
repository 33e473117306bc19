"""Our network for lucidrains' models against denoising-diffusion-pytorch itself, with the same random weights."""

import warnings
from dataclasses import replace
from functools import cache

import pytest
import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import denoising_diffusion_pytorch as lucidrains
    from denoising_diffusion_pytorch import classifier_free_guidance as guidance

from undye.config import LucidrainsConfig, ModelConfig, ScheduleConfig
from undye.denoiser import Denoiser, build_schedule
from undye.diffusion.process import GaussianProcess
from undye.diffusion.variance import log_var
from undye.networks.lucidrains import LucidrainsUNet
from undye.networks.names_lucidrains import from_lucidrains_weights, lucidrains_name

TIMES = (0, 1, 517, 999)
CLASSES = 5
FULL = LucidrainsConfig(base_channels=8)
DEEP = LucidrainsConfig(
    base_channels=4, channel_mult=(1, 1, 2, 2, 4, 4), attention_levels=(4, 5), num_heads=(2,), head_channels=(8,)
)
STAGES = LucidrainsConfig(
    base_channels=8,
    channel_mult=(2, 1, 3),
    stem_channels=6,
    attention_levels=(0, 2),
    num_heads=(1, 2, 3),
    head_channels=(8, 4, 16),
    max_period=500.0,
    self_condition=True,
)
GUIDED = LucidrainsConfig(base_channels=8, attention_levels=(), memory=0, downsample="conv")
GUIDED_HEADS = LucidrainsConfig(
    base_channels=8,
    channel_mult=(1, 2),
    stem_channels=12,
    attention_levels=(),
    memory=0,
    downsample="conv",
    middle_num_heads=2,
    middle_head_channels=16,
)
# name: our settings, outputs per channel, the image
MODELS = {
    "cifar10": (FULL, 1, (3, 32, 32)),
    "six levels": (DEEP, 1, (3, 64, 64)),
    "settings of each stage": (STAGES, 1, (3, 24, 16)),
    "not square": (FULL, 1, (1, 16, 40)),
    "tiny": (replace(FULL, channel_mult=(1, 2)), 1, (1, 8, 12)),
    "tiny, learned variance": (replace(FULL, channel_mult=(1, 2)), 2, (1, 8, 8)),
    "tiny, classes": (replace(GUIDED, channel_mult=(1, 2)), 1, (1, 8, 8)),
    "classes": (GUIDED, 1, (3, 32, 32)),
    "classes, learned variance": (GUIDED_HEADS, 2, (3, 12, 20)),
}
every_model = pytest.mark.parametrize("name", MODELS)


class InFloat32(torch.nn.Module):
    """Their time features, rounded to float32 as in a float32 network.

    In float64 theirs would take the sines of float32 frequencies times float64 times: of the order of 1e-5 from what
    the network was trained with. Ours are computed in float32 whatever the rest.
    """

    def __init__(self, features):
        super().__init__()
        self.features = features

    def forward(self, t):
        dtype = torch.float64 if t.dtype == torch.float64 else torch.float32
        return self.features(t.float()).to(dtype)


def unet(name):
    """Theirs with lively random weights."""
    config, per_channel, (channels, _, _) = MODELS[name]
    torch.manual_seed(3)
    common = {"init_dim": config.stem_channels, "channels": channels, "learned_variance": per_channel == 2}
    if "classes" in name:
        heads, width = config.middle_heads
        network = guidance.Unet(
            config.base_channels,
            CLASSES,
            dim_mults=config.channel_mult,
            attn_heads=heads,
            attn_dim_head=width,
            **common,
        )
    else:
        levels = len(config.channel_mult)
        network = lucidrains.Unet(
            config.base_channels,
            dim_mults=config.channel_mult,
            self_condition=config.self_condition,
            sinusoidal_pos_emb_theta=config.max_period,
            full_attn=tuple(level in config.softmax_levels for level in range(levels)),
            attn_heads=tuple(config.heads(level)[0] for level in range(levels)),
            attn_dim_head=tuple(config.heads(level)[1] for level in range(levels)),
            **common,
        )
    for parameter in network.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return network.eval()


@cache
def weights(name):
    return {key: tensor.clone() for key, tensor in unet(name).state_dict().items()}


def ours(name):
    config, per_channel, (channels, _, _) = MODELS[name]
    classes = CLASSES if "classes" in name else None
    return LucidrainsUNet(config, channels, channels * per_channel, classes).eval()


def pair(name, dtype):
    theirs, network = unet(name).to(dtype), ours(name).to(dtype)
    theirs.time_mlp[0] = InFloat32(theirs.time_mlp[0])
    network.load_state_dict(from_lucidrains_weights({k: v.to(dtype) for k, v in weights(name).items()}, network))
    return theirs, network


def labels(name):
    return torch.tensor([0, 3, 4, 3]) if "classes" in name else None


def call(theirs, x, t, label):
    """Theirs: without classes, with classes, and with class CLASSES for none."""
    if label is None:
        return theirs(x, t)
    return theirs(x, t, label.clamp(max=CLASSES - 1), cond_keep_mask=label < CLASSES)


def close(one, other, tolerance):
    return (one - other).abs().max() <= tolerance * other.abs().max()


@every_model
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-9)], ids=str)
def test_same_outputs_and_gradients(name, dtype, tolerance):
    theirs, network = pair(name, dtype)
    torch.manual_seed(4)
    x = torch.randn(len(TIMES), *MODELS[name][2], dtype=dtype)
    one, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    label, t = labels(name), torch.tensor(TIMES, dtype=dtype)
    out, expected = network(one, t.float(), label), call(theirs, other, t, label)
    assert close(out, expected, tolerance)
    cotangent = torch.randn_like(out)
    out.backward(cotangent)
    expected.backward(cotangent)
    assert close(one.grad, other.grad, tolerance)
    # the gradients by their weights, moved to our names as the weights are; some of theirs are not used
    by_theirs = {k: torch.zeros_like(p) if p.grad is None else p.grad for k, p in theirs.named_parameters()}
    by_ours = from_lucidrains_weights(by_theirs, network)
    # sums over all pixels: in float32 both are as far from the truth as from one another, so there the network's
    # largest gradient is the measure, as for diffusers; each gradient's own, too, ten times as wide
    largest = max(gradient.abs().max() for gradient in by_ours.values())
    single = dtype == torch.float32
    for key, parameter in network.named_parameters():
        gradient = by_ours[key]
        assert (parameter.grad - gradient).abs().max() <= tolerance * (gradient.abs().max() + single * largest), key
        assert close(parameter.grad, gradient, 10 * tolerance), key


@pytest.mark.parametrize("name", ["classes", "classes, learned variance"])
def test_no_class_is_their_null_embedding(name):
    theirs, network = pair(name, torch.float64)
    x, t = torch.randn(2, *MODELS[name][2], dtype=torch.float64), torch.tensor([3.0, 700.0])
    expected = theirs(x, t.double(), torch.tensor([1, 2]), cond_drop_prob=1.0)
    assert close(network(x, t), expected, 1e-9)
    assert close(network(x, t, torch.tensor([CLASSES, CLASSES])), expected, 1e-9)
    assert not close(network(x, t, torch.tensor([1, CLASSES])), expected, 1e-3)


def test_self_conditioning_is_zeros():
    theirs, network = pair("settings of each stage", torch.float64)
    x, t = torch.randn(2, 3, 24, 16, dtype=torch.float64), torch.tensor([3.0, 700.0])
    assert close(network(x, t), theirs(x, t.double(), torch.zeros_like(x)), 1e-9)
    assert not close(network(x, t), theirs(x, t.double(), torch.ones_like(x)), 1e-3)


def test_their_time_features_in_float64_are_not_those_of_the_model():
    """Why the comparison in float64 goes through InFloat32."""
    features, t = lucidrains.Unet(64).time_mlp[0], torch.tensor([999])
    difference = (features(t.double()) - features(t).double()).abs().max()
    assert 1e-6 < difference < 1e-3


@every_model
def test_their_start_is_ours(name):
    """Freshly built networks: the same kinds of random weights."""
    torch.manual_seed(0)
    network = ours(name)
    torch.manual_seed(0)
    fresh = from_lucidrains_weights(_fresh(name), network)
    for key, weight in network.state_dict().items():
        assert weight.shape == fresh[key].shape
        if weight.numel() > 500:
            assert weight.std().item() == pytest.approx(fresh[key].std().item(), rel=0.25), key
        elif key.endswith("gain"):
            assert torch.equal(weight, fresh[key])


def _fresh(name):
    network = unet(name)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear | torch.nn.Embedding):
            module.reset_parameters()
    for key, parameter in network.named_parameters():
        if key.endswith(".g"):
            parameter.data.fill_(1)
        elif key.endswith(("mem_kv", "null_classes_emb")):
            parameter.data.normal_()
    return network.state_dict()


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("cifar10", "time_mlp.2.bias", "time_mlp.3.bias"),
        ("cifar10", "down.0.block2.norm1.gain", "downs.0.1.block1.norm.g"),
        ("cifar10", "down.0.resample.conv.bias", "downs.0.3.1.bias"),
        ("cifar10", "down.3.resample.bias", "downs.3.3.bias"),
        ("cifar10", "down.3.attention.proj_out.bias", "downs.3.2.to_out.bias"),
        ("cifar10", "up.0.attention.proj_out.bias", "ups.0.2.to_out.bias"),
        ("cifar10", "up.1.attention.norm_out.gain", "ups.1.2.to_out.1.g"),
        ("cifar10", "up.3.resample.weight", "ups.3.3.weight"),
        ("cifar10", "up.0.block1.shortcut.weight", "ups.0.0.res_conv.weight"),
        ("cifar10", "final.modulation.weight", "final_res_block.mlp.1.weight"),
        ("classes", "down.0.resample.weight", "downs.0.3.weight"),
        ("classes", "up.0.attention.norm.gain", "ups.0.2.fn.norm.g"),
        ("classes", "middle_attention.qkv.weight", "mid_attn.fn.fn.to_qkv.weight"),
        ("classes", "class_mlp.0.weight", "classes_mlp.0.weight"),
    ],
)
def test_names(name, one, other):
    assert one in ours(name).state_dict()
    assert other in weights(name)
    assert lucidrains_name(one, ours(name)) == other


def test_parameter_count_of_their_readmes_model():
    """Unet(dim=64, dim_mults=(1, 2, 4, 8)), counted with their code."""
    with torch.device("meta"):
        count = sum(p.numel() for p in LucidrainsUNet(LucidrainsConfig(), 3, 3).parameters())
        assert count == sum(
            p.numel() for p in lucidrains.Unet(64, dim_mults=(1, 2, 4, 8), flash_attn=True).parameters()
        )


SCHEDULES = [
    (lucidrains.GaussianDiffusion, "sigmoid", "sigmoid_alpha_bar"),
    (lucidrains.GaussianDiffusion, "cosine", "cosine"),
    (lucidrains.GaussianDiffusion, "linear", "linear"),
    (guidance.GaussianDiffusion, "cosine", "cosine"),
    (guidance.GaussianDiffusion, "linear", "linear"),
]
OBJECTIVES = {"pred_noise": "eps", "pred_x0": "x_0", "pred_v": "v"}


@pytest.mark.parametrize("num_steps", [30, 1000])
@pytest.mark.parametrize(("kind", "theirs", "named"), SCHEDULES)
def test_same_schedules(kind, theirs, named, num_steps):
    """Their buffers are float32; the largest beta is near 1, where that is 6e-8. See the table of betas in float64."""
    name = "tiny, classes" if kind is guidance.GaussianDiffusion else "tiny"
    diffusion = kind(unet(name), image_size=8, timesteps=num_steps, beta_schedule=theirs)
    schedule = build_schedule(
        ScheduleConfig(name=named, num_steps=num_steps, rescale_betas=theirs == "linear" and num_steps != 1000)
    )
    for buffer, table in (("betas", schedule.beta), ("alphas_cumprod", schedule.alpha_bar)):
        torch.testing.assert_close(getattr(diffusion, buffer).double(), table[1:], rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("num_steps", [30, 1000])
def test_betas_in_float64(num_steps):
    """Their sigmoid has ends in float32: alpha_bar is 8e-9 off; betas near T, from ratios of small numbers, more."""
    from denoising_diffusion_pytorch import denoising_diffusion_pytorch as code

    for kind, config in (
        (code.cosine_beta_schedule, ScheduleConfig(name="cosine", num_steps=num_steps)),
        (code.linear_beta_schedule, ScheduleConfig(num_steps=num_steps, rescale_betas=num_steps != 1000)),
    ):
        torch.testing.assert_close(kind(num_steps), build_schedule(config).beta[1:], rtol=1e-10, atol=1e-14)
    schedule = build_schedule(ScheduleConfig(name="sigmoid_alpha_bar", num_steps=num_steps))
    betas = code.sigmoid_beta_schedule(num_steps)
    assert (betas - schedule.beta[1:]).abs().max() < 1e-5
    assert (torch.cumprod(1 - betas, 0) - schedule.alpha_bar[1:]).abs().max() < 1e-8


def model_of(name, prediction, variance, schedule):
    config, _, (channels, *size) = MODELS[name]
    classes = CLASSES if "classes" in name else None
    model = ModelConfig(
        network=config,
        image_size=tuple(size),
        channels=channels,
        num_classes=classes,
        prediction=prediction,
        variance=variance,
        schedule=schedule,
    )
    denoiser = Denoiser.from_config(model).eval()
    denoiser.network.load_state_dict(from_lucidrains_weights(weights(name), denoiser.network))
    return denoiser


STEPS = torch.arange(1, 26)
"""All times of a short process, one for each image of a batch; theirs are one less."""


def step(denoiser, x):
    """x_0 as it is clipped, mean and log variance of the ancestral step, and what rounding may do to the first two."""
    out = denoiser(x, STEPS)
    x_0 = out.x_0.clamp(-1, 1)
    mean = GaussianProcess(denoiser.schedule).posterior(x_0, x, STEPS).mean
    log_variance = log_var(denoiser.config.variance, denoiser.schedule, STEPS, STEPS - 1, out.learned_variance)
    log_variance = log_variance.reshape(len(x), *(log_variance.shape[1:] or (1, 1, 1)))
    # where x_0 follows from eps, rounding grows as x_0 does before it is clipped
    return x_0, mean, log_variance, 1e-5 * out.x_0.abs().amax((1, 2, 3), keepdim=True).clamp(min=1)


def same_steps(diffusion, denoiser):
    """At every time; but the variance of the last step, which is never used."""
    torch.manual_seed(5)
    x = torch.randn(len(STEPS), 1, *denoiser.config.image_size)
    with torch.no_grad():
        mean, _, log_variance, x_0 = diffusion.p_mean_variance(x=x, t=STEPS - 1, clip_denoised=True)
        our_x_0, our_mean, our_log_variance, tolerance = step(denoiser, x)
    assert ((our_x_0 - x_0).abs() < tolerance).all()
    assert ((our_mean - mean).abs() < tolerance).all()
    assert ((our_log_variance - log_variance)[1:].abs() < 1e-4).all()


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("theirs", ["sigmoid", "linear"])
def test_same_ancestral_steps(objective, theirs):
    diffusion = lucidrains.GaussianDiffusion(
        unet("tiny"), image_size=(8, 12), timesteps=len(STEPS), objective=objective, beta_schedule=theirs
    )
    name = {"sigmoid": "sigmoid_alpha_bar", "linear": "linear"}[theirs]
    schedule = ScheduleConfig(name=name, num_steps=len(STEPS), rescale_betas=theirs == "linear")
    same_steps(diffusion, model_of("tiny", OBJECTIVES[objective], "fixed_small", schedule))


def test_same_ancestral_steps_with_learned_variance():
    """Theirs takes the network to predict eps whatever its objective is: here its default, v."""
    name = "tiny, learned variance"
    diffusion = lucidrains.LearnedGaussianDiffusion(unet(name), image_size=8, timesteps=len(STEPS))
    assert diffusion.objective == "pred_v"
    schedule = ScheduleConfig(name="sigmoid_alpha_bar", num_steps=len(STEPS))
    same_steps(diffusion, model_of(name, "eps", "learned_range", schedule))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_same_predictions_as_their_ddim_uses(objective):
    """x_0 clipped, and eps derived again from it."""
    diffusion = lucidrains.GaussianDiffusion(
        unet("tiny"), image_size=(8, 12), timesteps=len(STEPS), objective=objective, beta_schedule="cosine"
    )
    schedule = ScheduleConfig(name="cosine", num_steps=len(STEPS))
    denoiser = model_of("tiny", OBJECTIVES[objective], "fixed_small", schedule)
    torch.manual_seed(5)
    x = torch.randn(len(STEPS), 1, 8, 12)
    with torch.no_grad():
        eps, x_0 = diffusion.model_predictions(x, STEPS - 1, clip_x_start=True, rederive_pred_noise=True)
        our_x_0, _, _, tolerance = step(denoiser, x)
    assert ((our_x_0 - x_0).abs() < tolerance).all()
    alpha_bar = denoiser.schedule.alpha_bar[STEPS][:, None, None, None]
    our_eps = (x - alpha_bar.sqrt() * our_x_0) / (1 - alpha_bar).sqrt()
    assert ((our_eps - eps).abs() < 1e-4).all()


def test_same_predictions_with_classes():
    """Their model_predictions always guides, and fails where the guidance is 1: so its parts."""
    name = "tiny, classes"
    diffusion = guidance.GaussianDiffusion(unet(name), image_size=8, timesteps=len(STEPS))
    denoiser = model_of(name, "eps", "fixed_small", ScheduleConfig(name="cosine", num_steps=len(STEPS)))
    torch.manual_seed(5)
    x, label = torch.randn(len(STEPS), 1, 8, 8), STEPS % CLASSES
    with torch.no_grad():
        output = diffusion.model(x, STEPS - 1, label, cond_drop_prob=0.0)
        expected = diffusion.predict_start_from_noise(x, STEPS - 1, output)
        got = denoiser(x, STEPS, label).x_0
    assert ((got - expected).abs() < 1e-5 * expected.abs().amax((1, 2, 3), keepdim=True)).all()
