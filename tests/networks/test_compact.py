import pytest
import torch
from torch import nn

from undye.config import CompactConfig
from undye.networks.compact import CompactUNet, Fold, Norm, Unfold

CONFIG = CompactConfig(channels=(16, 32), blocks=(1, 2), head_channels=16)


def lively():
    torch.manual_seed(2)
    network = CompactUNet(CONFIG, 1, 1).eval()
    for parameter in network.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return network


def test_bf16_autocast_is_close_to_float32():
    network, x, t = lively(), torch.randn(4, 1, 28, 28), torch.tensor([1.0, 250.0, 500.0, 1000.0])
    with torch.no_grad():
        full = network(x, t)
        with torch.autocast("cpu", torch.bfloat16):
            half = network(x, t)
    assert not torch.equal(half.float(), full)
    assert (half - full).norm() < 0.03 * full.norm()


def test_norm_stays_in_float32_under_autocast():
    x = 1000 + torch.randn(2, 16, 4, 4)
    norm = Norm(16)
    with torch.autocast("cpu", torch.bfloat16):
        out = norm(x)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, norm(x))
    assert norm(x.bfloat16()).dtype == torch.bfloat16, "a network in bfloat16 goes on in it"
    assert norm.double()(x.double()).dtype == torch.float64


@pytest.mark.parametrize(("channels", "groups"), [(64, 8), (160, 20), (4, 1), (20, 2), (28, 2), (7, 1)])
def test_groups_divide_the_channels(channels, groups):
    assert Norm(channels).groups == groups


def test_norm_is_group_norm():
    x = torch.randn(2, 32, 5, 3)
    torch.testing.assert_close(Norm(32)(x), nn.GroupNorm(4, 32)(x))


def test_fold_and_unfold_lose_nothing():
    """With the identity as their matrix, they undo each other."""
    fold, unfold = Fold(3, 12), Unfold(12, 3)
    for layer in (fold, unfold):
        layer.mix.weight.data = torch.eye(12).view(12, 12, 1, 1)
        layer.mix.bias.data.zero_()
    x = torch.randn(2, 3, 6, 4)
    assert fold(x).shape == (2, 12, 3, 2)
    torch.testing.assert_close(unfold(fold(x)), x)


def test_patches_set_the_stride():
    assert CompactUNet(CompactConfig(patch=4, channels=(8, 8, 8), blocks=(1, 1, 1)), 1, 1).stride == 16
    assert CompactUNet(CompactConfig(patch=1, channels=(8,), blocks=(1,), head_channels=0), 1, 1).stride == 1


def test_attention_only_in_the_lowest_level():
    with_attention = {n.split(".")[0] for n, _ in lively().named_modules() if n.endswith("attention.qkv")}
    assert with_attention == {"middle"}
    network = CompactUNet(CompactConfig(head_channels=0), 1, 1)
    assert not any("attention" in name for name, _ in network.named_parameters())


@pytest.mark.parametrize(("channels", "blocks"), [((8, 8), (1,)), ((), ())])
def test_levels_must_agree(channels, blocks):
    with pytest.raises(ValueError, match="as many numbers"):
        CompactUNet(CompactConfig(channels=channels, blocks=blocks), 1, 1)
