import weakref
from dataclasses import replace
from functools import partial

import jaxtyping
import numpy as np
import pytest
import torch
from torch import nn

import undye
from tests.edit.models import CONFIG as TINY
from tests.edit.models import small_memory, tiny
from undye.config import ModelConfig, ScheduleConfig
from undye.config_grids import OptimisedGrid
from undye.denoiser import Denoiser
from undye.diffusion.score import sigma_at
from undye.errors import UserError
from undye.samplers import DDIM, RK45, SAMPLERS, Ancestral, UniPC
from undye.samplers.guidance import gradient_of
from undye.samplers.known_grids import SMALL_COSINE
from undye.samplers.optimise import Settings
from undye.sampling import SampleRequest, batches, evenly, film, plan, resolve_sampler, sample, stream, with_options

CONFIG = replace(TINY, image_size=(8, 6), num_classes=3, schedule=ScheduleConfig(name="cosine", num_steps=20))
model = partial(tiny, CONFIG)
MODEL = model()


def states(n, **options):
    """The float samples, before they are rounded to pixels."""
    out = []
    for _, steps in batches(MODEL, SampleRequest(n=n, steps=5, **options)):
        *_, last = steps
        out.append(last.x)
    return torch.cat(out)


# rk45 by a tolerance that takes fewer calls
@pytest.mark.parametrize(
    "sampler", [*(name for name in SAMPLERS if name != "rk45"), RK45(tolerance=0.05), DDIM(eta=1.0)], ids=str
)
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


def test_defaults_are_unipc_in_20_steps():
    long = model(schedule=ScheduleConfig(name="cosine", num_steps=100))
    assert np.array_equal(sample(long, 2), sample(long, 2, UniPC(order=3), 20, 0, grid="karras"))
    assert np.array_equal(sample(long, 2, "ddim"), sample(long, 2, DDIM(), 50, grid="uniform"))


GRID = OptimisedGrid(times=(20, 13.5, 4.25, 0), sampler="unipc", orders=(1, 2, 1), distance=0.1, best_known=0.2)


def test_a_models_own_grid_is_used_where_nothing_else_is_asked_for():
    own = model()
    without = sample(own, 2, steps=3)
    own.grids = {3: GRID}
    request = SampleRequest(n=1, steps=3)
    sampler, times = plan(own, request)
    assert sampler == UniPC(order=(1, 2, 1))
    assert times.tolist() == list(GRID.times)
    assert not np.array_equal(sample(own, 2, steps=3), without)
    assert np.array_equal(sample(own, 2, steps=3, grid="karras"), without)
    assert plan(own, replace(request, sampler="ddim"))[1].tolist() == [20, 13, 7, 0]
    sampler, times = plan(own, replace(request, sampler="ddim", grid="optimised"))
    assert (sampler, times.tolist()) == (DDIM(), list(GRID.times))
    with pytest.raises(
        UserError, match=r"no optimised grid of 4 steps \(it has 3\): make one with undye optimise-grid"
    ):
        sample(own, 1, steps=4, grid="optimised")


def test_grids_that_the_package_brings():
    small = model(schedule=ScheduleConfig(name="cosine", num_steps=1000))
    sampler, times = plan(small, SampleRequest(n=1, steps=8))
    assert sampler.order == SMALL_COSINE[8].orders
    assert times.tolist() == list(SMALL_COSINE[8].times)
    small.grids = {8: replace(SMALL_COSINE[8], orders=None)}
    assert plan(small, SampleRequest(n=1, steps=8))[0] == UniPC(), "the model's own come first"
    linear = model(schedule=ScheduleConfig(num_steps=1000))
    assert plan(linear, SampleRequest(n=1, steps=8))[0] == UniPC()


def test_guidance_in_an_interval_rescaled_and_thresholded():
    def states(**options):
        ((_, steps),) = batches(MODEL, SampleRequest(n=3, steps=6, label=1, sampler="ddim", **options))
        return [step.x for step in steps]

    plain, guided = states(), states(guidance=5.0)
    # at the first step sigma is above 4, at the last ones below 0.5
    between = states(guidance=5.0, guidance_interval=(0.5, 4.0))
    assert torch.equal(between[0], plain[0])
    assert (between[-1] - plain[-1]).abs().max() > 1e-3
    everywhere = states(guidance=5.0, guidance_interval=(0, 1e9))
    assert all(torch.equal(a, b) for a, b in zip(everywhere, guided, strict=True))
    assert (states(guidance=5.0, guidance_rescale=0.7)[-1] - guided[-1]).abs().max() > 1e-3
    assert states(guidance=5.0, threshold=0.5)[-1].abs().max() <= 1


def test_guidances_second_calls_are_counted():
    seen = []
    tell = lambda done, total: seen.append((done, total))  # noqa: E731
    sample(MODEL, 2, "ddim", 6, label=1, guidance=2.0, progress=tell)
    assert seen[-1] == (24, 24)
    sample(MODEL, 2, "heun", 6, progress=tell)
    assert seen[-1] == (22 - 2 * (sigma_at(MODEL.schedule.log_alpha_bar[-1:]).item() > 1e3), seen[-1][1])
    sample(MODEL, 2, "ddim", 6, label=1, guidance=2.0, guidance_interval=(0, 1e-9), progress=tell)
    assert seen[-1] == (12, 12)


def test_a_classifier_steers():
    up = gradient_of(lambda x, t: x.sum(dim=(1, 2, 3)))
    assert sample(MODEL, 2, steps=5, classifier=up).mean() > sample(MODEL, 2, steps=5).mean() + 1


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
        ({"guidance": 2.0, "label": 1, "guidance_rescale": 1.5}, r"rescale must lie in \[0, 1\]"),
        ({"guidance": 2.0, "label": 1, "guidance_interval": (3.0, 1.0)}, "two sigmas"),
        ({"label": 1, "guidance_rescale": 0.5}, "other than 1"),
        ({"threshold": 0.0}, "percentile"),
        ({"sampler": "unipc", "grid": "optimised"}, "no optimised grid of 5 steps"),
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
    with pytest.raises(UserError, match="without labels: there is no class"):
        sample(model(num_classes=None), 1, steps=2, guidance=2.0)


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


@pytest.mark.parametrize(
    ("options", "says"),
    [({"steps": 2.5}, "steps .* not 2.5"), ({"n": "2"}, "n .* not '2'"), ({"batch_size": 2.5}, "batch_size"),
     ({"seed": 1.5}, "seed"), ({"first_index": 0.5}, "first_index")],
)  # fmt: skip
def test_numbers_that_are_not_whole(options, says, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # without the checks that only tests make
    with pytest.raises(UserError, match=f"{says}") as raised:
        sample(MODEL, **{"n": 1, **options})
    assert "a whole number" in str(raised.value)
    assert len(sample(MODEL, np.int64(2), steps=np.int32(2))) == 2


def test_only_the_states_that_are_shown_are_kept():
    """A walk of 1,000 steps does not fit the memory."""
    alive: list[weakref.ref] = []

    def states():
        for i in range(100):
            assert sum(ref() is not None for ref in alive) <= 2
            alive.append(weakref.ref(x := torch.full((1, 1, 2, 2), i / 100)))
            yield x

    pictures = evenly(states(), 100, 4)
    assert [int(p[0, 0, 0, 0]) for p in pictures] == [round((1 + i / 100) * 127.5) for i in (0, 33, 66, 99)]


@pytest.mark.parametrize("kind", ["film", "progressive", "optimised grid"])
def test_a_walk_that_is_kept_is_made_in_halves_where_memory_runs_out(kind, monkeypatch):
    made = model(channels=1, num_classes=3)
    short = Settings(images=5, held_out=5, iterations=1, teacher_steps=4)
    request = SampleRequest(n=5, steps=4, sampler="ddim", label=[0, 1, 2, 0, 1])
    does = {
        "film": lambda: np.stack(film(made, request, 3)),
        "progressive": lambda: np.stack(undye.progressive(made, 5, 3, steps=4, label=request.label)),
        "optimised grid": lambda: np.array(undye.optimise_grid(made, 2, settings=short).times),
    }[kind]
    whole, asked = does(), small_memory(monkeypatch, made)
    # a grey level of pictures; times
    np.testing.assert_allclose(does().astype(float), whole.astype(float), atol=1e-2 if kind == "optimised grid" else 1)
    assert asked[:3] == [5, 3, 2]


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


def test_a_batch_that_does_not_fit_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    denoiser = model(num_classes=None)
    whole = sample(denoiser, 7, steps=2, batch_size=7)
    asked: list[int] = []
    forward = type(denoiser.network).forward

    def small_memory(self, x, *args):
        asked.append(len(x))
        if len(x) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, x, *args)

    monkeypatch.setattr(type(denoiser.network), "forward", small_memory)
    done: list[tuple[int, int]] = []
    halves = sample(denoiser, 7, steps=2, batch_size=7, progress=lambda *at: done.append(at))
    assert abs(halves.astype(int) - whole).max() <= 1
    assert asked[:3] == [7, 4, 2]
    assert done[-1] == (14, 14)
    monkeypatch.setattr(type(denoiser.network), "forward", lambda *_: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(UserError, match="single image"):
        sample(denoiser, 3, steps=2)


def test_other_errors_are_not_taken_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    denoiser = model(num_classes=None)
    monkeypatch.setattr(type(denoiser.network), "forward", lambda *_: (_ for _ in ()).throw(RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        sample(denoiser, 3, steps=2)


def test_times_of_ones_own() -> None:
    denoiser = model(num_classes=None)
    by_name = sample(denoiser, 2, sampler="ddim", steps=4, grid="uniform")
    assert np.array_equal(sample(denoiser, 2, sampler="ddim", times=[20, 15, 10, 5, 0]), by_name)
    for wrong, says in [
        ({"times": [20, 0]}, "named"), ({"times": [20, 0], "sampler": "ddim", "steps": 1}, "leave these out"),
        ({"times": [0, 20], "sampler": "ddim"}, "fall strictly"), ({"times": [5], "sampler": "ddim"}, "fall strictly"),
    ]:  # fmt: skip
        with pytest.raises(UserError, match=says):
            sample(denoiser, 2, **wrong)


def test_images_come_as_they_are_finished() -> None:
    denoiser = model(num_classes=None)
    request = SampleRequest(n=5, steps=2, batch_size=2)
    parts = list(stream(denoiser, request))
    assert [numbers for numbers, _ in parts] == [range(0, 2), range(2, 4), range(4, 5)]
    assert np.array_equal(np.concatenate([images for _, images in parts]), sample(denoiser, **vars(request)))
