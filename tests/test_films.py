import numpy as np
import pytest
import torch

import undye
from undye.diffusion.schedule import NoiseSchedule


def grey(n=3):
    return np.full((n, 40, 40, 1), 178, np.uint8)


def test_a_film_goes_from_the_images_to_noise():
    frames = undye.forward_film(grey(), frames=5, seed=3)
    assert len(frames) == 6
    assert all(f.shape == (3, 40, 40, 1) and f.dtype == np.uint8 for f in frames)
    assert np.array_equal(frames[0], grey())
    spread = [f.astype(float).std() for f in frames]
    assert spread == sorted(spread)
    # at T a standard normal number, clipped to [-1, 1]: 2 x 16 % of the pixels at the ends
    ends = np.mean((frames[-1] == 0) | (frames[-1] == 255))
    assert 0.28 < ends < 0.36


def test_it_is_one_path_not_independent_pictures():
    """Neighbouring frames share most of their noise: x_t = sqrt(alpha) x_s + sqrt(beta) z."""
    schedule = NoiseSchedule.named("linear", 1000)
    frames = undye.forward_film(grey(1), schedule, frames=20, seed=0)
    a, b = (frames[i].astype(float).ravel() / 127.5 - 1 for i in (4, 5))
    alpha_bar = schedule.alpha_bar[torch.tensor([200, 250])]
    expected = (alpha_bar[1] * (1 - alpha_bar[0]) / alpha_bar[0] / (1 - alpha_bar[1])).sqrt().item()
    assert np.corrcoef(a, b)[0, 1] == pytest.approx(expected, abs=0.08)  # clipping costs a little


def test_an_image_has_its_own_noise():
    whole, first = undye.forward_film(grey(3), seed=1), undye.forward_film(grey(1), seed=1)
    assert np.array_equal(whole[-1][:1], first[-1])
    assert not np.array_equal(whole[-1][0], whole[-1][1])
    assert not np.array_equal(undye.forward_film(grey(1), seed=2)[-1], first[-1])


def test_no_more_frames_than_steps():
    assert len(undye.forward_film(grey(1), NoiseSchedule.named("cosine", 3), frames=10)) == 4
    with pytest.raises(undye.UserError, match="at least 1 frame"):
        undye.forward_film(grey(1), frames=0)
