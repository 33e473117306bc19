"""Post-hoc EMA on real runs: what they write, how they go on, and what is made of it."""

import errno
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import undye
from undye.checkpoint.native import checkpoints, find_checkpoint, save
from undye.config import CompactConfig, ModelConfig
from undye.errors import UserError
from undye.training import saver, session
from undye.training.ema import PowerEMA
from undye.training.events import Event, StepDone
from undye.training.folder import RunFolder
from undye.training.posthoc import Averages, Snapshots, posthoc_ema, snapshot_paths, synthesise, write_snapshot
from undye.training.profile import step_weights
from undye.training.run import RunConfig
from undye.training.session import Interrupted, run
from undye.training.trainer import Trainer

TRACKED = (0.03, 0.05, 0.075, 0.1, 0.15, 0.2)


@pytest.fixture
def averaged(quiet: RunConfig) -> RunConfig:
    """12 steps with a snapshot every 3."""
    return replace(quiet, training=replace(quiet.training, ema_stds=(0.05, 0.1), ema_every=3))


def at_step(step: int, act: Callable[[], None]):
    def listener(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == step:
            act()

    return listener


def stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


class Killed(BaseException):
    """Ends a run as a kill would: nothing more is written."""


def kill() -> None:
    raise Killed


def files(run_folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (run_folder / "ema").iterdir()}


def test_a_run_writes_snapshots_and_keeps_them(averaged: RunConfig, tmp_path: Path) -> None:
    longer = replace(averaged, training=replace(averaged.training, steps=14))
    run(longer, tmp_path / "run")
    assert [p.stem for p in snapshot_paths(tmp_path / "run" / "ema")] == ["3", "6", "9", "12", "14"], "the end too"
    state = load_file(find_checkpoint(tmp_path / "run") / "train_state" / "tensors.safetensors")
    last = load_file(tmp_path / "run" / "ema" / "14.safetensors")
    for name, tensor in last.items():
        assert tensor.dtype == torch.float32
        torch.testing.assert_close(tensor, state[f"power_ema.{name}"].float(), rtol=0, atol=0)
    assert len(last) == 2 * len(undye.load(tmp_path / "run").network.state_dict())


def test_a_run_without_them_writes_none(quiet: RunConfig, tmp_path: Path) -> None:
    run(quiet, tmp_path / "run")
    assert not (tmp_path / "run" / "ema").exists()
    with pytest.raises(UserError, match=r"--training\.ema-stds"):
        posthoc_ema(tmp_path / "run", 0.05)


@pytest.mark.parametrize("ends", [(5, stop), (6, stop), (7, kill), (6, kill), (2, kill)])
def test_a_resumed_run_has_the_same_snapshots(
    averaged: RunConfig, tmp_path: Path, ends: tuple[int, Callable[[], None]]
) -> None:
    """Stopped between snapshots and right at one, and killed before and after there is a checkpoint."""
    run(averaged, tmp_path / "whole")
    with pytest.raises((Interrupted, Killed)):
        run(averaged, tmp_path / "run", listeners=[at_step(*ends)])
    folder = tmp_path / "run" / "ema"
    folder.mkdir(exist_ok=True)
    (folder / "11.safetensors").write_bytes(b"of a time line that is no more")
    (folder / ".9.safetensors.tmp123").write_bytes(b"half a file")
    run(averaged, tmp_path / "run", resume=True)
    assert files(tmp_path / "run") == files(tmp_path / "whole")


def test_the_lengths_of_a_run_stay(averaged: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run(averaged, tmp_path / "run", listeners=[at_step(5, stop)])
    other = replace(averaged, training=replace(averaged.training, ema_stds=(0.05,)))
    with pytest.raises(UserError, match=r"training\.ema_stds"):
        run(other, tmp_path / "run", resume=True)


@pytest.mark.parametrize("stds", [(0.0,), (0.05, 0.05), (0.05, 0.3), (float("nan"),)])
def test_lengths_that_cannot_be(averaged: RunConfig, stds: tuple[float, ...]) -> None:
    with pytest.raises(UserError, match=r"--training\.ema-stds"):
        replace(averaged, training=replace(averaged.training, ema_stds=stds))


def test_a_snapshot_that_cannot_be_written_ends_the_run_before_the_next_checkpoint(
    averaged: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint of the same step would let the run go on without it."""

    def full(path: Path, averages: Averages) -> Path:
        if averages.step == 8:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_snapshot(path, averages)

    monkeypatch.setattr(saver, "write_snapshot", full)
    config = replace(averaged, training=replace(averaged.training, ema_every=4))
    with pytest.raises(UserError, match=r"step 8 could not be written into .*: No space left on device") as error:
        run(config, tmp_path / "run")
    assert "--resume" in str(error.value)
    assert [c.name for c in checkpoints(tmp_path / "run")] == ["4"]
    monkeypatch.setattr(saver, "write_snapshot", write_snapshot)
    run(config, tmp_path / "run", resume=True)
    assert [p.stem for p in snapshot_paths(tmp_path / "run" / "ema")] == ["4", "8", "12"]


def test_made_averages_are_those_that_a_real_run_tracks(
    averaged: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To 1e-4 of the weights' size, and to 1 % of what averaging changes, from snapshots of 1/20 of the run."""
    seen: list[Trainer] = []

    class Watched(Trainer):
        def __post_init__(self) -> None:
            super().__post_init__()
            seen.append(self)

    monkeypatch.setattr(session, "Trainer", Watched)
    direct: dict[str, PowerEMA] = {}

    def track(event: Event) -> None:
        if isinstance(event, StepDone):
            network = seen[0].denoiser.network
            direct.setdefault("of", PowerEMA(network, TRACKED)).update(network, event.step)

    training = replace(averaged.training, steps=120, ema_every=6, lr=5e-3)
    run(replace(averaged, training=training), tmp_path / "run", listeners=[track])
    raw = dict(seen[0].denoiser.network.named_parameters())
    for std, averages in direct["of"].averages.items():
        made = dict(posthoc_ema(tmp_path / "run", std).network.named_parameters())
        difference, size, change = (
            torch.stack(list(torch._foreach_norm(list(parts)))).norm()
            for parts in (
                [made[k].double() - a for k, a in averages.items()],
                averages.values(),
                [raw[k].detach().double() - a for k, a in averages.items()],
            )
        )
        assert difference < 1e-4 * size, std
        assert difference < 0.01 * change, std


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.Tensor]:
    """A run folder with snapshots of 1,000 steps of a network that walks and drifts, every 50; (1000, n) its weights.

    Only one of its layers walks, so that all of it can be kept.
    """
    network = CompactConfig(channels=(8,), blocks=(1,), head_channels=0)
    config = ModelConfig(network=network, image_size=(4, 4), channels=1)
    model = undye.Denoiser.from_config(config).network
    layer = max(model.parameters(), key=torch.Tensor.numel)
    averages = PowerEMA(model, (0.05, 0.1))
    folder, theta = tmp_path_factory.mktemp("walk"), []
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        layer.copy_(torch.randn(layer.shape, generator=generator))
        drift = torch.randn(layer.shape, generator=generator) / 1000
        for step in range(1, 1001):
            layer.add_(torch.randn(layer.shape, generator=generator) / 1000**0.5 + drift)
            averages.update(model, step)
            theta.append(layer.detach().double().flatten())
            if step % 50 == 0:
                path = folder / "ema" / f"{step}.safetensors"
                write_snapshot(path, Averages(step, averages.network_states(model), config, {"data": "a walk"}))
    return folder, torch.stack(theta)


@pytest.fixture
def synthetic(walk: tuple[Path, torch.Tensor], tmp_path: Path) -> tuple[Path, torch.Tensor]:
    """The same in a folder of one's own, to be damaged."""
    shutil.copytree(walk[0], tmp_path / "walk")
    return tmp_path / "walk", walk[1]


def layer_of(denoiser: undye.Denoiser) -> torch.Tensor:
    return max(denoiser.network.parameters(), key=torch.Tensor.numel).detach().double().flatten()


def test_any_length_at_any_snapshot(synthetic: tuple[Path, torch.Tensor]) -> None:
    folder, theta = synthetic
    for step in (500, 1000):
        for std in (0.05, 0.075, 0.1, 0.15):
            made = layer_of(undye.posthoc_ema(folder, std, step))
            direct = torch.from_numpy(step_weights(std, step)) @ theta[:step]
            assert (made - direct).norm() < 1e-3 * direct.norm(), (step, std)
    stored = load_file(folder / "ema" / "1000.safetensors")
    for name, w in undye.posthoc_ema(folder, 0.1).network.state_dict().items():
        torch.testing.assert_close(w, stored[f"0.1.{name}"], rtol=1e-5, atol=1e-7)


def test_a_made_model_is_an_ordinary_checkpoint(synthetic: tuple[Path, torch.Tensor], tmp_path: Path) -> None:
    denoiser, about = synthesise(Snapshots.of(synthetic[0]), 0.07)
    assert about == {"data": "a walk", "step": 1000, "ema_std": 0.07, "from": "walk"}
    save(tmp_path / "made", denoiser, about=about)
    again = undye.load(tmp_path / "made")
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), denoiser.parameters(), strict=True))
    assert undye.sample(again, n=2, steps=2).shape == (2, 4, 4, 1)


def test_what_cannot_be_made(synthetic: tuple[Path, torch.Tensor], tmp_path: Path) -> None:
    folder, _ = synthetic
    for std in (0.3, 0.005, -1.0, float("nan")):
        with pytest.raises(UserError, match=r"choose a --std of 0\.0\d+ to 0\.2\d+"):
            posthoc_ema(folder, std)
    with pytest.raises(UserError, match="end at step 1,000"):
        posthoc_ema(folder, 0.05, 1001)
    with pytest.raises(UserError, match="nearest is that of step 200"):
        posthoc_ema(folder, 0.05, 210)
    with pytest.raises(UserError, match="no run at"):
        posthoc_ema(tmp_path / "nowhere", 0.05)


def test_damaged_snapshots_are_named(synthetic: tuple[Path, torch.Tensor], tmp_path: Path) -> None:
    folder, _ = synthetic
    path = folder / "ema" / "750.safetensors"
    shutil.copy(path, tmp_path / "kept")
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UserError, match=r"750\.safetensors is damaged"):
        posthoc_ema(folder, 0.05)
    path.unlink()
    without = layer_of(posthoc_ema(folder, 0.075))
    shutil.copy(tmp_path / "kept", path)
    torch.testing.assert_close(without, layer_of(posthoc_ema(folder, 0.075)), rtol=0, atol=0.01)
    other = replace(undye.run_preset("cpu").model, image_size=(8, 8), channels=1)
    foreign = undye.Denoiser.from_config(other).network.state_dict()
    write_snapshot(path, Averages(750, {0.05: foreign}, other, {}))
    with pytest.raises(UserError, match=r"750.safetensors: weight .* is not that of the other snapshots"):
        posthoc_ema(folder, 0.05)


def test_raw_weights_of_a_checkpoint(averaged: RunConfig, tmp_path: Path) -> None:
    last = run(averaged, tmp_path / "run")
    state = load_file(last / "train_state" / "tensors.safetensors")
    raw, ema = undye.load(tmp_path / "run", weights="raw"), undye.load(tmp_path / "run")
    assert not raw.training
    for name, w in raw.network.state_dict().items():
        assert torch.equal(w, state[f"weights.network.{name}"])
    assert not all(torch.equal(a, b) for a, b in zip(raw.parameters(), ema.parameters(), strict=True))
    save(tmp_path / "bare", ema)
    with pytest.raises(UserError, match="no raw weights"):
        undye.load(tmp_path / "bare", weights="raw")
    damaged = last / "train_state" / "tensors.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-20])
    with pytest.raises(UserError, match="damaged"):
        undye.load(tmp_path / "run", weights="raw")
    assert RunFolder(tmp_path / "run").ema.is_dir()
