"""Sets of samples: resumable, checked, extendable, shared between processes."""

import json
from pathlib import Path

import numpy as np
import pytest

import undye
from undye.metrics import sample_set
from undye.metrics.recipe import Recipe, model_hash
from undye.metrics.sample_set import MANIFEST, draw
from undye.sampling import SampleRequest, sample
from undye.world import World

from .test_nll import model

N = 40


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_set, "chunk_size", lambda *_: 16)


def request(n: int = N, **options) -> SampleRequest:
    return SampleRequest(n=n, **{"sampler": "ddim", "steps": 2, "grid": "uniform", "seed": 3, **options})


def pixels(found) -> np.ndarray:
    return found.images(np.arange(len(found)))


def chunks(found) -> list[Path]:
    return sorted(found.folder.glob("*.npy"))


class Stopped(Exception):
    pass


def stop_after(monkeypatch: pytest.MonkeyPatch, chunks: int) -> list[tuple[int, int]]:
    """Make the drawing of one chunk more an end like a kill; returns what is drawn (first index, n)."""
    drawn: list[tuple[int, int]] = []

    def counted(denoiser, n, first_index, **options):
        if len(drawn) == chunks:
            raise Stopped
        drawn.append((first_index, n))
        return sample(denoiser, n, first_index=first_index, **options)

    monkeypatch.setattr(sample_set, "sample", counted)
    return drawn


def test_the_samples_are_those_of_sample(tmp_path):
    denoiser = model()
    found = draw(denoiser, request(), tmp_path)
    images = undye.sample(denoiser, N, sampler="ddim", steps=2, grid="uniform", seed=3)
    assert abs(pixels(found).astype(int) - images).max() <= 1
    assert [len(np.load(p)) for p in chunks(found)] == [16, 16, 8]
    assert (found.kept, found.damaged, found.image_size, found.channels) == (0, 0, (8, 6), 1)
    order = np.array([39, 0, 17, 17])
    np.testing.assert_array_equal(found.images(order), pixels(found)[order])
    manifest = json.loads((found.folder / MANIFEST).read_text())
    assert manifest["recipe"]["sampler"] == {"name": "ddim", "clip": None, "eta": 0.0}
    assert manifest["recipe"]["steps"] == 2
    assert manifest["hash"].startswith(found.folder.name)


@pytest.mark.parametrize("done", [0, 1, 2])
def test_what_was_drawn_before_a_kill_is_kept(tmp_path, monkeypatch, done):
    denoiser = model()
    whole = draw(denoiser, request(), tmp_path / "whole")
    stop_after(monkeypatch, done)
    with pytest.raises(Stopped):
        draw(denoiser, request(), tmp_path / "killed")
    drawn = stop_after(monkeypatch, 99)
    again = draw(denoiser, request(), tmp_path / "killed")
    assert drawn == [(0, 16), (16, 16), (32, 8)][done:]
    assert again.kept == 16 * done
    assert [p.name for p in chunks(again)] == [p.name for p in chunks(whole)], "the same bytes"


def test_nothing_is_drawn_twice_and_larger_sets_begin_with_smaller_ones(tmp_path, monkeypatch):
    denoiser = model()
    small = draw(denoiser, request(20), tmp_path)
    drawn = stop_after(monkeypatch, 99)
    large = draw(denoiser, request(40), tmp_path)
    assert drawn == [(20, 12), (32, 8)]
    np.testing.assert_array_equal(pixels(large)[:20], pixels(small))
    assert draw(denoiser, request(10), tmp_path).kept == 10
    assert len(drawn) == 2


@pytest.mark.parametrize("how", ["flipped", "cut", "empty", "pickle", "moved"])
def test_a_damaged_chunk_is_drawn_again(tmp_path, how):
    denoiser = model()
    first = draw(denoiser, request(), tmp_path)
    images, path = pixels(first), chunks(first)[1]
    content = bytearray(path.read_bytes())
    if how == "flipped":
        content[200] ^= 1
    elif how == "cut":
        content = content[:-5]
    elif how == "empty":
        content = bytearray()
    elif how == "pickle":
        np.save(path, np.array([{"a": 1}] * 16, dtype=object), allow_pickle=True)
        content = bytearray(path.read_bytes())
    else:  # another seed's chunk under its own good hash: the hash is also the recipe's
        other = chunks(draw(denoiser, request(seed=4), tmp_path))[1]
        path.unlink()
        path, content = path.with_name(other.name), bytearray(other.read_bytes())
    path.write_bytes(content)
    again = draw(denoiser, request(), tmp_path)
    assert (again.damaged, again.kept) == (1, 24)
    np.testing.assert_array_equal(pixels(again), images)
    assert draw(denoiser, request(), tmp_path).damaged == 0


def test_damage_while_it_is_used_is_an_error(tmp_path):
    found = draw(model(), request(), tmp_path)
    chunks(found)[0].write_bytes(b"nothing")
    with pytest.raises(undye.UserError, match="damaged"):
        pixels(found)


def test_another_recipe_is_another_folder(tmp_path):
    denoiser = model()
    requests = [
        request(), request(seed=4), request(steps=3), request(grid="quadratic"),
        request(sampler=undye.sampling.with_options("ddim", eta=1.0)),
    ]  # fmt: skip
    folders = [draw(denoiser, r, tmp_path).folder for r in requests]
    changed = model()
    next(changed.parameters()).data += 1e-3
    folders += [
        draw(changed, requests[0], tmp_path).folder,
        draw(denoiser, requests[0], tmp_path, weights="raw").folder,
    ]
    assert len(set(folders)) == len(folders)
    assert draw(denoiser, request(batch_size=7), tmp_path).folder == folders[0]


def test_classes_are_balanced(tmp_path):
    denoiser = model(num_classes=3)
    found = draw(denoiser, request(20, guidance=1.5), tmp_path)
    np.testing.assert_array_equal(found.labels(np.arange(20)), np.arange(20) % 3)
    assert found.recipe.labels == "i mod 3"
    images = undye.sample(
        denoiser, 20, sampler="ddim", steps=2, grid="uniform", seed=3, guidance=1.5, label=np.arange(20) % 3
    )
    assert abs(pixels(found).astype(int) - images).max() <= 1


def test_a_module_of_ones_own_has_no_hash():
    class Own(type(model().network)):
        pass

    denoiser = model()
    assert len(model_hash(denoiser)) == 64
    assert model_hash(denoiser) == model_hash(model())
    denoiser.network.__class__ = Own
    assert model_hash(denoiser) is None


@pytest.mark.parametrize(
    ("options", "says"), [({"steps": 0}, r"1\.\.20"), ({"sampler": "eulr"}, "eulr"), ({"guidance": 2.0}, "label")]
)
def test_wrong_requests_leave_nothing(tmp_path, options, says):
    with pytest.raises(undye.UserError, match=says):
        draw(model(), request(**options), tmp_path / "samples")
    assert not (tmp_path / "samples").exists()


def test_progress_counts_samples(tmp_path):
    ticks = []
    draw(model(), request(20), tmp_path)
    draw(model(), request(), tmp_path, progress=lambda *a: ticks.append(a))
    assert ticks == sorted(ticks)
    assert ticks[0][0] >= 20
    assert ticks[-1] == (N, N)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(undye.UserError, match="cannot keep samples"):
        draw(model(), request(), tmp_path / "file")


def test_processes_share_the_chunks(tmp_path, monkeypatch):
    """The test plays two processes, one after the other: the second's parts are handed to the first."""
    denoiser, parts = model(), []

    class Second(World):
        def __init__(self, missing):
            self.rank, self.size, self.missing = 1, 2, missing

        def broadcast(self, value):
            return self.missing

        def collect(self, value):
            parts.append(value)

    class First(World):
        def __init__(self):
            self.rank, self.size = 0, 2

        def broadcast(self, value):
            return value

        def collect(self, value):
            return [value, parts.pop(0)]

    assert draw(denoiser, request(), tmp_path / "x", world=Second([(0, 16), (16, 32), (32, 40)])) is None
    assert [None if p is None else len(p) for p in parts] == [16, None]
    two = draw(denoiser, request(), tmp_path / "two", world=First())
    one = draw(denoiser, request(), tmp_path / "one")
    assert [p.name for p in chunks(two)] == [p.name for p in chunks(one)]


def test_the_recipe_names_its_times():
    recipe = Recipe.of(model(), request(steps=4))
    assert recipe.times == (20.0, 15.0, 10.0, 5.0, 0.0)
    assert json.loads(json.dumps(recipe.as_json()))["times"] == [20, 15, 10, 5, 0]
    assert recipe.hash != Recipe.of(model(), request(steps=5)).hash
