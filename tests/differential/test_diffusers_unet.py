"""Our U-Net against diffusers' UNet2DModel, set up as the published network, with the same random weights."""

import pytest
import torch
from diffusers import UNet2DModel

from undye.config import UNetConfig
from undye.networks import UNet

CONFIG = UNetConfig(base_channels=32, channel_mult=(1, 2), attention_levels=(1,), dropout=0.0)

NAMES = {
    "time_mlp.0": "time_embedding.linear_1",
    "time_mlp.2": "time_embedding.linear_2",
    "norm_out": "conv_norm_out",
    "middle1": "mid_block.resnets.0",
    "middle_attention": "mid_block.attentions.0",
    "middle2": "mid_block.resnets.1",
}
PARTS = {
    "emb_proj": "time_emb_proj",
    "shortcut": "conv_shortcut",
    "norm": "group_norm",
    "q": "to_q",
    "k": "to_k",
    "v": "to_v",
    "proj_out": "to_out.0",
}


def their_name(name: str) -> str:
    """down.0.blocks.1.conv1.weight -> down_blocks.0.resnets.1.conv1.weight, and so on."""
    for ours, theirs in NAMES.items():
        if name.startswith(f"{ours}."):
            name = theirs + name.removeprefix(ours)
    words = name.split(".")
    if words[0] in ("down", "up"):
        sampler = f"{words[0]}samplers.0"
        words[2] = {"blocks": "resnets", "attentions": "attentions", "resample": sampler}[words[2]]
        words[0] += "_blocks"
    words[-2] = PARTS.get(words[-2], words[-2])
    return ".".join(words)


def test_same_output_with_the_same_weights():
    ours = UNet(CONFIG, channels=3, out_channels=3)
    theirs = UNet2DModel(
        in_channels=3,
        out_channels=3,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=2,
        norm_eps=1e-6,
        norm_num_groups=32,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        attention_head_dim=None,
        dropout=0.0,
    )
    for parameter in ours.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    weights, shapes = {}, {k: v.shape for k, v in theirs.state_dict().items()}
    for name, value in ours.state_dict().items():
        key = their_name(name)
        weights[key] = value.reshape(shapes[key])  # their q, k, v and output are linear layers, ours 1x1 convolutions
    theirs.load_state_dict(weights)
    assert len(weights) == len(ours.state_dict())

    for dtype, tolerance in [(torch.float32, 1e-5), (torch.float64, 1e-9)]:
        x, t = torch.randn(3, 3, 16, 8, dtype=dtype), torch.tensor([0, 3, 977])
        with torch.no_grad():
            got = ours.to(dtype).eval()(x, t.float())
            expected = theirs.to(dtype).eval()(x, t).sample
        scale = expected.abs().max().item()
        assert (got - expected).abs().max().item() < tolerance * scale


@pytest.mark.parametrize("part", ["down.0.resample.conv.weight", "up.1.attentions.0.q.bias", "middle1.norm1.weight"])
def test_key_map(part):
    expected = {
        "down.0.resample.conv.weight": "down_blocks.0.downsamplers.0.conv.weight",
        "up.1.attentions.0.q.bias": "up_blocks.1.attentions.0.to_q.bias",
        "middle1.norm1.weight": "mid_block.resnets.0.norm1.weight",
    }
    assert their_name(part) == expected[part]
