from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from undye.config import CompactConfig, ModelConfig, ScheduleConfig
from undye.denoiser import Denoiser
from undye.errors import UserError
from undye.samplers import DDIM, SAMPLERS, Ancestral
from undye.sampling import SampleRequest, batches, film, resolve_sampler, sample, with_options

CONFIG = ModelConfig(
    network=CompactConfig(channels=(8,), blocks=(1,), head_channels=0),
    image_size=(8, 6),
    channels=3,
    num_classes=3,
    prediction="v",
    variance="fixed_small",
    schedule=ScheduleConfig(name="cosine", num_steps=20),
    time_input="per_mille",
)


def model(**options) -> Denoiser:
    torch.manual_seed(3)
    denoiser = Denoiser.from_config(replace(CONFIG, **options))
    for parameter in denoiser.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return denoiser.eval()


MODEL = model()


def states(n, **options):
    """The float samples, before they are rounded to pixels."""
    out = []
    for _, steps in batches(MODEL, SampleRequest(n=n, steps=5, **options)):
        *_, last = steps
        out.append(last.x)
    return torch.cat(out)


@pytest.mark.parametrize("sampler", [*SAMPLERS, DDIM(eta=1.0)], ids=str)
def test_a_sample_is_its_seed_and_number_alone(sampler):
    small = states(8, sampler=sampler, seed=11)
    images = sample(MODEL, 8, sampler, 5, seed=11).astype(int)
    assert (small[6] - small[7]).abs().max() > 0.1
    for batch_size in (64, 20, 7, None):
        torch.testing.assert_close(
            states(64, sampler=sampler, seed=11, batch_size=batch_size)[7], small[7], rtol=0, atol=1e-5
        )
    many = sample(MODEL, 64, sampler, 5, seed=11, batch_size=20).astype(int)
    assert abs(many[:8] - images).max() <= 1
    alone = sample(MODEL, 1, sampler, 5, seed=11, first_index=7).astype(int)
    assert abs(alone[0] - images[7]).max() <= 1
    other = sample(MODEL, 8, sampler, 5, seed=12).astype(int)
    assert abs(other - images).max() > 8


def test_what_comes_back():
    images = sample(MODEL, 3, steps=2)
    assert images.shape == (3, 8, 6, 3)
    assert images.dtype == np.uint8
    assert images.std() > 1
    assert sample(model(channels=1), 2, steps=2).shape == (2, 8, 6, 1)


def test_defaults_are_ddim_in_50_steps():
    long = model(schedule=ScheduleConfig(name="cosine", num_steps=100))
    assert np.array_equal(sample(long, 2), sample(long, 2, DDIM(), 50, 0, grid="uniform"))


def test_steps_none_are_all_of_them():
    assert np.array_equal(sample(MODEL, 2, steps=None), sample(MODEL, 2, steps=20))
    assert not np.array_equal(sample(MODEL, 2, steps=None), sample(MODEL, 2, steps=3))


def test_the_grid_counts():
    assert not np.array_equal(sample(MODEL, 2, steps=4), sample(MODEL, 2, steps=4, grid="quadratic"))


def test_labels():
    per_image = sample(MODEL, 3, steps=4, label=[0, 2, 2], batch_size=2).astype(int)
    for label in (0, 2):
        every = sample(MODEL, 3, steps=4, label=label).astype(int)
        for i, wanted in enumerate([0, 2, 2]):
            close = abs(every[i] - per_image[i]).max() <= 1
            assert close == (wanted == label)


def test_guidance():
    unconditional, conditional = sample(MODEL, 3, steps=4), sample(MODEL, 3, steps=4, label=1)
    assert np.array_equal(sample(MODEL, 3, steps=4, label=1, guidance=1.0), conditional)
    assert abs(sample(MODEL, 3, steps=4, label=1, guidance=0.0).astype(int) - unconditional.astype(int)).max() <= 1
    assert not np.array_equal(unconditional, conditional)
    assert not np.array_equal(sample(MODEL, 3, steps=4, label=1, guidance=4.0), conditional)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"sampler": "dddim"}, "unknown sampler 'dddim': choose from"),
        ({"grid": "cubic"}, "unknown grid 'cubic': choose from uniform"),
        ({"steps": 21}, r"1\.\.20 \(the model's T\), got 21"),
        ({"steps": 0}, r"1\.\.20"),
        ({"n": 0}, "at least 1, got 0"),
        ({"batch_size": 0}, "batch size"),
        ({"label": 3}, r"0\.\.2"),
        ({"label": -1}, r"0\.\.2"),
        ({"label": [0, 1]}, "one for each of the 4 images"),
        ({"guidance": 2.0}, "guidance needs a label"),
        ({"seed": -1}, "negative"),
        ({"first_index": -1}, "negative"),
        ({"sampler": Ancestral(variance="learned_range")}, "not learned a variance"),
    ],
)
def test_errors(options, match):
    with pytest.raises(UserError, match=match):
        sample(MODEL, **{"n": 4, "steps": 5, **options})


def test_labels_need_a_model_with_classes():
    with pytest.raises(UserError, match="without labels"):
        sample(model(num_classes=None), 1, steps=2, label=0)


@pytest.mark.parametrize(("n", "batch_size", "steps"), [(5, 2, 3), (4, None, 1)])
def test_progress_counts_network_calls(n, batch_size, steps):
    seen = []
    sample(MODEL, n, steps=steps, batch_size=batch_size, progress=lambda done, total: seen.append((done, total)))
    assert {total for _, total in seen} == {n * steps}
    done = [done for done, _ in seen]
    assert done == sorted(set(done))
    assert done[-1] == n * steps
    assert len(done) == steps * -(-n // (batch_size or n))


@pytest.mark.parametrize("batch_size", [None, 2])
def test_film(batch_size):
    request = SampleRequest(n=3, steps=9, seed=4, batch_size=batch_size)
    pictures = film(MODEL, request, frames=3)
    assert [p.shape for p in pictures] == [(3, 8, 6, 3)] * 4
    assert abs(pictures[-1].astype(int) - sample(MODEL, 3, steps=9, seed=4)).max() <= 1
    # the first is noise: x_T, clamped
    ((x_T, steps),) = batches(MODEL, replace(request, batch_size=None))
    expected = ((x_T.clamp(-1, 1) + 1) * 127.5).round().permute(0, 2, 3, 1).numpy().astype(np.uint8)
    assert np.array_equal(pictures[0], expected)
    states = [step.x for step in steps]
    assert len(states) == 9
    middle = ((states[2].clamp(-1, 1) + 1) * 127.5).round().permute(0, 2, 3, 1).numpy()
    assert abs(pictures[1] - middle).max() <= 1


def test_film_has_no_more_frames_than_there_are_states():
    assert len(film(MODEL, SampleRequest(n=1, steps=2), frames=10)) == 3
    with pytest.raises(UserError, match="at least 1 frame"):
        film(MODEL, SampleRequest(n=1, steps=2), frames=0)


@pytest.mark.parametrize("training", [True, False])
def test_samples_in_eval_mode_and_puts_the_mode_back(training):
    dropping = model(network=replace(CONFIG.network, dropout=0.5)).train(training)
    first = sample(dropping, 2, steps=3)
    assert dropping.training is training
    assert all(m.training is training for m in dropping.modules())
    assert np.array_equal(first, sample(dropping, 2, steps=3))


def test_the_mode_is_put_back_after_an_early_stop_and_an_error():
    dropping = model().train()
    ((_, steps),) = batches(dropping, SampleRequest(n=1, steps=3))
    next(steps)
    assert not dropping.training
    steps.close()
    assert dropping.training

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sample(dropping, 2, steps=3, progress=stop)
    assert dropping.training


def test_no_gradients_are_kept():
    ((_, steps),) = batches(MODEL, SampleRequest(n=1, steps=3))
    assert not any(step.x.requires_grad for step in steps)


def test_a_users_own_network_without_weights():
    class Own(nn.Module):
        def forward(self, x, t, label=None):
            return 0.1 * x

    config = ModelConfig(image_size=(4, 4), schedule=ScheduleConfig(num_steps=10))
    assert sample(Denoiser(Own(), config), 2, steps=3).shape == (2, 4, 4, 3)


def test_float64_models_sample_in_float64():
    wide = model().double()
    ((x_T, steps),) = batches(wide, SampleRequest(n=2, steps=3))
    assert x_T.dtype == torch.float64
    assert all(step.x.dtype == torch.float64 for step in steps)
    narrow, wide_images = sample(MODEL, 2, steps=3).astype(int), sample(wide, 2, steps=3).astype(int)
    assert abs(narrow - wide_images).max() <= 1


def test_a_diverged_network_is_an_error():
    class Broken(nn.Module):
        def forward(self, x, t, label=None):
            return x * torch.nan

    with pytest.raises(ValueError, match="NaN"):
        sample(Denoiser(Broken(), replace(CONFIG, num_classes=None)), 1, steps=2)


def test_options_by_name():
    assert with_options("ddim", eta=0.5, clip=False) == DDIM(eta=0.5, clip=False)
    assert with_options("ancestral", variance=None) == Ancestral()
    assert resolve_sampler("ddim") == DDIM()
    own = DDIM(eta=0.2)
    assert resolve_sampler(own) is own
    with pytest.raises(UserError, match="'ancestral' has no option 'eta'"):
        with_options("ancestral", eta=0.5)
    with pytest.raises(UserError, match=r"\[0, 1\]"):
        with_options("ddim", eta=2.0)
    with pytest.raises(UserError, match="unknown sampler"):
        with_options("dimm", eta=0.5)
