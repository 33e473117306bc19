import jaxtyping
import pytest
import torch
from torch import nn

from undye.config import ModelConfig, ScheduleConfig
from undye.denoiser import Denoiser, build_schedule
from undye.diffusion.schedule import NoiseSchedule


class Users(nn.Module):
    """A user's own network: (x, t, label) -> as x."""

    def __init__(self, out=1):
        super().__init__()
        self.conv = nn.Conv2d(3, 3 * out, 1)

    def forward(self, x, t, label=None):
        self.seen = (x, t, label)
        return self.conv(x)


def model(out=1, **options):
    return Denoiser(Users(out), ModelConfig(image_size=(4, 4), **options))


@pytest.mark.parametrize(
    ("time_input", "num_steps", "t", "seen"),
    [
        ("zero_based", 1000, [1, 1000], [0, 999]),
        ("zero_based", 50, [1, 50], [0, 49]),
        ("zero_based", 50, [0.5, 49.25], [-0.5, 48.25]),
        ("zero_based_per_mille", 1000, [1, 1000], [0, 999]),
        ("zero_based_per_mille", 4000, [1, 4000], [0, 999.75]),
        ("per_mille", 1000, [1, 1000], [1, 1000]),
        ("per_mille", 50, [1, 50], [20, 1000]),
        ("per_mille", 4000, [1.0, 4000.0], [0.25, 1000]),
    ],
)
def test_what_the_network_is_told_of_the_time(time_input, num_steps, t, seen):
    denoiser = model(time_input=time_input, schedule=ScheduleConfig(num_steps=num_steps))
    denoiser(torch.randn(2, 3, 4, 4), torch.tensor(t))
    assert denoiser.network.seen[1].tolist() == pytest.approx(seen)
    assert denoiser.network.seen[1].dtype == torch.float32


def test_a_users_own_network():
    denoiser, x_t, t = model(prediction="eps", num_classes=4), torch.randn(2, 3, 4, 4), torch.tensor([3, 700])
    label = torch.tensor([0, 4])
    out = denoiser(x_t, t, label)
    assert out.var_fraction is None
    torch.testing.assert_close(out.eps, denoiser.network.conv(x_t))
    torch.testing.assert_close(denoiser.process.q_sample(out.x_0, t, out.eps), x_t, rtol=0, atol=1e-5)
    seen = denoiser.network.seen
    assert torch.equal(seen[0], x_t)
    assert torch.equal(seen[2], label)
    denoiser(x_t, t)
    assert denoiser.network.seen[2] is None


def test_var_fraction_comes_from_the_upper_channels():
    denoiser, x_t = model(out=2, variance="learned_range"), torch.randn(2, 3, 4, 4)
    out, raw = denoiser(x_t, torch.tensor([3, 700])), denoiser.network.conv(x_t)
    torch.testing.assert_close(out.eps, raw[:, :3])
    # the network's -1 and 1 are the two ends
    torch.testing.assert_close(out.var_fraction, (raw[:, 3:] + 1) / 2)


@pytest.mark.parametrize("label", [[-1, 0], [0, 6]])
def test_labels_out_of_range(label):
    with pytest.raises(ValueError, match=r"0\.\.4"):
        model(num_classes=5)(torch.randn(2, 3, 4, 4), torch.tensor([3, 7]), torch.tensor(label))


def test_labels_of_another_number(monkeypatch):
    """A network would spread one label over all images, without a word."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # without the checks that only tests make
    with pytest.raises(ValueError, match=r"each of the 2 images, got \(1,\)"):
        model(num_classes=5)(torch.randn(2, 3, 4, 4), torch.tensor([3, 7]), torch.tensor([1]))


def test_no_labels_without_classes():
    with pytest.raises(ValueError, match="unconditional"):
        model()(torch.randn(2, 3, 4, 4), torch.tensor([3, 7]), torch.tensor([0, 0]))


@pytest.mark.parametrize("t", [[0, 1001], [-1, 5]])
def test_times_out_of_range(t):
    with pytest.raises(ValueError, match=r"0\.\.1000"):
        model()(torch.randn(2, 3, 4, 4), torch.tensor(t))


def test_the_schedule_is_the_configurations():
    made = build_schedule(ScheduleConfig(name="scaled_linear", num_steps=20, beta_end=0.05))
    expected = NoiseSchedule.named("scaled_linear", 20, beta_end=0.05)
    assert torch.equal(made.log_alpha_bar, expected.log_alpha_bar)
    denoiser = model(schedule=ScheduleConfig(num_steps=20))
    assert denoiser.process.schedule is denoiser.schedule
    assert denoiser.schedule.num_steps == 20


def test_only_the_network_has_weights():
    """So that a checkpoint's names do not depend on the schedule or the prediction."""
    denoiser = model()
    assert [name for name, _ in denoiser.named_parameters()] == ["network.conv.weight", "network.conv.bias"]
    assert set(denoiser.state_dict()) == {"network.conv.weight", "network.conv.bias"}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_dtypes_go_through(dtype):
    denoiser = model(prediction="v").to(dtype)
    out = denoiser(torch.randn(2, 3, 4, 4, dtype=dtype), torch.tensor([3, 700]))
    # the process is never computed in half precision
    assert out.x_0.dtype == out.eps.dtype == torch.promote_types(dtype, torch.float32)
