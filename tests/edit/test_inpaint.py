"""RePaint: the walk, what is kept, and what it converges to."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from tests.edit.models import LABELLED, MODEL, images, near
from undye.diffusion.schedule import NoiseSchedule
from undye.edit.grid import times_from
from undye.edit.inpaint import inpaint, repaint
from undye.edit.resampling import resampled
from undye.testing import GaussianOracle

HOLE = np.zeros((8, 12), bool)
HOLE[2:5, 3:7] = True


def test_known_pixels_are_kept_to_the_bit():
    """And every level occurs among them; what is under the mask does not matter."""
    x = np.arange(3 * 8 * 12 * 3).reshape(3, 8, 12, 3).astype(np.uint8)
    out = inpaint(MODEL, x, HOLE, variations=2, steps=6, jump=2, resamplings=2)
    assert out.shape == (6, 8, 12, 3)
    assert np.array_equal(out[:, ~HOLE], x.repeat(2, 0)[:, ~HOLE])
    assert not np.array_equal(out[0, HOLE], out[1, HOLE])
    hidden = np.where(HOLE[..., None], 255 - x, x)
    assert np.array_equal(inpaint(MODEL, hidden, HOLE, variations=2, steps=6, jump=2, resamplings=2), out)


def test_a_result_is_its_seed_image_and_number_alone():
    x = images(3)
    out = inpaint(MODEL, x, HOLE, variations=2, steps=5, jump=2, resamplings=2, seed=4)
    small = inpaint(MODEL, x, HOLE, variations=2, steps=5, jump=2, resamplings=2, seed=4, batch_size=1)
    fewer = inpaint(MODEL, x[:2], HOLE, variations=1, steps=5, jump=2, resamplings=2, seed=4)
    assert near(small, out)
    assert near(fewer, out[[0, 2]])
    assert not near(inpaint(MODEL, x, HOLE, variations=2, steps=5, jump=2, resamplings=2, seed=5), out)


def test_labels_and_progress():
    x, told = images(2, 1), []
    options = {"steps": 6, "jump": 2, "resamplings": 3, "batch_size": 1}
    a, b = (inpaint(LABELLED, x, HOLE, label=k, progress=lambda *now: told.append(now), **options) for k in (0, 2))
    assert not np.array_equal(a, b)
    calls = 2 * (6 + 2 * 2 * 2)
    assert told == [(k, calls) for k in range(1, calls + 1)] * 2


@pytest.mark.parametrize(
    ("steps", "jump", "resamplings"), [(10, 2, 3), (50, 5, 5), (7, 3, 2), (4, 4, 9), (3, 5, 2), (5, 1, 1)]
)
def test_the_walk(steps, jump, resamplings):
    """Down by one, up by `jump`; every stretch but the first is walked `resamplings` times, at every noise level."""
    walk = resampled(steps, jump, resamplings)
    assert walk[0] == 0
    assert walk[-1] == steps
    assert {b - a for a, b in pairwise(walk)} <= {1, -jump}
    stretches = max(0, steps - 2) // jump
    assert sum(b < a for a, b in pairwise(walk)) == stretches * (resamplings - 1)
    arrivals = np.bincount([b for a, b in pairwise(walk) if b > a], minlength=steps + 1)
    first = steps - 1 - stretches * jump
    assert (arrivals[1 : first + 1] == 1).all()
    assert (arrivals[first + 1 : steps] == resamplings).all()
    # never back from the data: the step to it takes the mean
    assert walk.count(steps) == 1


def conditional(resamplings: int, n: int = 1_000) -> tuple[float, float]:
    """How far RePaint is from x_0[1] given x_0[0]: of the mean, in standard deviations, and the ratio of those."""
    mean = torch.tensor([[[0.2, -0.1]]], dtype=torch.float64)
    cov = torch.tensor([[0.1, 0.08], [0.08, 0.1]], dtype=torch.float64)
    oracle = GaussianOracle(NoiseSchedule.named("cosine", 1000), mean, cov)
    generator = torch.Generator().manual_seed(0)
    x_0 = torch.tensor([0.7, 123.0], dtype=torch.float64).expand(n, 1, 1, 2)
    grid = times_from(1000, 1000, 25)
    out = repaint(
        oracle, x_0, torch.tensor([False, True]).expand(n, 1, 1, 2), grid,
        lambda x: torch.randn(x.shape, generator=generator, dtype=x.dtype), resampled(25, 1, resamplings),
    )  # fmt: skip
    assert (out[..., 0] == 0.7).all()
    want, std = -0.1 + 0.8 * (0.7 - 0.2), (0.1 - 0.8**2 * 0.1) ** 0.5
    found = out[:, 0, 0, 1]
    return (found.mean().item() - want) / std, found.std().item() / std


def test_resampling_brings_it_to_the_exact_conditional():
    """Not all the way: the known part is noised anew at each level, not as the chain would have it: docs/editing.md."""
    once, often = conditional(1), conditional(10)
    assert once[0] < -0.6  # the filled pixel hardly knows of its neighbour, and stays near the prior's mean
    assert abs(often[0]) < 0.4 * abs(once[0])
    assert abs(often[1] - 1) < 0.15 < once[1] - 1
