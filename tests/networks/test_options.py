"""Every setting of the U-Net does something, fits the others, and survives being written down."""

import json
from dataclasses import fields, replace

import pytest
import torch

from undye.config import ModelConfig, UNetConfig
from undye.errors import UserError
from undye.networks.attention import AttentionBlock
from undye.networks.embedding import sinusoidal
from undye.networks.resample import Downsample
from undye.networks.resblock import ResBlock
from undye.networks.unet import UNet
from undye.structure import structure, unstructure

BASE = UNetConfig(base_channels=8, channel_mult=(1, 2), num_res_blocks=1, norm_groups=4, dropout=0.0)

# a network of other weights; or of the same weights that computes something else
OTHER_WEIGHTS = {
    "base_channels": 16,
    "channel_mult": (1, 1.5),
    "stem_channels": 12,
    "num_res_blocks": 2,
    "attention_levels": (0, 1),
    "middle_attention": False,
    "scale_shift_norm": True,
    "resample": "resblock",
}
OTHER_NUMBERS = {
    "num_heads": 2,
    "head_channels": 4,
    "downsample_padding": "symmetric",
    "time_order": "cos_sin",
    "time_denominator": "half",
    "norm_groups": 2,
    "norm_eps": 1e-2,
}


def network(config):
    torch.manual_seed(3)
    made = UNet(config, 3, 3)
    for parameter in made.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return made


def output(made, size=(8, 12)):
    generator = torch.Generator().manual_seed(4)
    x, t = torch.randn(2, 3, *size, generator=generator), torch.tensor([3.0, 800.0])
    return made(x, t)


def test_no_setting_is_forgotten_here():
    elsewhere = {"kind", "dropout", "init", "checkpointing"}  # in test_both_networks, test_initialisation, ...
    assert {f.name for f in fields(UNetConfig)} == {*OTHER_WEIGHTS, *OTHER_NUMBERS, *elsewhere}


@pytest.mark.parametrize(("setting", "value"), OTHER_WEIGHTS.items())
def test_settings_that_shape_the_weights(setting, value):
    shapes = [
        {name: weight.shape for name, weight in network(config).state_dict().items()}
        for config in (BASE, replace(BASE, **{setting: value}))
    ]
    assert shapes[0] != shapes[1]


@pytest.mark.parametrize(("setting", "value"), OTHER_NUMBERS.items())
def test_settings_that_change_what_the_weights_do(setting, value):
    one, other = network(BASE), network(replace(BASE, **{setting: value}))
    other.load_state_dict(one.state_dict())
    assert (output(one) - output(other)).abs().max() > 1e-3


def test_resampling_without_weights():
    pool = network(replace(BASE, resample="pool"))
    assert not [name for name in pool.state_dict() if "resample" in name]
    blocks = {
        name.split(".", 3)[3] for name in network(replace(BASE, resample="resblock")).state_dict() if "res" in name
    }
    assert {"norm1.weight", "conv2.bias", "emb_proj.bias"} <= blocks
    x = torch.rand(1, 2, 4, 6)
    down, up = pool.down[0].resample, pool.up[0].resample
    assert torch.equal(down(up(x)), x)
    assert down(x)[0, 0, 0, 0] == pytest.approx(x[0, 0, :2, :2].mean().item())


def test_a_residual_block_that_halves_does_so_on_both_branches():
    """Before its first convolution: with that at nothing, what is left is the average of the input."""
    block = network(replace(BASE, resample="resblock")).down[0].resample
    assert isinstance(block, ResBlock)
    for layer in (block.conv1, block.conv2, block.emb_proj):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
    x, emb = torch.randn(2, 8, 6, 4), torch.randn(2, 32)
    torch.testing.assert_close(block(x, emb), torch.nn.functional.avg_pool2d(x, 2))


def test_scale_and_shift_by_hand():
    block = ResBlock(8, 8, 3, replace(BASE, scale_shift_norm=True))
    block.conv2.weight.data.zero_()
    block.conv2.weight.data[:, :, 1, 1] = torch.eye(8)
    x, emb = torch.randn(2, 8, 4, 4), torch.randn(2, 3)
    scale, shift = block.emb_proj(torch.nn.functional.silu(emb)).unflatten(1, (2, 8)).unbind(1)
    h = block.norm2(block.conv1(torch.nn.functional.silu(block.norm1(x))))
    h = torch.nn.functional.silu(h * (1 + scale[:, :, None, None]) + shift[:, :, None, None])
    torch.testing.assert_close(block(x, emb), x + h)


def test_heads_do_not_see_each_other():
    """Two heads are two attentions of half the width, each with its own rows of q, k and v."""
    wide = AttentionBlock(8, replace(BASE, num_heads=2)).double()
    torch.nn.init.eye_(wide.proj_out.weight.data[:, :, 0, 0])
    x = torch.randn(2, 8, 3, 2, dtype=torch.float64)
    h, got = wide.norm(x), wide(x) - x
    for head in range(2):
        rows = slice(4 * head, 4 * head + 4)
        q, k, v = (layer(h)[:, rows].flatten(2) for layer in (wide.q, wide.k, wide.v))
        weights = torch.softmax(q.transpose(1, 2) @ k / 2, dim=-1)
        torch.testing.assert_close(got[:, rows].flatten(2), v @ weights.transpose(1, 2))


def test_head_channels_are_heads_of_that_width():
    config = replace(BASE, channel_mult=(1, 2, 4), attention_levels=(0, 1), head_channels=4)
    made = network(config)
    heads = [m.heads for m in made.modules() if isinstance(m, AttentionBlock)]
    assert heads == [2, 4, 8, 4, 4, 2, 2]  # widths 8, 16, middle 32, 16, 16, 8, 8
    same = network(replace(config, attention_levels=(1,), head_channels=None, num_heads=4))
    assert {m.heads for m in same.modules() if isinstance(m, AttentionBlock)} == {4}


def test_symmetric_padding_is_pytorchs():
    layer = Downsample(3, "symmetric")
    x = torch.randn(2, 3, 6, 8)
    expected = torch.nn.functional.conv2d(x, layer.conv.weight, layer.conv.bias, stride=2, padding=1)
    torch.testing.assert_close(layer(x), expected)


def test_time_embedding_of_openai():
    """Cosines first, frequencies 10000^(-i / half), so that 1 / 10000 is not among them."""
    got = sinusoidal(torch.tensor([0.0, 17.5]), 8, order="cos_sin", denominator="half")
    frequencies = 1e4 ** -(torch.arange(4) / 4)
    assert got[0].tolist() == [1.0] * 4 + [0.0] * 4
    torch.testing.assert_close(got[1], torch.cat([(17.5 * frequencies).cos(), (17.5 * frequencies).sin()]))


def test_the_stem_may_be_narrower_than_the_time_embedding():
    """As in guided-diffusion's 512x512 model: half."""
    made = network(UNetConfig(base_channels=16, channel_mult=(0.5, 1), stem_channels=8, norm_groups=4))
    assert made.conv_in.weight.shape[0] == made.conv_out.weight.shape[1] == 8
    assert made.time_mlp[0].weight.shape == (64, 16)


def test_the_large_bedroom_model():
    """Ho et al. 2020, appendix B: about 256 million parameters, "by increasing filter count": 192 instead of 128."""
    config = UNetConfig(base_channels=192, channel_mult=(1, 1, 2, 2, 4, 4), attention_levels=(4,), dropout=0.0)
    with torch.device("meta"):
        assert sum(p.numel() for p in UNet(config, 3, 3).parameters()) == 255_677_955


def test_all_options_survive_being_written_down():
    config = replace(
        BASE,
        **{k: v for k, v in (OTHER_WEIGHTS | OTHER_NUMBERS).items() if k not in ("num_heads", "downsample_padding")},
    )
    config = replace(config, base_channels=16, head_channels=8, init="torch_zero", checkpointing=True)
    model = ModelConfig(network=config, num_classes=3, null_label=False)
    assert structure(ModelConfig, json.loads(json.dumps(unstructure(model))), "here") == model
    assert isinstance(structure(ModelConfig, unstructure(ModelConfig()), "here").network.channel_mult[0], int)


def test_configurations_from_before_these_options_load():
    """A config.json of version 0.1.0 names none of them."""
    old = {"kind": "unet", "base_channels": 128, "channel_mult": [1, 2, 2, 2], "num_res_blocks": 2}
    old |= {"attention_levels": [1], "dropout": 0.1, "norm_groups": 32, "norm_eps": 1e-6}
    assert structure(ModelConfig, {"network": old, "num_classes": 10}, "here") == ModelConfig(num_classes=10)


def test_the_papers_network_is_bit_for_bit_what_it_was():
    """Weights and output of a narrow one, for a seed, as version 0.1.0 had them: no option moves a random number."""
    torch.manual_seed(0)
    made = UNet(UNetConfig(base_channels=32), 3, 3).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
        out = made(torch.randn(1, 3, 16, 16, generator=generator), torch.tensor([500.0]))
    weights = sum(p.double().abs().sum().item() for p in made.parameters())
    assert weights == pytest.approx(126508.2570126875, rel=1e-9)
    assert out.double().abs().sum().item() == pytest.approx(319.783453312004, rel=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"base_channels": 2}, "at least 4 base channels"),
        ({"channel_mult": ()}, "at least 4 base channels, one level"),
        ({"channel_mult": (1, 0)}, "at least 4 base channels, one level"),
        ({"channel_mult": (1, -1.0)}, "at least 4 base channels, one level"),
        ({"num_res_blocks": 0}, "one block in each"),
        ({"norm_groups": 0}, "one norm group"),
        ({"base_channels": 9, "norm_groups": 1}, "base_channels must be even"),
        ({"channel_mult": (1, 1.3)}, "8 base channels times 1.3 is not a whole number"),
        ({"channel_mult": (1, 1.25)}, "10 channels does not divide into 4 norm groups"),
        ({"stem_channels": 6}, "6 channels does not divide into 4 norm groups"),
        ({"stem_channels": 0}, "0 channels does not divide"),
        ({"attention_levels": (2,)}, r"no level 2 to attend at: levels are 0\.\.1"),
        ({"attention_levels": (-1,)}, "no level -1"),
        ({"num_heads": 2, "head_channels": 4}, "num_heads or by head_channels, not by both"),
        ({"num_heads": 0}, "must be at least 1"),
        ({"head_channels": 0}, "must be at least 1"),
        ({"num_heads": 3}, "16 channels does not divide into 3 heads"),
        ({"head_channels": 5}, "16 channels does not divide into heads of 5"),
        ({"num_heads": 3, "attention_levels": ()}, "16 channels does not divide into 3 heads"),
        ({"resample": "pool", "downsample_padding": "symmetric"}, "downsample_padding is for resample conv"),
        ({"norm_eps": 0.0}, "norm_eps must be above 0"),
        ({"norm_eps": float("nan")}, "norm_eps must be above 0"),
        ({"dropout": 1.0}, "dropout must lie in"),
    ],
    ids=str,
)
def test_settings_that_do_not_fit(settings, message):
    with pytest.raises(UserError, match=message) as raised:
        replace(BASE, **settings)
    assert "\n" not in str(raised.value)


def test_heads_need_not_divide_what_does_not_attend():
    assert replace(BASE, num_heads=3, attention_levels=(), middle_attention=False).attended_widths == ()
