"""What the edits are given, and what they say of what they cannot use."""

import numpy as np
import pytest
import torch

import undye
from tests.edit.models import GREY, LABELLED, MODEL, images, model, near, small_memory
from undye.diffusion.schedule import NoiseSchedule
from undye.edit.denoise import noise_time
from undye.edit.grid import times_from
from undye.edit.inputs import check_mask
from undye.edit.noise import EditNoise
from undye.errors import UserError
from undye.samplers import Ancestral

HOLE = np.zeros((8, 12), bool)
HOLE[2:5, 3:7] = True
FOUR = images(4)


@pytest.mark.parametrize(
    "mask", [HOLE, HOLE.astype(np.uint8), HOLE * np.uint8(255), HOLE * np.uint8(100) + np.uint8(60)]
)
def test_white_is_filled(mask):
    """Bool, 0 and 1, black and white, greys from 128 on: all the same mask."""
    fill = check_mask(mask, FOUR)
    assert fill.shape == (4, 1, 8, 12)
    assert np.array_equal(fill[2, 0].numpy(), HOLE)


def test_a_mask_for_each_image():
    masks = np.stack([np.roll(HOLE, k, 1) for k in range(4)])
    assert np.array_equal(check_mask(masks, FOUR)[:, 0].numpy(), masks)


ERRORS = {
    "mask of another size": (lambda: undye.inpaint(MODEL, FOUR, HOLE[:, 1:]), r"mask is 8x11, the images are 8x12"),
    "masks for fewer images": (lambda: undye.inpaint(MODEL, FOUR, HOLE[None].repeat(3, 0)), r"mask is 3x8x12"),
    "mask of floats": (lambda: undye.inpaint(MODEL, FOUR, HOLE.astype(np.float32)), r"bool or uint8"),
    "nothing to fill": (lambda: undye.inpaint(MODEL, FOUR, ~HOLE & HOLE), r"nothing to fill: white"),
    "jump": (lambda: undye.inpaint(MODEL, FOUR, HOLE, jump=0), r"jump and the number of resamplings .* got 0 and 5"),
    "resamplings": (lambda: undye.inpaint(MODEL, FOUR, HOLE, resamplings=0), r"got 2 and 0"),
    "channels": (lambda: undye.img2img(GREY, FOUR), r"8x12 with 3 channels, the model is for 8x12 with 1 channel:"),
    "size": (lambda: undye.img2img(MODEL, FOUR[:, :6]), r"the images are 6x12 with 3 channels"),
    "floats": (lambda: undye.img2img(MODEL, FOUR / 255), r"uint8 \(N, H, W, C\)"),
    "one image without N": (lambda: undye.img2img(MODEL, FOUR[0]), r"uint8 \(N, H, W, C\)"),
    "no images": (lambda: undye.img2img(MODEL, FOUR[:0]), r"no images"),
    "strength 0": (lambda: undye.img2img(MODEL, FOUR, 0.0), r"strength must lie in \(0, 1\], got 0"),
    "strength 2": (lambda: undye.img2img(MODEL, FOUR, 2.0), r"strength must lie in \(0, 1\], got 2"),
    "strength NaN": (lambda: undye.img2img(MODEL, FOUR, float("nan")), r"strength must lie"),
    "steps": (lambda: undye.img2img(MODEL, FOUR, 0.5, steps=21), r"from t = 20 the number of steps must lie in 1..20"),
    "no steps": (lambda: undye.img2img(MODEL, FOUR, 0.5, steps=0), r"steps must lie in 1..20, got 0"),
    "sampler": (lambda: undye.img2img(MODEL, FOUR, sampler="dimm"), r"unknown sampler 'dimm': choose from ancestral"),
    "variations": (lambda: undye.img2img(MODEL, FOUR, variations=0), r"variations must be at least 1"),
    "seed": (lambda: undye.img2img(MODEL, FOUR, seed=-1), r"seed must lie in"),
    "batch": (lambda: undye.img2img(MODEL, FOUR, batch_size=0), r"batch size must be at least 1"),
    "label": (lambda: undye.img2img(MODEL, FOUR, label=1), r"trained without labels"),
    "label range": (lambda: undye.img2img(LABELLED, images(1, 1), label=3), r"labels must lie in 0..2"),
    "guidance": (lambda: undye.img2img(LABELLED, images(1, 1), guidance=2.0), r"guidance needs a label"),
    "guidance without classes": (lambda: undye.img2img(MODEL, FOUR, guidance=2.0), r"no class to guide it to"),
    "one mask of several is empty": (
        lambda: undye.inpaint(MODEL, FOUR, np.stack([HOLE, HOLE, HOLE & ~HOLE, HOLE])), r"mask 2 has nothing to fill"
    ),
    "a mask of no size": (lambda: undye.inpaint(MODEL, FOUR, np.array(1, np.uint8)), r"the mask is a single number"),
    "pairs": (lambda: undye.interpolate(MODEL, FOUR, FOUR[:3]), r"in pairs: got 4 first and 3 second"),
    "points": (lambda: undye.interpolate(MODEL, FOUR, FOUR, points=1), r"at least 2 points"),
    "time": (lambda: undye.interpolate(MODEL, FOUR, FOUR, t=41), r"time t must lie in 1..40 .*, got 41"),
    "time 0": (lambda: undye.interpolate(MODEL, FOUR, FOUR, t=[20, 0]), r"time t must lie in 1..40"),
    "sampler of inverted": (
        lambda: undye.interpolate(MODEL, FOUR, FOUR, method="inverted", sampler="ancestral"), r"leave the sampler out"
    ),
    "sample number": (lambda: undye.interpolate_samples(MODEL, 0, -1), r"numbered from 0, got -1"),
    "frames": (lambda: undye.progressive(MODEL, 1, 1), r"at least 2 frames"),
    "groups": (lambda: undye.shared_latents(MODEL, 0), r"at least 1, got 0 and 8"),
    "shared time": (lambda: undye.shared_latents(MODEL, times=[50]), r"time t must lie in 1..40"),
    "sigma": (lambda: undye.denoise(MODEL, FOUR, 0.0), r"sigma must lie in .* grey levels, the noise that this mod"),
    "sigma below 0": (lambda: undye.denoise(MODEL, FOUR, -3.0), r"sigma must lie in"),
    "sigma NaN": (lambda: undye.denoise(MODEL, FOUR, float("nan")), r"sigma must lie in"),
    "variations of a mean": (lambda: undye.denoise(MODEL, FOUR, 25.0, variations=2), r"the mean is one image"),
    "steps of a mean": (lambda: undye.denoise(MODEL, FOUR, 25.0, steps=5), r"one network call"),
    "factor": (lambda: undye.restore(MODEL, FOUR, "super-resolution", factor=3), r"divide the model's 8x12, got 3"),
    "factor 1": (lambda: undye.restore(MODEL, FOUR, "super-resolution", factor=1), r"factor must be at least 2"),
    "not reduced": (lambda: undye.restore(MODEL, FOUR, "super-resolution"), r"starts from 2x3 with 3 channels"),
    "no colours": (lambda: undye.restore(GREY, images(1, 1), "colourise"), r"this model knows no colours"),
    "colour for colourise": (lambda: undye.restore(MODEL, FOUR, "colourise"), r"starts from 8x12 with 1 channel"),
    "scale": (
        lambda: undye.restore(MODEL, FOUR[:, ::4, ::4], "super-resolution", method="dps", scale=0.0), r"scale must"
    ),
    "rows": (lambda: undye.restore_from(MODEL, torch.zeros(3, 1), lambda x: x, variations=2), r"2 times: got 3 rows"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "says"), ERRORS.values(), ids=ERRORS)
def test_errors_are_one_line(call, says):
    with pytest.raises(UserError, match=says) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("start", "steps"), [(40, 40), (40, 7), (7, 7), (1, 1), (6.3, 7), (6.3, 3), (0.4, 1), (6.5, 6)]
)
def test_grids_from_part_of_the_way(start, steps):
    grid = times_from(start, 40, steps)
    assert len(grid) == steps + 1
    assert grid[0] == start
    assert grid[-1] == 0
    assert (grid.diff() < 0).all()
    assert grid.is_floating_point() == (start != int(start))
    assert (grid[1:] == grid[1:].round()).all()


def test_default_steps():
    assert len(times_from(1000, 1000)) - 1 == 50
    assert len(times_from(500, 1000)) - 1 == 25
    assert len(times_from(20, 1000)) - 1 == 10
    assert len(times_from(3, 1000)) - 1 == 3


@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("sigma", [0.02, 0.2, 1.0, 30.0])
def test_the_time_of_a_noise_level(name, sigma):
    schedule = NoiseSchedule.named(name, 1000)
    t = noise_time(schedule, sigma)
    log_alpha_bar = schedule.log_alpha_bar_at(torch.tensor(t, dtype=torch.float64)).item()
    assert np.sqrt(np.expm1(-log_alpha_bar)) == pytest.approx(sigma, rel=1e-9)


def test_the_ends_of_the_noise_levels():
    schedule = NoiseSchedule.named("linear", 1000)
    ends = (schedule.snr[[1, -1]] ** -0.5).tolist()
    assert [noise_time(schedule, sigma) for sigma in (ends[0] * (1 + 1e-12), ends[1] * (1 - 1e-12))] == pytest.approx(
        [1, 1000]
    )
    for sigma in (ends[0] * 0.99, ends[1] * 1.01):
        with pytest.raises(UserError, match="grey levels"):
            noise_time(schedule, sigma)


def test_noise_is_a_name_and_a_count():
    x = torch.zeros(3, 1, 2, 2)
    noise, other = EditNoise(5, [(0, 0), (0, 1), (0, 0)]), EditNoise(5, [(0, 1)])
    first, second = noise(x), noise(x)
    assert torch.equal(first[0], first[2])
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, second)
    assert torch.equal(other(x[:1])[0], first[1])
    assert not torch.equal(EditNoise(6, [(0, 1)])(x[:1])[0], first[1])


def test_a_batch_that_does_not_fit_is_halved(monkeypatch: pytest.MonkeyPatch) -> None:
    denoiser = model()
    whole = undye.img2img(denoiser, images(5), strength=0.5, steps=3)
    asked = small_memory(monkeypatch, denoiser)
    done: list[tuple[int, int]] = []
    halves = undye.img2img(denoiser, images(5), strength=0.5, steps=3, progress=lambda *at: done.append(at))
    assert near(halves, whole)
    assert asked[:3] == [5, 3, 2]
    assert done[-1][0] == done[-1][1]


def test_a_variance_that_was_not_learned() -> None:
    with pytest.raises(UserError, match="has not learned"):
        undye.img2img(model(), images(1), strength=0.5, sampler=Ancestral(variance="learned"))
