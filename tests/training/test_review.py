"""What a fresh pair of eyes found, and what must not come back."""

import json
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

import undye
from undye.checkpoint.native import find_checkpoint
from undye.cli.main import main
from undye.errors import UserError
from undye.training.events import Event, StepDone
from undye.training.folder import LOCK, RunFolder
from undye.training.run import RunConfig
from undye.training.session import Interrupted, run
from undye.training.setup import fingerprint
from undye.training.showing import Showing
from undye.world import World


def stop_at(step: int):
    def listener(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    return listener


def pictures(folder: Path, n: int = 12) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(n):
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / f"{i:02d}.png")
    return folder


def test_a_signal_does_not_wait_for_a_grid_or_a_measurement(config: RunConfig, images: Path, tmp_path: Path) -> None:
    """Both are left, the run is saved at once, and they are made up for after it is resumed."""
    slow = replace(config, preview=replace(config.preview, count=12, n=4, steps=90))
    slow = replace(slow, watch=replace(slow.watch, nll_every=1, held_out=0.3, nll_images=2, trackers=()))
    sent: list[float] = []

    original = Showing.give_way

    def give_way(self, *args) -> None:
        if self.trainer.step == 5 and not sent:
            sent.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGTERM)
        original(self, *args)

    Showing.give_way = give_way
    try:
        with pytest.raises(Interrupted):
            run(slow, tmp_path / "run")
    finally:
        Showing.give_way = original
    assert find_checkpoint(tmp_path / "run").name == "6", "the very next step"
    assert not (tmp_path / "run" / "samples" / "00000005.png").exists()
    run(slow, tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "samples" / "00000006.png").exists()
    assert (tmp_path / "run" / "samples" / "00000012.png").exists()


@pytest.mark.parametrize("how", ["renamed", "labels"])
def test_other_data_of_the_same_number_are_noticed(quiet: RunConfig, tmp_path: Path, how: str) -> None:
    data = pictures(tmp_path / "data")
    config = replace(quiet, data=str(data))
    with pytest.raises(Interrupted):
        run(config, tmp_path / "run", listeners=[stop_at(3)])
    if how == "renamed":
        (data / "03.png").rename(data / "99.png")
    else:
        Image.new("L", (8, 8), 7).save(data / "05.png")  # of a small folder the pixels are known too
    with pytest.raises(UserError, match="other images"):
        run(config, tmp_path / "run", resume=True)


def test_a_fingerprint_does_not_depend_on_where_an_array_lies(tmp_path: Path) -> None:
    pixels = np.arange(4 * 64, dtype=np.uint8).reshape(4, 8, 8, 1)
    prints = []
    for name in ("a", "b"):
        np.savez(tmp_path / f"{name}.npz", images=pixels)
        prints.append(fingerprint(undye.load_images(tmp_path / f"{name}.npz")))
    assert prints[0] == prints[1]
    assert prints[0] != fingerprint(undye.load_images(pixels + 1))


def test_a_run_among_its_own_images_is_refused(quiet: RunConfig, tmp_path: Path) -> None:
    data = pictures(tmp_path / "data")
    with pytest.raises(UserError, match="own folder"):
        run(replace(quiet, data=str(data)), data / "run")
    assert not (data / "run").exists()


def test_names_that_are_no_text_are_refused(quiet: RunConfig, tmp_path: Path) -> None:
    odd = os.fsdecode(b"caf\xe9")
    with pytest.raises(UserError, match="UTF-8"):
        run(replace(quiet, data=str(tmp_path / odd)), tmp_path / "run")
    with pytest.raises(UserError, match="UTF-8"):
        run(quiet, tmp_path / odd)


@pytest.mark.parametrize("content", ["", "seed = 0\n"])
def test_an_emptied_config_is_damaged(quiet: RunConfig, tmp_path: Path, content: str) -> None:
    run(quiet, tmp_path / "run")
    (tmp_path / "run" / "config.toml").write_text(content)
    with pytest.raises(UserError, match="damaged"):
        run(quiet, tmp_path / "run", resume=True)


def test_the_model_that_a_run_starts_from_may_go(quiet: RunConfig, tmp_path: Path) -> None:
    run(replace(quiet, license="mit"), tmp_path / "first")
    config = replace(quiet, init=str(tmp_path / "first"))

    def move(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == 2:
            (tmp_path / "first").rename(tmp_path / "gone")

    run(config, tmp_path / "second", listeners=[move])
    about = json.loads((find_checkpoint(tmp_path / "second") / "config.json").read_text())["about"]
    assert about["license"] == "mit"


def test_a_lock_on_a_name_that_was_removed_meanwhile_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")
    folder = RunFolder(tmp_path / "run")
    flock = fcntl.flock

    def late(file, how) -> None:
        (tmp_path / "run" / LOCK).unlink()  # by the one who had it
        (tmp_path / "run" / LOCK).touch()  # and another one comes
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    with pytest.raises(UserError, match="another process"), folder.locked():
        pass


@pytest.mark.parametrize("budget", ["0.00001s", "1e3"])
def test_budgets_of_any_size_come_back(quiet: RunConfig, budget: str, tmp_path: Path) -> None:
    seconds = 1e-5 if budget.startswith("0.0") else 1e21
    config = replace(quiet, budget_seconds=seconds)
    RunFolder(tmp_path).write_config(config)
    from undye.cli.train import _to_args
    from undye.training.run import parse_duration

    assert parse_duration(_to_args(RunFolder(tmp_path).read_config()).budget) == seconds


def test_a_damaged_snapshot_is_found(quiet: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    training = replace(quiet.training, ema_stds=(0.05, 0.1), ema_every=2)
    run(replace(quiet, training=training), tmp_path / "run")
    assert main(["ema", str(tmp_path / "run"), "--std", "0.1", "--out", str(tmp_path / "good")]) == 0
    path = tmp_path / "run" / "ema" / "8.safetensors"
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        header = file.metadata()
    tensors = load_file(path)
    name = next(n for n, w in tensors.items() if n.startswith("0.1.") and w.numel() > 10)
    tensors[name].view(-1)[3] += 1e-3
    save_file(tensors, path, header)
    assert main(["ema", str(tmp_path / "run"), "--std", "0.1", "--out", str(tmp_path / "bad")]) == 2
    assert "8.safetensors is damaged" in capsys.readouterr().err
    assert not (tmp_path / "bad").exists()


def test_bad_images_of_every_process_are_named(quiet: RunConfig, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    from undye.training.session import _Session

    class Second(_Session):
        def __init__(self):
            self.world, self.listeners = World.alone(), []
            self.world.rank = 1

    Second()._tell_bad("skipped a.png")
    assert "undye: process 1: skipped a.png" in capsys.readouterr().err


def test_a_user_without_a_home_has_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    from undye.data import cache

    def homeless(self: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("UNDYE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "expanduser", homeless)
    assert "undye" in cache._cache().name
