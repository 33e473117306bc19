"""Everything that can go wrong in a run: one clear line, the earlier checkpoint as it was, and a run that goes on."""

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.training.harness import (
    PATIENCE,
    Job,
    assert_same_run,
    assert_same_tensors,
    fails,
    finish,
    step_of,
    tensors,
    tiny,
    wait_until,
    write_images,
)
from undye.errors import UserError
from undye.objective import SimpleObjective
from undye.training.events import Event, Notice, StepDone
from undye.training.folder import RunFolder
from undye.training.plan import newest_whole
from undye.training.run import RunConfig
from undye.training.saver import forget_damaged
from undye.training.session import Interrupted, run
from undye.world import LOST, World

Listen = Callable[[Event], None]


def at_step(step: int, action: Callable[[], object]) -> Listen:
    """A listener that does something after a step."""

    def listener(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == step:
            action()

    return listener


def stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.fixture
def whole(quiet: RunConfig, tmp_path: Path) -> Path:
    """The run of 12 steps that nothing happens to."""
    run(quiet, tmp_path / "whole")
    return tmp_path / "whole"


# --- the disk ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "what"),
    [
        (errno.ENOSPC, "tensors.safetensors"),
        (errno.EROFS, "tensors.safetensors"),
        (errno.EACCES, "state.json"),
        (errno.EROFS, "8"),
        (errno.ENOSPC, "log.jsonl"),
        (errno.EIO, "log.jsonl"),
    ],
)
def test_a_disk_that_refuses(
    quiet: RunConfig, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, what: str
) -> None:
    """After step 5 the disk takes no more of a file's bytes, no file, no new name, no line of the log."""
    out = tmp_path / "run"
    armed = False
    write, rename = Path.open, os.replace

    def refuse(path: Path) -> None:
        if armed and path.name == what:
            raise OSError(number, os.strerror(number), str(path))

    def opened(path: Path, mode: str = "r", *args: object, **more: object):
        if mode != "r" and mode != "rb":
            refuse(path)
        return write(path, mode, *args, **more)  # pyrefly: ignore

    def replaced(source: Path, target: Path) -> None:
        refuse(Path(target))
        rename(source, target)

    def saved(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
        refuse(path)
        save_file(tensors, path, metadata)

    def arm() -> None:
        nonlocal armed
        deadline = time.monotonic() + PATIENCE
        while not (out / "checkpoints" / "4").exists():  # it is written beside the loop, and not to be refused yet
            assert time.monotonic() < deadline
            time.sleep(0.001)
        armed = True

    import undye.checkpoint.native as native

    save_file = native.save_file
    monkeypatch.setattr(Path, "open", opened)
    monkeypatch.setattr(os, "replace", replaced)
    monkeypatch.setattr(native, "save_file", saved)
    with pytest.raises(UserError) as error:
        run(quiet, out, listeners=[at_step(5, arm)])
    text = one_line(error)
    assert os.strerror(number) in text
    assert "--resume" in text
    assert f"last good checkpoint is {out / 'checkpoints'}" in text
    assert not list(out.rglob("*.tmp*"))
    assert not (out / ".lock").exists()
    armed = False
    run(quiet, out, resume=True)
    assert_same_run(whole, out)


def _small_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("failures") / "images.npz")


def test_files_that_may_not_grow(data: Path, tmp_path: Path) -> None:
    """The operating system itself cuts the weights off; what is there stays, and the exit code is 2."""
    out = tmp_path / "run"
    args = [*tiny(data, out, "--checkpoint.every", "4"), "--resume"]
    finish(Job([*args, "--training.steps", "4"], tmp_path / "said.txt"))
    before = tensors(out)
    said = fails(Job([*args, "--training.steps", "8"], tmp_path / "full.txt", before=_small_files))
    assert "the checkpoint of step 8 could not be written" in said
    assert f"last good checkpoint is {out / 'checkpoints' / '4'}" in said
    assert sorted(p.name for p in (out / "checkpoints").iterdir()) == ["4"]
    assert before.keys() == tensors(out).keys()
    finish(Job([*args, "--training.steps", "8"], tmp_path / "said.txt"))
    assert step_of(out) == 8


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = (
        shutil.which("mount")
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)], capture_output=True
        ).returncode
    )
    if not mounted:
        pytest.skip("no permission to mount a file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk(data: Path, tmp_path: Path, small_disk: Path) -> None:
    """A real one: another program fills it while the run goes on. With room again, the run ends as if nothing was."""
    out, steps = small_disk / "run", ["--checkpoint.every", "5", "--checkpoint.keep", "1", "--training.steps", "100"]
    job = Job([*tiny(data, out, *steps), "--resume"], tmp_path / "said.txt").start()
    wait_until(job, lambda: step_of(out) >= 10)
    filler = small_disk / "film.mp4"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass
    assert job.wait() == 2, job.said()
    assert "Traceback" not in job.said()
    (line,) = [line for line in job.said().splitlines() if line.startswith("undye: error: ")]
    assert "No space left" in line
    assert "the last good checkpoint is" in line
    filler.unlink()
    finish(job)
    finish(Job(tiny(data, tmp_path / "whole", *steps), tmp_path / "whole.txt"))
    assert_same_run(tmp_path / "whole", out)


def test_a_read_only_disk(data: Path, tmp_path: Path, small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    said = fails(Job(tiny(data, small_disk / "run"), tmp_path / "said.txt"))
    assert "Read-only file system" in said
    assert "--out" in said


def test_too_little_room_is_found_before_the_first_step(
    quiet: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6 - 1000, 1000))
    with pytest.raises(UserError, match="make room, or choose another --out"):
        run(quiet, tmp_path / "run")
    assert not (tmp_path / "run").exists()


# --- memory -----------------------------------------------------------------------------------------------------------


def _little_memory(spare: int) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + spare
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux")
def test_out_of_memory(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "large.npz", images=rng.integers(0, 256, (8, 64, 64, 1), dtype=np.uint8))
    large = ["--training.batch-size", "300", "--checkpoint.every", "1"]
    args = [*tiny(tmp_path / "large.npz", tmp_path / "run", *large), "--resume"]
    finish(Job([*args, "--training.steps", "1"], tmp_path / "first.txt"))
    more = [*args, "--training.steps", "2"]
    said = fails(Job(more, tmp_path / "said.txt", before=partial(_little_memory, 100 * 2**20)))
    assert "out of memory in step 2" in said
    assert "--training.batch-size" in said
    assert "--training.accumulate" in said
    assert f"last good checkpoint is {tmp_path / 'run' / 'checkpoints' / '1'}" in said
    finish(Job(more, tmp_path / "said.txt"))
    assert step_of(tmp_path / "run") == 2


# --- the data ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def many_files(quiet: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """A folder of 40 images that counts as too large to be decoded before the first step."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(40):
        Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / f"{i:02d}.png")
    monkeypatch.setattr("undye.data.encoded.MAX_DECODED", 5)
    return replace(quiet, data=str(folder))


def test_a_file_that_goes_bad_in_the_middle_is_named_and_replaced(many_files: RunConfig, tmp_path: Path) -> None:
    """One damaged, one deleted: others stand in for them, and the run goes on."""
    folder = Path(many_files.data)

    def spoil() -> None:
        (folder / "07.png").write_bytes(b"not an image any more")
        (folder / "11.png").unlink()

    events: list[Event] = []
    run(many_files, tmp_path / "run", listeners=[at_step(1, spoil), events.append])
    told = [e.text for e in events if isinstance(e, Notice)]
    for name in ("07.png", "11.png"):
        assert len([text for text in told if name in text]) == 1, told
    assert step_of(tmp_path / "run") == 12


def test_too_many_files_gone_bad_end_the_run(many_files: RunConfig, tmp_path: Path) -> None:
    folder = Path(many_files.data)
    keep = {p: p.read_bytes() for p in folder.iterdir()}

    def spoil() -> None:
        for path in sorted(keep)[::2]:
            path.write_bytes(b"not an image any more")

    with pytest.raises(UserError, match=r"\.png") as error:
        run(many_files, tmp_path / "run", listeners=[at_step(4, spoil)])
    one_line(error)
    assert step_of(tmp_path / "run") in (4, 8)  # batches are prepared ahead
    for path, content in keep.items():
        path.write_bytes(content)
    run(many_files, tmp_path / "run", resume=True)
    run(many_files, tmp_path / "whole")
    assert_same_run(tmp_path / "whole", tmp_path / "run")


# --- the numbers ------------------------------------------------------------------------------------------------------


def spoil_losses(monkeypatch: pytest.MonkeyPatch, steps: range) -> None:
    """Make the losses of these steps (the first is 1) no numbers."""
    loss, count = SimpleObjective.loss, iter(range(1, 10**6))

    def spoiled(self: SimpleObjective, *args: object) -> torch.Tensor:
        factor = float("nan") if next(count) in steps else 1.0
        return loss(self, *args) * factor  # pyrefly: ignore

    monkeypatch.setattr(SimpleObjective, "loss", spoiled)


def test_a_loss_that_is_no_number_changes_nothing(
    quiet: RunConfig, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        spoil_losses(patch, range(7, 8))
        with pytest.raises(UserError, match="the loss is not finite at step 7") as error:
            run(quiet, out)
    text = one_line(error)
    assert f"last good checkpoint is {out / 'checkpoints' / '4'}" in text
    assert "--training.lr" in text
    assert "--training.non-finite skip" in text
    described = out / "not-finite-7.json"
    assert str(described) in text
    rows = json.loads(described.read_text())
    assert len(rows) == quiet.training.batch_size
    assert all(set(row) == {"image", "t", "loss"} and row["loss"] == "nan" for row in rows)
    run(quiet, out, resume=True)
    assert_same_tensors(whole, out)


def test_steps_without_a_number_are_skipped_and_counted(
    quiet: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(quiet, training=replace(quiet.training, non_finite="skip"))
    spoil_losses(monkeypatch, range(3, 6))
    events: list[Event] = []
    run(config, tmp_path / "run", listeners=[events.append])
    steps = [e for e in events if isinstance(e, StepDone)]
    assert [e.step for e in steps if e.skipped] == [3, 4, 5]
    assert len(steps) == 12
    state = json.loads((tmp_path / "run" / "checkpoints" / "12" / "train_state" / "state.json").read_text())
    assert state["skipped"] == 3
    assert all(torch.isfinite(value).all() for value in tensors(tmp_path / "run").values())


def test_a_hundred_skipped_steps_in_a_row_end_the_run(
    quiet: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = replace(quiet.training, non_finite="skip", steps=300)
    config = replace(quiet, training=training, checkpoint=replace(quiet.checkpoint, every=1000))
    spoil_losses(monkeypatch, range(5, 1000))
    with pytest.raises(UserError, match="not finite at step 104"):
        run(config, tmp_path / "run")


# --- the run's folder -------------------------------------------------------------------------------------------------


def test_a_lost_process_is_told_alike_wherever_it_is_noticed(
    quiet: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: object) -> None:
        raise UserError(f"{LOST} (Connection reset by peer)")

    listener = at_step(6, lambda: monkeypatch.setattr(World, "gather", lost))
    with pytest.raises(UserError, match=r"another process .* with --resume; the last good .*/4$") as error:
        run(quiet, tmp_path / "run", listeners=[listener])
    one_line(error)


def test_two_runs_into_one_folder(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    args = [*tiny(data, out, "--checkpoint.every", "5"), "--resume"]
    first = Job([*args, "--training.steps", "1000000"], tmp_path / "first.txt").start()
    wait_until(first, lambda: step_of(out) >= 5)
    said = fails(Job([*args, "--training.steps", "1000000"], tmp_path / "second.txt"))
    assert f"another process is training into {out}" in said
    assert "--out" in said
    assert first.running()
    first.send(signal.SIGKILL)
    first.wait()
    finish(Job([*args, "--training.steps", str(step_of(out) + 1)], tmp_path / "third.txt"))


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """A run with checkpoints 4 and 8."""
    out = tmp_path_factory.mktemp("stopped") / "run"
    finish(Job(tiny(data, out, "--checkpoint.every", "4", "--training.steps", "8"), out.with_name("said.txt")))
    return out


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {"cut off": cut, "one bit": flip, "missing": Path.unlink, "empty": lambda path: path.write_bytes(b"")}
FILES = ["config.json", "model.safetensors", "train_state/tensors.safetensors", "train_state/state.json"]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", [*FILES, "checksums.json"])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    stopped: Path, tmp_path: Path, damage: str, file: str
) -> None:
    shutil.copytree(stopped, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    DAMAGES[damage](folder.checkpoints / "8" / file)
    events: list[Event] = []
    assert newest_whole(folder, [events.append]) == folder.checkpoints / "4"
    (notice,) = [e for e in events if isinstance(e, Notice)]
    assert "kept as 8.damaged" in notice.text
    assert sorted(p.name for p in folder.checkpoints.iterdir()) == ["4", "8.damaged"]


def test_the_end_of_a_run_is_looked_at_too(stopped: Path, data: Path, tmp_path: Path) -> None:
    """A finished run whose last checkpoint has gone bad makes it again, the same."""
    shutil.copytree(stopped, tmp_path / "run")
    flip(tmp_path / "run" / "checkpoints" / "8" / "model.safetensors")
    said = finish(Job(["train", "--resume", "--out", str(tmp_path / "run"), "--threads", "1"], tmp_path / "said.txt"))
    assert "8.damaged" in said
    assert_same_tensors(stopped, tmp_path / "run")
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir() if "damaged" in p.name] == []


def test_a_damaged_checkpoint_goes_once_a_newer_one_is_known_to_be_whole(stopped: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(stopped, out)
    folder = RunFolder(out)
    for name in ("2.damaged", "4.damaged", "6.damaged", "9.damaged"):
        (folder.checkpoints / name).mkdir()
    flip(folder.checkpoints / "8" / "model.safetensors")

    def left() -> list[str]:
        return sorted(p.name for p in folder.checkpoints.iterdir())

    forget_damaged(folder, folder.checkpoints / "8")
    assert left() == ["2.damaged", "4", "4.damaged", "6.damaged", "8", "9.damaged"], "8 is not whole itself"
    assert newest_whole(folder, []) == folder.checkpoints / "4"
    assert left() == ["4", "6.damaged", "8.damaged", "9.damaged"]


def test_no_checkpoint_that_can_be_read(stopped: Path, tmp_path: Path) -> None:
    """The run does not start over by itself, and nothing is touched: a file may come back."""
    out = tmp_path / "run"
    shutil.copytree(stopped, out)
    for step in ("4", "8"):
        flip(out / "checkpoints" / step / "model.safetensors")
    resume = ["train", "--resume", "--out", str(out), "--training.steps", "10"]
    said = fails(Job(resume, tmp_path / "said.txt"))
    assert f"no checkpoint in {out / 'checkpoints'} can be read" in said
    assert sorted(p.name for p in (out / "checkpoints").iterdir()) == ["4", "8"]
    flip(out / "checkpoints" / "4" / "model.safetensors")  # back
    assert "8.damaged" in finish(Job(resume, tmp_path / "again.txt"))


@pytest.mark.parametrize("content", ["[training\n", "[training]\nstep = 3\n", "\x00\x01"])
def test_a_damaged_config_file(stopped: Path, tmp_path: Path, content: str) -> None:
    shutil.copytree(stopped, tmp_path / "run")
    config = tmp_path / "run" / "config.toml"
    good = config.read_text()
    config.write_text(content)
    resume = ["train", "--resume", "--out", str(tmp_path / "run"), "--training.steps", "10"]
    assert "config.toml" in fails(Job(resume, tmp_path / "said.txt"))
    config.write_text(good)
    finish(Job(resume, tmp_path / "again.txt"))


def test_a_log_that_is_damaged_or_gone_goes_on(stopped: Path, tmp_path: Path) -> None:
    """Whole lines stay; what is none is dropped."""
    whole = (stopped / "log.jsonl").read_text().splitlines()
    for name, content in (("list", b'[1]\n3\n{"event": "log'), ("bytes", b"\xff\xfe{}\n"), ("gone", None)):
        out = tmp_path / name
        shutil.copytree(stopped, out)
        log = out / "log.jsonl"
        if content is None:
            log.unlink()
        else:
            log.write_bytes(log.read_bytes() + content)
        resume = ["train", "--resume", "--out", str(out), "--training.steps", "10"]
        finish(Job(resume, tmp_path / f"{name}.txt"))
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        kept = [json.loads(line) for line in whole if '"finished"' not in line] if content is not None else []
        assert [line for line in lines if line in kept] == kept
        assert lines[-1]["event"] == "finished"
        assert lines[-1]["step"] == 10


def test_a_log_that_is_a_folder(stopped: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(stopped, out)
    (out / "log.jsonl").unlink()
    (out / "log.jsonl").mkdir()
    resume = ["train", "--resume", "--out", str(out), "--training.steps", "10"]
    assert "log.jsonl" in fails(Job(resume, tmp_path / "said.txt"))
    (out / "log.jsonl").rmdir()
    finish(Job(resume, tmp_path / "again.txt"))


# --- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "says"),
    [({"accumulate": 4}, "--training.batch-size a multiple of 4"), ({"precision": "fp16"}, "needs a GPU")],
)
def test_settings_that_cannot_be(quiet: RunConfig, tmp_path: Path, more: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        run(replace(quiet, training=replace(quiet.training, **more)), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_a_run_killed_before_its_config_was_written_can_begin(quiet: RunConfig, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / ".lock").touch()
    (out / ".config.toml.tmp123").write_text("preset =")
    with pytest.raises(Interrupted):
        run(quiet, out, resume=True, listeners=[at_step(2, stop)])
    assert not list(out.glob(".*"))
