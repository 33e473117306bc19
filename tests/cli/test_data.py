"""`undye data pack` and `undye data verify`."""

import signal
import time
from pathlib import Path

import numpy as np
import pytest

from tests.training.harness import Job, wait_until
from undye.cli.main import main
from undye.data import load_images


@pytest.fixture
def images(tmp_path: Path) -> Path:
    np.savez(tmp_path / "x.npz", images=np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8))
    return tmp_path / "x.npz"


def test_pack_and_verify(images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "x.pack"
    assert main(["data", "pack", str(images), "--out", str(out), "--image-size", "4", "--channels", "1"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{out}: 5 images 4x4x1 (sha256 ")
    assert load_images(out).image_size == (4, 4)
    assert main(["data", "verify", str(out)]) == 0
    assert said.split("sha256 ")[1][:16] in capsys.readouterr().out
    content = bytearray(out.read_bytes())
    content[-20] ^= 1
    out.write_bytes(content)
    assert main(["data", "verify", str(out)]) == 2
    assert "pack the data again" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["pack", "nowhere", "--out", "x.pack"], "no data set, folder or file named nowhere"),
        (["pack", "fashion-mini"], "no --out"),
        (["pack", "fashion-mini", "--out", "x.zip"], "ends in .pack"),
        (["pack", "fashion-mini", "--out", "x.pack", "--image-size", "a"], "an image size is written"),
        (["pack", "fashion-mini", "--out", "x.pack", "--image-size", "99"], "--upscale"),
        (["verify", "nowhere.pack"], "No such file"),
        (["unpack"], "there are data pack and data verify"),
    ],
)
def test_mistakes_are_one_line(
    args: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["data", *args]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "--help"]) == 0
    assert main(["data"]) == 2
    with pytest.raises(SystemExit) as stop:
        main(["data", "pack", "--help"])
    assert stop.value.code in (0, None)
    assert "--image-size" in capsys.readouterr().out


def half_written() -> None:
    """In the other process: a command that has begun to write a file."""
    from undye.cli import info
    from undye.files import atomic_path

    def main(args: list[str]) -> int:
        with atomic_path(Path(args[0])) as temporary:
            temporary.write_text("half")
            for _ in range(1200):
                time.sleep(0.05)  # a signal that comes just before a sleep is heard only after it
        return 0

    info.main = main


def test_any_command_that_is_terminated_removes_what_it_had_begun(tmp_path: Path) -> None:
    job = Job(["info", str(tmp_path / "out/x")], tmp_path / "said", before=half_written).start()
    wait_until(job, lambda: any((tmp_path / "out").glob(".x.tmp*")))
    job.send(signal.SIGTERM)
    assert job.wait(20) == 143, job.said()
    assert list((tmp_path / "out").iterdir()) == []
    assert "Traceback" not in job.said()


def test_one_of_several_processes_ends_at_once(tmp_path: Path) -> None:
    """It may be waiting for one that is gone, where Python hears no signal."""
    env = {"WORLD_SIZE": "2"}
    job = Job(["info", str(tmp_path / "out/x")], tmp_path / "said", env, before=half_written).start()
    wait_until(job, lambda: any((tmp_path / "out").glob(".x.tmp*")))
    job.send(signal.SIGTERM)
    assert job.wait(20) == -signal.SIGTERM, job.said()


def slowly() -> None:
    """In the other process: a set that takes minutes to pack."""
    from undye.data import packing

    append = packing.TensorWriter.append

    def slow(self: packing.TensorWriter, array: np.ndarray) -> None:
        time.sleep(0.05)
        append(self, array)

    packing.TensorWriter.append = slow  # pyrefly: ignore


def test_a_terminated_pack_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    job = Job(["data", "pack", "fashion-mini", "--out", str(tmp_path / "out/x.pack")], tmp_path / "said", before=slowly)
    job.start()
    wait_until(job, lambda: any((tmp_path / "out").iterdir()))
    job.send(signal.SIGTERM)
    assert job.wait(20) == 143, job.said()
    assert list((tmp_path / "out").iterdir()) == []
    assert "Traceback" not in job.said()
