"""Our U-Net against diffusers' UNet2DModel: the same outputs and gradients with the same random weights."""

import inspect
from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DModel

from undye.config import UNetConfig
from undye.errors import UserError
from undye.networks.names_diffusers import (
    DEFAULTS,
    diffusers_name,
    from_diffusers_config,
    from_diffusers_weights,
    to_diffusers_config,
    to_diffusers_weights,
)
from undye.networks.spec import UNetSpec

# the config.json of google/ddpm-cifar10-32; _256 that of google/ddpm-celebahq-256 and the LSUN ones
CIFAR10 = {
    "_class_name": "UNet2DModel",
    "_diffusers_version": "0.0.4",
    "act_fn": "silu",
    "attention_head_dim": None,
    "block_out_channels": [128, 256, 256, 256],
    "center_input_sample": False,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "in_channels": 3,
    "layers_per_block": 2,
    "mid_block_scale_factor": 1,
    "norm_eps": 1e-6,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 32,
    "time_embedding_type": "positional",
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
}
_256 = CIFAR10 | {
    "block_out_channels": [128, 128, 256, 256, 512, 512],
    "down_block_types": ["DownBlock2D"] * 4 + ["AttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "AttnUpBlock2D"] + ["UpBlock2D"] * 4,
    "sample_size": 256,
}
# all that is left out: eps 1e-5, padding 1, cosines first, frequency shift 0, heads 8 wide
OWN = {"block_out_channels": [32, 64, 96, 64], "out_channels": 6, "sample_size": [32, 16]}
OPENAI = {
    "block_out_channels": [32, 64, 96],
    "down_block_types": ["ResnetDownsampleBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"],
    "downsample_type": "resnet",
    "upsample_type": "resnet",
    "resnet_time_scale_shift": "scale_shift",
    "attn_norm_num_groups": 16,
    "norm_num_groups": 16,
    "attention_head_dim": 16,
    "num_class_embeds": 10,
    "layers_per_block": 1,
}
SMALL = {"block_out_channels": [16, 24, 32], "norm_num_groups": 8, "layers_per_block": 1} | {
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
}
MODELS = {
    "ddpm-cifar10": (CIFAR10 | {"block_out_channels": [32, 64, 64, 64]}, (32, 32)),
    "ddpm-256": (_256 | {"block_out_channels": [8, 8, 16, 16, 32, 32], "norm_num_groups": 8}, (64, 64)),
    "ddpm with classes": (CIFAR10 | SMALL | {"num_class_embeds": 5}, (16, 24)),
    "their defaults": (OWN, (32, 16)),
    "as OpenAI's": (OPENAI, (32, 32)),
    "scale_shift": (SMALL | {"resnet_time_scale_shift": "scale_shift", "attn_norm_num_groups": 8}, (32, 24)),
    "resnet": (SMALL | {k: OPENAI[k] for k in OPENAI if "_type" in k}, (48, 32)),
    "no attention in the middle": (SMALL | {"add_attention": False, "downsample_padding": 0}, (16, 8)),
    "one level, grey": (
        {"block_out_channels": [8], "down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"]}
        | {"norm_num_groups": 4, "in_channels": 1, "out_channels": 2},
        (6, 5),
    ),
}
models = pytest.mark.parametrize(("given", "size"), MODELS.values(), ids=MODELS)


def pair(given):
    """The model as diffusers builds it, and ours with its weights; random ones of a size that keeps signals alive."""
    spec, theirs = from_diffusers_config(given), UNet2DModel.from_config(given)
    for name, parameter in theirs.named_parameters():
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 16
        torch.nn.init.normal_(parameter, float(name.endswith("weight") and parameter.ndim == 1), fan_in**-0.5)
    ours = spec.build()
    ours.load_state_dict(from_diffusers_weights(theirs.state_dict(), spec))
    return spec, ours.eval(), theirs.eval()


def batch(spec, size, dtype):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, spec.channels, *size, dtype=torch.float64, generator=generator).to(dtype)
    label = None if spec.num_classes is None else torch.tensor([1, spec.num_classes - 1])
    return x.requires_grad_(), torch.tensor([3, 977]), label


@models
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-9)], ids=str)
def test_same_outputs_and_gradients(given, size, dtype, tolerance):
    spec, ours, theirs = pair(given)
    ours, theirs = ours.to(dtype), theirs.to(dtype)
    x, t, label = batch(spec, size, dtype)
    x_again = x.detach().clone().requires_grad_()
    got, expected = ours(x, t.float(), label), theirs(x_again, t, class_labels=label).sample
    assert (got - expected).abs().max() < tolerance * expected.abs().max()

    cotangent = torch.randn_like(expected)
    got.backward(cotangent)
    expected.backward(cotangent)
    assert (x.grad - x_again.grad).abs().max() < tolerance * x_again.grad.abs().max()
    gradients = to_diffusers_weights({name: p.grad for name, p in ours.named_parameters()})
    wanted = {name: p.grad for name, p in theirs.named_parameters()}
    assert set(gradients) == set(wanted)
    largest = max(g.abs().max() for g in wanted.values())
    for name, gradient in wanted.items():
        # some are zero but for rounding: softmax does not see the keys' bias
        scale = gradient.abs().max() + (1e-3 if dtype == torch.float64 else 1) * largest
        assert (gradients[name] - gradient).abs().max() < tolerance * scale, name


@pytest.mark.parametrize("given", [given for given, _ in MODELS.values()], ids=MODELS)
def test_to_diffusers_and_back(given):
    """What we export is what was imported: the settings mean the same, and the weights are the same."""
    spec, ours, theirs = pair(given)
    config = to_diffusers_config(spec)
    assert from_diffusers_config(config) == spec
    assert set(inspect.signature(UNet2DModel).parameters) <= set(config)
    exported = UNet2DModel.from_config(config).eval()
    exported.load_state_dict(to_diffusers_weights(ours.state_dict()))
    x, t, label = batch(spec, (ours.stride, ours.stride), torch.float32)
    with torch.no_grad():
        assert torch.equal(exported(x, t, class_labels=label).sample, theirs(x, t, class_labels=label).sample)
    for name, weight in theirs.state_dict().items():
        assert torch.equal(exported.state_dict()[name], weight)


@pytest.mark.parametrize(
    ("given", "config", "count"),
    [
        (CIFAR10, UNetConfig(dropout=0.0, init="torch"), 35_746_307),
        (
            _256,
            UNetConfig(channel_mult=(1, 1, 2, 2, 4, 4), attention_levels=(4,), dropout=0.0, init="torch"),
            113_673_219,
        ),
    ],
)
def test_the_published_configurations_are_the_papers_models(given, config, count):
    size = given["sample_size"]
    assert from_diffusers_config(given) == UNetSpec(config=config, image_size=(size, size))
    with torch.device("meta"):
        assert sum(p.numel() for p in UNet2DModel.from_config(given).parameters()) == count


def test_initialisation_is_theirs():
    """Weights and biases are drawn from the same distributions: compared by their spread."""
    given = OPENAI | {"block_out_channels": [64, 64, 64]}
    spec, theirs = from_diffusers_config(given), UNet2DModel.from_config(given)
    assert spec.config.init == "torch"
    ours = to_diffusers_weights(spec.build().state_dict())
    for name, expected in theirs.state_dict().items():
        if expected.numel() < 2000:
            continue
        assert ours[name].std().item() == pytest.approx(expected.std().item(), rel=0.08), name
        assert ours[name].abs().max().item() == pytest.approx(expected.abs().max().item(), rel=0.25), name


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("down.0.resample.conv.weight", "down_blocks.0.downsamplers.0.conv.weight"),
        ("up.1.attentions.0.q.bias", "up_blocks.1.attentions.0.to_q.bias"),
        ("up.2.resample.norm1.bias", "up_blocks.2.upsamplers.0.norm1.bias"),
        ("middle1.norm1.weight", "mid_block.resnets.0.norm1.weight"),
        ("middle_attention.proj_out.weight", "mid_block.attentions.0.to_out.0.weight"),
        ("middle_attention.norm.weight", "mid_block.attentions.0.group_norm.weight"),
        ("class_embedding.table.weight", "class_embedding.weight"),
        ("conv_in.bias", "conv_in.bias"),
    ],
)
def test_names(ours, theirs):
    assert diffusers_name(ours) == theirs


def test_old_names_of_attention_are_understood():
    spec, ours, theirs = pair(MODELS["ddpm with classes"][0])
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    weights = {}
    for name, weight in theirs.state_dict().items():
        for new, legacy in old.items():
            name = name.replace(f".{new}.", f".{legacy}.")
        weights[name] = weight
    assert any(".proj_attn." in name for name in weights)
    for name, weight in from_diffusers_weights(weights, spec).items():
        assert torch.equal(weight, ours.state_dict()[name])


def test_the_null_label_is_a_row_of_their_table():
    spec = UNetSpec(config=UNetConfig(init="torch"), num_classes=4)
    config = to_diffusers_config(spec)
    assert config["num_class_embeds"] == 5
    assert from_diffusers_config(config, null_label=True) == spec
    without = from_diffusers_config(config)
    assert (without.num_classes, without.null_label) == (5, False)


def test_what_a_missing_setting_means_to_them():
    for name, parameter in inspect.signature(UNet2DModel).parameters.items():
        assert DEFAULTS[name] == parameter.default, name


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (lambda w: w.pop("conv_in.weight"), "weight 'conv_in.weight' is missing"),
        (lambda w: w.update(extra=torch.ones(1)), r"weight 'extra' belongs to no part of the model \(1 in all\)"),
        (
            lambda w: w.update({"conv_in.bias": torch.ones(7)}),
            r"'conv_in.bias' has shape \(7,\), the model needs \(16,",
        ),
    ],
)
def test_weights_that_do_not_fit(weights, message):
    spec, _, theirs = pair(SMALL)
    changed = dict(theirs.state_dict())
    weights(changed)
    with pytest.raises(UserError, match=message):
        from_diffusers_weights(changed, spec)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"time_embedding_type": "fourier"}, "time_embedding_type = 'fourier'"),
        ({"time_embedding_dim": 100}, "time_embedding_dim = 100"),
        ({"center_input_sample": True}, "center_input_sample = True"),
        ({"mid_block_type": None}, "mid_block_type = None"),
        ({"mid_block_scale_factor": 2}, "mid_block_scale_factor = 2"),
        ({"act_fn": "relu"}, "act_fn = 'relu'"),
        ({"class_embed_type": "timestep"}, "class_embed_type = 'timestep'"),
        ({"downsample_padding": 2}, "downsample_padding = 2"),
        ({"freq_shift": 2}, "freq_shift = 2"),
        ({"resnet_time_scale_shift": "spatial"}, "resnet_time_scale_shift = 'spatial'"),
        ({"resnet_time_scale_shift": "scale_shift"}, "scale_shift without attn_norm_num_groups"),
        ({"attn_norm_num_groups": 4}, "attn_norm_num_groups = 4"),
        ({"norm_num_groups": None}, "norm_num_groups = None"),
        ({"block_out_channels": []}, r"block_out_channels = \[\]"),
        ({"block_out_channels": [8, "9", 8]}, "block_out_channels = "),
        ({"sample_size": [8]}, r"sample_size = \[8\]"),
        ({"layers_per_block": True}, "layers_per_block = True"),
        ({"down_block_types": ["DownBlock2D"]}, "down_block_types = "),
        ({"down_block_types": ["UpBlock2D"] * 3}, "down_block_types = "),
        ({"up_block_types": ["AttnSkipUpBlock2D"] * 3}, "up_block_types = "),
        ({"up_block_types": ["UpBlock2D"] * 3}, "attends at other levels on the way up than down"),
        ({"downsample_type": "resnet"}, "resamples with convolutions at some levels and with residual blocks"),
        ({"downsample_type": "wavelet"}, "downsample_type = 'wavelet'"),
        ({"attention_head_dim": 5}, "does not divide into heads of 5"),
        ({"norm_num_group": 8}, "'norm_num_group' is no setting of diffusers' UNet2DModel"),
    ],
    ids=str,
)
def test_what_their_configurations_cannot_bring(change, message):
    with pytest.raises(UserError, match=message) as raised:
        from_diffusers_config(SMALL | change)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (UNetConfig(resample="pool"), "no resampling without weights"),
        (UNetConfig(stem_channels=64), "to be the same"),
        (UNetConfig(channel_mult=(2, 2), attention_levels=()), "to be the same"),
        (UNetConfig(num_heads=4, channel_mult=(1, 2, 4)), "heads of one width, 4 heads would be 64 and 128 wide"),
    ],
)
def test_what_cannot_be_exported(config, message):
    with pytest.raises(UserError, match=message):
        to_diffusers_config(UNetSpec(config=config))


def test_heads_of_one_width_can_be_exported():
    """Counted or by their width, where all levels that attend are as wide."""
    config = UNetConfig(num_heads=4)
    assert to_diffusers_config(UNetSpec(config=config))["attention_head_dim"] == 64
    by_width = replace(config, num_heads=1, head_channels=64, init="torch")
    assert from_diffusers_config(to_diffusers_config(UNetSpec(config=config))).config == by_width
    plain = replace(config, attention_levels=(), middle_attention=False)
    assert to_diffusers_config(UNetSpec(config=plain))["attention_head_dim"] is None
