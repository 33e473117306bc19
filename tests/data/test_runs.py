"""Whole runs on every kind of data: the same numbers, bad files named, and the end when there are too many."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import undye
from tests.data.test_archives import make_tar, make_zip
from undye.config import CompactConfig, ModelConfig, ScheduleConfig
from undye.data import encoded
from undye.errors import TooManyBadImages, UserError
from undye.training.events import Event, Notice, StepDone
from undye.training.run import CheckpointConfig, PreviewConfig, RunConfig, TrainingConfig


@pytest.fixture
def config():
    return RunConfig(
        model=ModelConfig(
            network=CompactConfig(channels=(8,), blocks=(1,), head_channels=8),
            variance="fixed_small",
            schedule=ScheduleConfig(name="cosine", num_steps=20),
        ),
        labels="folders",
        training=TrainingConfig(steps=6, batch_size=10, lr=1e-3, warmup=2, flip=True, precision="fp32"),
        checkpoint=CheckpointConfig(every=100),
        preview=PreviewConfig(count=0),
    )


@pytest.fixture
def images(tmp_path, monkeypatch):
    """Forty files in two classes, one of them with four times as many; decoded when they are needed."""
    monkeypatch.setattr(encoded, "MAX_DECODED", 0)
    rng = np.random.default_rng(0)
    for k in range(40):
        path = tmp_path / "images" / ("b" if k % 5 == 0 else "a") / f"{k:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 12), dtype=np.uint8)).save(path)
    return tmp_path / "images"


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.png"))}


def train(config, data, out, **options):
    events: list[Event] = []
    denoiser = undye.train(data, out, config=config, listeners=[events.append], device="cpu", **options)
    losses = [event.loss for event in events if isinstance(event, StepDone)]
    notices = [event.text for event in events if isinstance(event, Notice)]
    return {k: v.clone() for k, v in denoiser.state_dict().items()}, losses, notices


def assert_same(a, b):
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_every_kind_of_data_gives_the_same_run(images, config, tmp_path, monkeypatch):
    config = config.with_steps(3, 1)
    members = files(images)
    undye.pack(images, tmp_path / "x.pack", labels="folders")
    kinds = {
        "zip": (make_zip(tmp_path / "x.zip", members), "folders"),
        "tar": (make_tar(tmp_path / "x.tar", members), "folders"),
        "shards": (str(tmp_path / "s-{0..1}.tar"), "folders"),
        "pack": (tmp_path / "x.pack", "auto"),
    }
    names = list(members)
    for k, part in enumerate((names[:17], names[17:])):
        make_tar(tmp_path / f"s-{k}.tar", {name: members[name] for name in part})
    weights, losses, _ = train(config, images, tmp_path / "folder")
    for kind, (data, labels) in kinds.items():
        other, other_losses, _ = train(replace(config, labels=labels), data, tmp_path / kind)
        assert losses == other_losses, kind
        assert_same(weights, other)
    monkeypatch.setattr(encoded, "MAX_DECODED", 1000)
    assert train(config, images, tmp_path / "whole")[1] == losses


def test_crops_and_balance_go_on_exactly(images, config, tmp_path):
    training = replace(config.training, crop="random", balance="classes", workers=2, prefetch=3)
    config = replace(config, training=training, image_size=(8, 8))
    weights, losses, _ = train(config, images, tmp_path / "whole")
    with pytest.raises(undye.Interrupted):
        train_and_stop(config, images, tmp_path / "run", at=3)
    rest, rest_losses, _ = train(config, images, tmp_path / "run", resume=True)
    assert rest_losses == losses[3:]
    assert_same(weights, rest)
    plain = replace(config, training=replace(training, crop="center"))
    assert train(plain, images, tmp_path / "plain")[1] != losses
    serial = replace(config, training=replace(training, workers=0))
    assert train(serial, images, tmp_path / "serial")[1] == losses


def train_and_stop(config, data, out, at):
    import os
    import signal

    def stop(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == at:
            os.kill(os.getpid(), signal.SIGTERM)

    undye.train(data, out, config=config, listeners=[stop], device="cpu")


@pytest.mark.parametrize("damage", ["deleted", "corrupt"])
def test_a_bad_file_in_the_middle_is_named_and_replaced(images, config, tmp_path, damage):
    runs = []
    for name in ("one", "two"):
        content = files(images)

        def spoil(event: Event) -> None:
            if isinstance(event, StepDone) and event.step == 1:
                path = images / "a/13.png"
                path.unlink() if damage == "deleted" else path.write_bytes(path.read_bytes()[:-40])

        events: list[Event] = []
        # no batch is prepared before the first step is over, so that both runs find the same
        once = replace(config, training=replace(config.training, workers=0, steps=8))
        undye.train(images, tmp_path / name, config=once, listeners=[events.append, spoil], device="cpu")
        runs.append([event.loss for event in events if isinstance(event, StepDone)])
        (notice,) = [event.text for event in events if isinstance(event, Notice)]
        why = "No such file or directory" if damage == "deleted" else "damaged"
        assert notice.startswith(f"skipped a/13.png: {why}")
        assert "skipped a/13.png" in (tmp_path / name / "log.jsonl").read_text()
        (images / "a/13.png").write_bytes(content["a/13.png"])
    assert len(runs[0]) == 8
    assert runs[0] == runs[1]


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_bad_files_end_the_run(images, config, tmp_path, workers):
    def spoil(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == 1:
            for path in images.glob("a/1*.png"):
                path.unlink()

    told: list[str] = []

    def listen(event: Event) -> None:
        if isinstance(event, Notice):
            told.append(event.text)

    config = replace(config, training=replace(config.training, steps=50, workers=workers))
    with pytest.raises(
        TooManyBadImages, match=r"^3 of 40 images cannot be used \(allowed: 5%\): a/1.\.png: No such file"
    ):
        undye.train(images, tmp_path / "run", config=config, listeners=[spoil, listen], device="cpu")
    assert len(told) >= 3


def test_mistakes_come_before_the_first_step(images, config, tmp_path):
    balanced = replace(config, labels="none", training=replace(config.training, balance="classes"))
    with pytest.raises(UserError, match="needs labels"):
        undye.train(images, tmp_path / "run", config=balanced, device="cpu")
    crops = replace(config, labels="none", training=replace(config.training, crop="random"))
    with pytest.raises(UserError, match=r"leave --training\.crop out"):
        undye.train("fashion-mini", tmp_path / "run", config=crops, device="cpu")
    assert not (tmp_path / "run").exists()


def test_the_hubs_names_are_no_paths(config, tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    pictures = [Image.fromarray(np.full((8, 8), k, dtype=np.uint8)) for k in range(20)]
    table = datasets.Dataset.from_dict({"image": pictures}, features=datasets.Features({"image": datasets.Image()}))
    monkeypatch.setattr(datasets, "load_dataset", lambda name, config, streaming: {"train": table})
    train(replace(config, labels="none"), "hf:someone/pictures", tmp_path / "run")
    assert 'data = "hf:someone/pictures"' in (tmp_path / "run/config.toml").read_text()
