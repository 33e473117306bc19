"""What every grid keeps, whoever adds one to the table."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from undye.errors import UserError
from undye.samplers.grid import GRIDS, make_grid

every_grid = pytest.mark.parametrize("name", GRIDS)


def check(name, num_steps, steps):
    grid = make_grid(name, num_steps, steps)
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


@every_grid
@given(data=st.data())
def test_falls_strictly_on_long_schedules(name, data):
    num_steps = data.draw(st.integers(1, 10_000))
    check(name, num_steps, data.draw(st.integers(1, num_steps)))


@every_grid
@pytest.mark.parametrize("num_steps", [1, 2, 50, 1000])
def test_all_steps_are_the_full_grid(name, num_steps):
    full = torch.arange(num_steps, -1, -1)
    assert torch.equal(make_grid(name, num_steps, num_steps), full)
    assert torch.equal(make_grid(name, num_steps), full)


@every_grid
@pytest.mark.parametrize("steps", [0, -1, 101])
def test_steps_out_of_range(name, steps):
    with pytest.raises(UserError, match=r"1\.\.100"):
        make_grid(name, 100, steps)


def test_unknown_name_lists_the_known():
    with pytest.raises(UserError, match="uniform"):
        make_grid("unifrom", 100, 10)
