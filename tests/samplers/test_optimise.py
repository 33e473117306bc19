"""The search for a grid: nearer than all that need no search, on noise that it did not see; and kept in the model."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from undye.checkpoint.grids import GRIDS, add_grids, read_grids
from undye.checkpoint.native import load, save
from undye.cli.main import main
from undye.config import CompactConfig, ModelConfig, ScheduleConfig
from undye.config_grids import OptimisedGrid
from undye.denoiser import Denoiser
from undye.errors import UserError
from undye.samplers.optimise import Settings, optimise_grid
from undye.testing import GaussianMixtureOracle

GRID = OptimisedGrid(times=(20, 13.5, 4.25, 0), sampler="unipc", orders=(1, 2, 1), distance=0.1, best_known=0.2)
CONFIG = ModelConfig(
    network=CompactConfig(channels=(8,), blocks=(1,), head_channels=0),
    image_size=(6, 6),
    channels=1,
    prediction="v",
    variance="fixed_small",
    schedule=ScheduleConfig(name="cosine", num_steps=20),
    time_input="per_mille",
)


class OfAnOracle(nn.Module):
    """A network whose noise is an oracle's."""

    def __init__(self, oracle: GaussianMixtureOracle):
        super().__init__()
        self.oracle = oracle

    def forward(self, x, t, label=None):
        return self.oracle(x, t + 1).eps


def test_a_found_grid_beats_all_known_on_new_noise(monkeypatch: pytest.MonkeyPatch):
    config = ModelConfig(image_size=(1, 2), channels=1, clip_x_0=False, schedule=ScheduleConfig(num_steps=1000))
    schedule = Denoiser(nn.Identity(), config).schedule
    oracle = GaussianMixtureOracle(schedule, [0.3, 0.7], [[[[-0.6, 0.2]]], [[[0.5, -0.1]]]], stds=[0.15, 0.3])
    heard: list[str] = []
    grid = optimise_grid(Denoiser(OfAnOracle(oracle), config), 5, Settings(images=256, held_out=256), heard.append)
    assert grid.distance < 0.8 * grid.best_known
    assert (len(grid.times), grid.times[0], grid.times[-1], grid.steps) == (6, 1000, 0, 5)
    assert len(heard) == 3
    assert torch.tensor(grid.times).diff().max() < 0
    # another search, of next to no work, begins where the grids that undye brings have come to
    less = Settings(images=8, held_out=256, iterations=1)
    plain = optimise_grid(Denoiser(OfAnOracle(oracle), config), 5, less)
    monkeypatch.setattr("undye.samplers.optimise.known_grids", lambda _: {5: grid})
    again = optimise_grid(Denoiser(OfAnOracle(oracle), config), 5, less)
    assert again.distance <= grid.distance < plain.distance
    assert (again.best_known, again.best_known_name) == (plain.best_known, plain.best_known_name)


@pytest.mark.parametrize("steps", [1, 20, 21])
def test_steps_out_of_range(steps):
    """All T steps leave nothing to move."""
    with pytest.raises(UserError, match=r"2\.\.19 steps"):
        optimise_grid(Denoiser.from_config(CONFIG), steps)


def test_what_there_is_no_grid_for():
    """A teacher no better than the grid, a model that has no steps to choose from, one that has diverged."""
    with pytest.raises(UserError, match="ask for more of them"):
        optimise_grid(Denoiser.from_config(CONFIG), 8, Settings(teacher_steps=8))
    two = replace(CONFIG, schedule=replace(CONFIG.schedule, num_steps=2))
    with pytest.raises(UserError, match="nothing to optimise"):
        optimise_grid(Denoiser.from_config(two), 2)
    diverged = Denoiser.from_config(CONFIG)
    for parameter in diverged.parameters():
        parameter.data.fill_(torch.nan)
    with pytest.raises(UserError, match="not finite"):
        optimise_grid(diverged, 3, Settings(images=2, held_out=2))


def test_grids_travel_with_the_model(tmp_path: Path):
    folder = save(tmp_path / "a", Denoiser.from_config(CONFIG))
    assert not (folder / GRIDS).exists()
    add_grids(folder, {3: GRID}, 20)
    model = load(folder)
    assert model.grids == {3: GRID}
    assert load(save(tmp_path / "b", model)).grids == {3: GRID}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda d: "{", "is damaged"),
        (lambda d: json.dumps({**d, "version": 2}), "no grids of version 1"),
        (
            lambda d: json.dumps({**d, "grids": [{**d["grids"][0], "times": [30, 4, 0], "orders": None}]}),
            "T = 30, not 20",
        ),
        (lambda d: json.dumps({**d, "grids": [{**d["grids"][0], "times": [20, 4, 4, 0]}]}), "fall strictly"),
        (lambda d: json.dumps({**d, "grids": [{**d["grids"][0], "times": [20, 4, 0.5, 0]}]}), "at least 1"),
        (lambda d: json.dumps({**d, "grids": [{**d["grids"][0], "orders": [1, 4, 1]}]}), "orders"),
        (lambda d: json.dumps({**d, "grids": [{**d["grids"][0], "sampler": "euler"}]}), "euler"),
    ],
)
def test_a_damaged_file_says_what_to_do(change, match, tmp_path: Path):
    folder = save(tmp_path / "a", Denoiser.from_config(CONFIG))
    add_grids(folder, {3: GRID}, 20)
    path = folder / GRIDS
    path.write_text(change(json.loads(path.read_text())))
    with pytest.raises(UserError, match=match) as caught:
        read_grids(folder, 20)
    assert "optimise-grid" in str(caught.value)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder = save(tmp_path / "a", Denoiser.from_config(CONFIG))
    few = ["--images", "4", "--held-out", "4", "--teacher-steps", "20", "--iterations", "1", "--device", "cpu"]
    assert main(["optimise-grid", str(folder), "--steps", "3", *few]) == 0
    assert "stored" in capsys.readouterr().out
    assert set(load(folder).grids) == {3}
    assert (
        main(["sample", str(folder), "--n", "1", "--steps", "3", "--device", "cpu", "--out", f"{tmp_path}/a.png"]) == 0
    )
    for args, words in (
        (["sample", str(folder), "--steps", "4", "--grid", "optimised", "--out", "x.png"], "it has 3"),
        (["sample", str(folder), "--eta", "0.5", "--out", "x.png"], "name it with --sampler"),
        (["sample", str(folder), "--sampler", "heun", "--eta", "0.5", "--out", "x.png"], "s_churn"),
        (["sample", str(folder), "--steps", "0", "--out", "x.png"], "1..20"),
        (["optimise-grid", str(folder), "--steps", "99"], "2..19 steps"),
        (["optimise-grid", str(tmp_path / "none"), "--steps", "5"], "no model"),
    ):
        assert main(args) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1
