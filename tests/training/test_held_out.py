"""Held-out images: never trained on, measured always alike, and without a trace in the weights."""

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import undye
from undye.checkpoint.native import find_checkpoint
from undye.data import load_images
from undye.data.part import Part
from undye.data.source import ArraySource
from undye.errors import UserError
from undye.training.batches import BatchStream
from undye.training.events import BudgetSet, Event, Measured, Notice, StepDone
from undye.training.held_out import HeldOut, in_memory, split
from undye.training.run import RunConfig
from undye.training.session import Interrupted, run


def watched(config: RunConfig, **watch: object) -> RunConfig:
    return replace(config, watch=replace(config.watch, **watch))


@pytest.fixture
def measured(quiet: RunConfig) -> RunConfig:
    """The tiny run, measured every 4 steps on 5 of its 20 images, which are held out."""
    return watched(quiet, nll_every=4, nll_draws=2, held_out=0.25)


def state(folder: Path) -> dict[str, torch.Tensor]:
    last = find_checkpoint(folder)
    return load_file(last / "model.safetensors") | load_file(last / "train_state" / "tensors.safetensors")


def lines(folder: Path, event: str) -> list[dict[str, object]]:
    records = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
    return [{k: v for k, v in r.items() if k != "seconds"} for r in records if r["event"] == event]


def stop_at(step: int) -> Callable[[Event], None]:
    def listener(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    return listener


def test_a_part_is_a_source_of_its_own(images: Path) -> None:
    whole = load_images(str(images))
    train, held = split(whole, 0.25)
    assert isinstance(train, Part)
    assert isinstance(held, Part)
    assert (len(train), len(held)) == (15, 5)
    assert sorted([*train.indices, *held.indices]) == list(range(20))
    np.testing.assert_array_equal(held.images(np.array([2, 0])), whole.images(held.indices[[2, 0]]))
    labels = whole.labels(held.indices[[3]])
    assert labels is not None
    np.testing.assert_array_equal(held.labels(np.array([3])), labels)
    assert held.names(np.array([1])) == whole.names(held.indices[[1]])
    assert "15 images 8x8x1, 2 classes" in train.describe()
    assert in_memory(train)
    assert [list(part.indices) for part in split(whole, 0.25) if isinstance(part, Part)] == [
        list(train.indices), list(held.indices),
    ], "always the same ones"  # fmt: skip


def test_held_out_images_never_come_into_a_batch(images: Path) -> None:
    whole = load_images(str(images))
    train, held = split(whole, 0.25)
    assert held is not None
    stream = BatchStream(train, 6, seed=3)
    seen = {image.numpy().tobytes() for step in range(10) for image in stream.at(step).x_0}
    every = BatchStream(whole, 20, seed=3).at(0).x_0
    held_out = BatchStream(held, 5, seed=3).at(0).x_0
    assert len(seen) == 15
    assert seen | {image.numpy().tobytes() for image in held_out} == {image.numpy().tobytes() for image in every}
    assert not seen & {image.numpy().tobytes() for image in held_out}


@pytest.mark.parametrize("fraction", [0.01, 0.5])
def test_a_fraction_that_leaves_nothing_is_an_error(images: Path, fraction: float) -> None:
    source = load_images(np.zeros((20 if fraction < 0.1 else 1, 8, 8, 1), np.uint8))
    with pytest.raises(UserError, match="another fraction"):
        split(source, fraction)


def test_measuring_changes_nothing_in_the_run(measured: RunConfig, tmp_path: Path) -> None:
    run(measured, tmp_path / "with")
    run(watched(measured, nll_every=0), tmp_path / "without")
    one, other = state(tmp_path / "with"), state(tmp_path / "without")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    found = lines(tmp_path / "with", "measured")
    assert [r["step"] for r in found] == [4, 8, 12]
    assert all(r["images"] == 5 for r in found)
    assert not lines(tmp_path / "without", "measured")


def test_it_is_the_bound_of_the_averaged_weights(measured: RunConfig, tmp_path: Path) -> None:
    run(measured, tmp_path / "run")
    _, held = split(load_images(measured.data, labels="none"), 0.25)
    assert held is not None
    bits = undye.bits_per_dim(undye.load(tmp_path / "run"), held.images(np.arange(5)), draws=2, seed=0)
    last = lines(tmp_path / "run", "measured")[-1]
    assert last["bits_per_dim"] == pytest.approx(bits.total.mean(), rel=1e-6)
    assert last["standard_error"] == pytest.approx(bits.total.std(ddof=1) / 5**0.5, rel=1e-6)


@pytest.mark.parametrize("stop", [4, 6])
def test_a_stopped_run_measures_the_same_images_to_the_same_numbers(
    measured: RunConfig, tmp_path: Path, stop: int
) -> None:
    """Also where the signal comes in the very step after which a measurement is due."""
    run(measured, tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(measured, tmp_path / "stopped", listeners=[stop_at(stop)])
    run(measured, tmp_path / "stopped", resume=True)
    assert lines(tmp_path / "stopped", "measured") == lines(tmp_path / "whole", "measured")


def test_a_grid_that_was_due_when_the_signal_came_is_drawn(config: RunConfig, tmp_path: Path) -> None:
    config = replace(config, preview=replace(config.preview, count=3), watch=replace(config.watch, trackers=()))
    with pytest.raises(Interrupted):
        run(config, tmp_path / "run", listeners=[stop_at(8)])
    run(config, tmp_path / "run", resume=True)
    assert [r["step"] for r in lines(tmp_path / "run", "previewed")] == [4, 8, 12]


def test_what_is_held_out_cannot_change_but_how_it_is_watched_can(measured: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run(measured, tmp_path / "run", listeners=[stop_at(6)])
    with pytest.raises(UserError, match=r"watch\.held_out"):
        run(watched(measured, held_out=0.5), tmp_path / "run", resume=True)
    run(watched(measured, nll_every=3, nll_images=3, trackers=()), tmp_path / "run", resume=True)
    assert [(r["step"], r["images"]) for r in lines(tmp_path / "run", "measured")] == [(4, 5), (6, 3), (9, 3), (12, 3)]


def test_data_without_a_test_split_need_a_fraction(quiet: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--watch\.held-out"):
        run(watched(quiet, nll_every=4), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_named_set_is_measured_on_its_test_split(quiet: RunConfig) -> None:
    config = watched(replace(quiet, data="fashion-mini", labels="auto"), nll_every=1, nll_images=7)
    held = HeldOut.load(config, load_images("fashion-mini"), None)
    assert held is not None
    assert held.name == "fashion-mini test"
    assert held.labels is not None
    assert held.images.shape == (7, 28, 28, 1)
    test = load_images("fashion-mini", split="test").images(np.arange(2000))
    assert all((test == image).all(axis=(1, 2, 3)).any() for image in held.images)


def test_a_model_that_has_diverged_is_told_and_the_run_goes_on(
    measured: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverged(self: HeldOut, model: object, step: int, *_: object) -> Measured:
        raise UserError("not finite")

    monkeypatch.setattr(HeldOut, "measure", diverged)
    events: list[Event] = []
    run(measured, tmp_path / "run", listeners=[events.append])
    assert len([e for e in events if isinstance(e, Notice) and "not finite" in e.text]) == 3


def test_a_budget_counts_the_measurements(measured: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that takes a second after every step leaves room for three of them in 3 s."""
    monkeypatch.setattr(HeldOut, "seconds", lambda self, model: 1.0)
    config = replace(watched(measured, nll_every=1, trackers=()), budget_seconds=3.0)
    events: list[Event] = []
    run(config, tmp_path / "run", listeners=[events.append])
    (planned,) = [e for e in events if isinstance(e, BudgetSet)]
    assert 1 <= planned.total_steps - planned.step <= 3
    assert [e.step for e in events if isinstance(e, Measured)][-1] == planned.total_steps


@pytest.mark.parametrize(
    ("watch", "says"),
    [({"nll_every": -1}, "nll-every"), ({"held_out": 0.7}, "held-out"), ({"nll_images": 1}, "nll-images"),
     ({"nll_draws": 0}, "nll-draws"), ({"held_out": float("nan")}, "held-out"), ({"project": ""}, "project")],
)  # fmt: skip
def test_settings_that_cannot_be_are_errors(quiet: RunConfig, watch: dict[str, object], says: str) -> None:
    with pytest.raises(UserError, match=rf"--watch\.{says}"):
        watched(quiet, **watch)


def test_a_part_passes_on_crops_and_bad_files():
    class Cropping(ArraySource):
        can_crop = True

        def crops(self, indices, at):
            return self.images(indices)[:, :4, :4]

    whole = Cropping("x", np.arange(5 * 64, dtype=np.uint8).reshape(5, 8, 8, 1))
    part = Part(whole, np.array([3, 1]))
    assert part.can_crop
    assert np.array_equal(part.crops(np.array([1]), np.zeros((1, 2))), whole.images(np.array([1]))[:, :4, :4])
    told: list = []
    part.on_bad = told.append
    assert whole.on_bad == told.append
