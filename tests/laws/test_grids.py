"""What every grid keeps, whoever adds one to the table."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from undye.diffusion.schedule import NoiseSchedule
from undye.errors import UserError
from undye.samplers.grid import GRIDS, make_grid

every_grid = pytest.mark.parametrize("name", GRIDS)


def schedule(num_steps, kind="cosine"):
    # any will do for the grids that know T alone; the others see this one's noise levels
    return NoiseSchedule.named(kind, num_steps)


def check(name, num_steps, steps, kind="cosine"):
    grid = make_grid(name, schedule(num_steps, kind), steps)
    assert grid.dtype == torch.int64
    assert len(grid) == steps + 1
    assert grid[0] == num_steps
    assert grid[-1] == 0
    assert (grid.diff() < 0).all(), grid.tolist()


@every_grid
def test_falls_strictly_to_the_data(name):
    for num_steps in [1, 2, 3, 7, 30]:
        for steps in range(1, num_steps + 1):
            check(name, num_steps, steps)
            if num_steps > 1:
                check(name, num_steps, steps, "sigmoid_alpha_bar")


@every_grid
@pytest.mark.parametrize("kind", ["linear", "cosine", "sigmoid_alpha_bar"])
def test_real_times_fall_strictly_too(name, kind):
    for steps in (1, 2, 5, 20, 100):
        grid = make_grid(name, schedule(1000, kind), steps, real=True)
        assert (len(grid), grid[0], grid[-1], grid.dtype) == (steps + 1, 1000, 0, torch.float64)
        assert (grid.diff() < 0).all()
        assert (grid - make_grid(name, schedule(1000, kind), steps)).abs().max() <= 0.5 or steps > 5


@every_grid
@given(data=st.data())
def test_falls_strictly_on_long_schedules(name, data):
    num_steps = data.draw(st.integers(1, 10_000))
    check(name, num_steps, data.draw(st.integers(1, num_steps)))


@every_grid
@pytest.mark.parametrize("num_steps", [1, 2, 50, 1000])
def test_all_steps_are_the_full_grid(name, num_steps):
    full = torch.arange(num_steps, -1, -1)
    assert torch.equal(make_grid(name, schedule(num_steps), num_steps), full)
    assert torch.equal(make_grid(name, schedule(num_steps)), full)


@every_grid
@pytest.mark.parametrize("steps", [0, -1, 101])
def test_steps_out_of_range(name, steps):
    with pytest.raises(UserError, match=r"1\.\.100"):
        make_grid(name, schedule(100), steps)


def test_unknown_name_lists_the_known():
    with pytest.raises(UserError, match="uniform"):
        make_grid("unifrom", 100, 10)
