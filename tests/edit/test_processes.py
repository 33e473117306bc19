"""Edits shared between processes: what one process would have made, written once; an error ends all, told once."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.edit.models import LABELLED, images, near
from tests.training.harness import Job, finish_all, together
from undye.checkpoint.native import save
from undye.sharding import shared_rows
from undye.world import World

END = ("--device", "cpu", "--threads", "1")
EDITS = {
    "inpaint": "inpaint model three.npz --mask mask.png --n 3 --steps 4 --resamplings 2 --label 1 --guidance 1.5",
    "img2img": "img2img model three.npz --steps 3 --batch-size 1",
    "interpolate": "interpolate model g0.png g1.png --points 3 --t 5 20 --steps 2",
    "inverted": "interpolate model g0.png g1.png --points 3 --steps 3 --method inverted",
    "samples": "interpolate model --samples 0 2 --points 5 --steps 3",
    "progressive": "progressive model --n 3 --frames 3 --steps 4 --label 2",
    "shared": "progressive model --shared --groups 3 --n 3 --steps 4",
    "denoise": "denoise model g0.png --sigma 25 --degrade",
    "restore": "restore model three.npz --degrade --n 3 --steps 3",
}
"""With numbers of results that two processes do not share evenly, or too few of them."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shared")
    save(folder / "model", LABELLED)
    grey = images(3, 1)
    np.savez(folder / "three.npz", images=grey)
    for k in range(2):
        Image.fromarray(grey[k, :, :, 0]).save(folder / f"g{k}.png")
    hole = np.zeros((8, 12), np.uint8)
    hole[2:5, 3:7] = 255
    Image.fromarray(hole).save(folder / "mask.png")
    return folder


def work(place: Path, lines: Sequence[str]) -> None:
    """In a process of its own: several commands, one after the other."""
    from undye.cli.main import main

    os.chdir(place)
    for line in lines:
        assert main([*line.split(), *END]) == 0, line


def test_two_processes_make_what_one_makes(place: Path) -> None:
    for out in ("one", "two"):
        lines = [f"{line} --out {out}/{name}.npz" for name, line in EDITS.items()]
        last = f"{EDITS['inpaint']} --out {out}/grid.png"
        jobs = together([*last.split(), *END], place / out, before=partial(work, place, lines))
        if out == "one":
            jobs = [Job(jobs[0].args, jobs[0].output, before=jobs[0].before)]
        finish_all(jobs)
        if out == "two":
            assert jobs[0].said().count("grid.png") == 1
            assert not {"undye:", "grid.png", "network calls"} & set(jobs[1].said().split()), "only one of them talks"
    for name in EDITS:
        one, two = (np.load(place / out / f"{name}.npz")["images"] for out in ("one", "two"))
        assert near(one, two), name
    assert near(*(np.asarray(Image.open(place / out / "grid.png")) for out in ("one", "two")))
    # and made again by two processes from the picture of one
    again = f"sample --like one/grid.png --out {place}/again.png"
    finish_all(together([*again.split(), *END], place / "again", before=partial(work, place, [])))
    assert near(*(np.asarray(Image.open(place / name)) for name in ("one/grid.png", "again.png")))


def no_memory(place: Path, rank: str) -> None:
    """One of the processes cannot hold a single image."""
    os.chdir(place)
    if os.environ["RANK"] == rank:
        from undye.networks.compact import CompactUNet

        def forward(*_: object) -> None:
            raise MemoryError

        CompactUNet.forward = forward  # pyrefly: ignore


def no_model(place: Path) -> None:
    """One of the processes is on a machine that lacks the model."""
    os.chdir(place)
    if os.environ["RANK"] == "1":
        os.chdir("/")


@pytest.mark.parametrize(
    ("line", "before", "says"),
    [
        (EDITS["interpolate"], partial(no_memory, rank="0"), "not enough memory"),
        (EDITS["interpolate"], partial(no_memory, rank="1"), "not enough memory"),
        (EDITS["shared"], partial(no_memory, rank="1"), "not enough memory"),
        (EDITS["progressive"], no_model, "no model at model"),
        ("img2img model g0.png nowhere.png", os.chdir, "no image at nowhere.png"),
        ("img2img model g0.png --strength 3", os.chdir, "the strength must lie in"),
        ("inpaint model g0.png --mask mask.png --jump 0", os.chdir, "the jump and the number"),
        ("inpaint nowhere g0.png --mask mask.png", os.chdir, "no model at nowhere"),
    ],
)
def test_an_error_in_one_process_is_told_once(place: Path, tmp_path: Path, line: str, before, says: str) -> None:
    out = tmp_path / "out" / "a.png"
    jobs = together([*line.split(), *END, "--out", str(out)], tmp_path / "said", before=partial(before, place))
    for job in jobs:
        job.start()
    codes, said = [job.wait(60) for job in jobs], "".join(job.said() for job in jobs)
    assert codes == [2, 2], said
    assert "Traceback" not in said
    assert said.count("undye: error: ") == 1, said
    assert says in said
    assert not out.parent.exists()


class Alone(World):
    """One process of several, whose others have nothing to say but what this one says."""

    def __init__(self, rank: int, size: int):
        self.rank, self.size, self.device = rank, size, torch.device("cpu")

    def gather(self, tensor: torch.Tensor) -> torch.Tensor:
        return torch.stack([tensor] * self.size)


@pytest.mark.parametrize(("n", "size"), [(1, 2), (2, 3), (3, 2), (7, 3), (9, 4), (4, 2), (5, 1)])
def test_every_row_is_some_process_s(n: int, size: int) -> None:
    """Equally many each, all of them, and each row in its own place."""
    asked: list[range] = []

    def make(rows: range) -> torch.Tensor:
        asked.append(rows)
        return torch.tensor(list(rows))

    for rank in range(size):
        shared_rows(Alone(rank, size), n, make)
    assert {len(rows) for rows in asked} == {-(-n // size)}
    assert {i for rows in asked for i in rows} == set(range(n))

    parts = torch.stack([torch.tensor(list(rows)) for rows in asked])

    class All(Alone):
        def gather(self, tensor: torch.Tensor) -> torch.Tensor:
            return super().gather(tensor) if tensor.ndim == 0 else parts

    assert shared_rows(All(0, size), n, make).tolist() == list(range(n))


@pytest.mark.slow
def test_by_torchrun(place: Path, tmp_path: Path) -> None:
    import subprocess
    import sys

    out = tmp_path / "a.npz"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m",
               "undye.cli.main", *EDITS["img2img"].split(), *END, "--out"]  # fmt: skip
    env = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run([*command, str(out)], capture_output=True, text=True, env=env, cwd=place, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("a.npz") == 1
    work(place, [f"{EDITS['img2img']} --out {tmp_path}/b.npz"])
    assert near(*(np.load(tmp_path / name)["images"] for name in ("a.npz", "b.npz")))
