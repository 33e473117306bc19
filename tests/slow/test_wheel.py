"""The wheel, built and installed into an empty venv, trains and samples. Needs a package index; minutes."""

import shutil
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_wheel_trains_and_samples(tmp_path: Path) -> None:
    def call(*command: str | Path) -> str:
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    call(sys.executable, "-m", "build", "--wheel", "--outdir", tmp_path / "dist", ROOT)
    (wheel,) = (tmp_path / "dist").glob("undye-*.whl")
    assert wheel.stat().st_size < 8e6
    venv.create(tmp_path / "venv", with_pip=True)
    binaries = tmp_path / "venv" / "bin"
    call(binaries / "python", "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", wheel)
    undye = binaries / "undye"
    short = ["--training.steps", "5", "--preview.count", "1", "--preview.n", "4", "--preview.steps", "2"]
    call(undye, "train", "cpu", "--data", "fashion-mini", "--out", "run", *short)
    call(undye, "sample", "run", "--n", "4", "--steps", "5", "--out", "samples.npz")
    assert np.load(tmp_path / "samples.npz")["images"].shape == (4, 28, 28, 1)
    assert "28x28, 1 channel" in call(undye, "info", "run")
    shutil.rmtree(tmp_path / "venv")
