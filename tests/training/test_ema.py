"""The averaged weights."""

from collections.abc import Iterable

import pytest
import torch

from undye.config import CompactConfig, ModelConfig
from undye.denoiser import Denoiser
from undye.errors import UserError
from undye.training.ema import EMA, PowerEMA
from undye.training.profile import gamma_of, step_weights


def tiny() -> Denoiser:
    return Denoiser.from_config(
        ModelConfig(network=CompactConfig(channels=(8,), blocks=(1,), head_channels=0), image_size=(4, 4), channels=1)
    )


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.9999])
def test_average_against_the_recursion(decay: float) -> None:
    model = tiny()
    ema = EMA(model, decay)
    weight = next(model.parameters())
    expected = weight.detach().double().clone()
    for step in range(1, 30):
        with torch.no_grad():
            weight.add_(torch.randn_like(weight))
        d = min(decay, (1 + step) / (10 + step))
        expected = d * expected + (1 - d) * weight.detach().double()
        ema.update(model, step)
    torch.testing.assert_close(next(ema.model.parameters()).double(), expected, rtol=1e-5, atol=1e-6)


def test_the_average_takes_no_part_in_training() -> None:
    ema = EMA(tiny(), 0.9)
    assert not ema.model.training
    assert not any(p.requires_grad for p in ema.model.parameters())


STDS = (0.05, 0.1)


def walk(network: torch.nn.Module, size: float = 0.1) -> None:
    with torch.no_grad():
        for w in network.parameters():
            w.add_(size * torch.randn_like(w))


def flat(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
    return torch.cat([t.detach().flatten() for t in tensors]).double()


def test_power_averages_against_their_weights() -> None:
    network = tiny().network
    averages, seen = PowerEMA(network, STDS), []
    for step in range(1, 41):
        walk(network)
        averages.update(network, step)
        seen.append(flat(network.parameters()))
    for std in STDS:
        expected = torch.from_numpy(step_weights(std, 40)) @ torch.stack(seen)
        torch.testing.assert_close(flat(averages.averages[std].values()), expected, rtol=1e-12, atol=1e-14)


def test_power_averages_follow_far_into_a_run() -> None:
    """At step 10^7 a step moves them by less than float32 can hold: and is felt all the same."""
    network, start = tiny().network, 10**7
    averages = PowerEMA(network, [0.05])
    before = flat(network.parameters())
    for average, w in zip(averages.averages[0.05].values(), network.parameters(), strict=True):
        average.copy_(w.detach())
    with torch.no_grad():
        for w in network.parameters():
            w.mul_(1 + 1e-3)
    steps = 200
    for step in range(start + 1, start + steps + 1):
        averages.update(network, step)
    moved = (flat(averages.averages[0.05].values()) - before).norm() / (flat(network.parameters()) - before).norm()
    kept = 1 - (start / (start + steps)) ** (gamma_of(0.05) + 1)
    assert float(moved) == pytest.approx(kept, rel=1e-6)


def test_power_averages_go_on_from_their_state() -> None:
    network = tiny().network
    whole, first = PowerEMA(network, STDS), PowerEMA(network, STDS)
    for step in range(1, 6):
        walk(network)
        whole.update(network, step)
        first.update(network, step)
    second = PowerEMA(network, STDS)
    second.load_state(first.state())
    walk(network)
    whole.update(network, 6)
    second.update(network, 6)
    assert all(torch.equal(a, second.state()[k]) for k, a in whole.state().items())
    assert all(a.dtype == torch.float64 for a in second.state().values())
    state = first.state()
    state.popitem()
    with pytest.raises(UserError, match="damaged"):
        second.load_state(state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_power_averages_give_is_a_copy_in_the_weights_precision(dtype: torch.dtype) -> None:
    network = tiny().network.to(dtype)
    averages = PowerEMA(network, STDS)
    averages.update(network, 1)
    given = averages.network_states(network)
    before = {std: {k: v.clone() for k, v in state.items()} for std, state in given.items()}
    walk(network)
    averages.update(network, 2)
    for std, state in given.items():
        assert set(state) == set(network.state_dict())
        assert all(torch.equal(v, before[std][k]) and v.dtype == dtype for k, v in state.items())
