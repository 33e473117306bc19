"""Sampling and measuring by several processes: what one process would have got."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import undye
from undye.checkpoint.native import save
from undye.config import CompactConfig, ModelConfig
from undye.denoiser import Denoiser
from undye.metrics.nll import BitsPerDim
from undye.metrics.ode_nll import OdeBitsPerDim
from undye.sampling import SampleRequest, film
from undye.sharding import shared_film, shared_sample, shared_stream
from undye.world import World

ROOT = Path(__file__).parent.parent


class OneOf(World):
    """A process that only counts itself; the test plays the others."""

    def __init__(self, rank: int, size: int):
        self.rank, self.size = rank, size

    def collect(self, value):
        return [value]


def model(**settings) -> Denoiser:
    network = CompactConfig(channels=(8, 8), blocks=(1, 1), head_channels=0)
    return Denoiser.from_config(ModelConfig(network=network, image_size=(8, 6), channels=1, **settings))


@pytest.mark.parametrize(("n", "size"), [(7, 2), (7, 3), (2, 3), (1, 2), (6, 1)])
def test_the_parts_are_all_rows_once(n, size):
    parts = [OneOf(rank, size).rows(n) for rank in range(size)]
    assert [i for part in parts for i in part] == list(range(n))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("size", [2, 3, 5])
def test_each_process_draws_its_part_of_the_samples(size):
    denoiser = model(num_classes=3)
    request = SampleRequest(n=4, steps=3, seed=2, first_index=10, label=[0, 2, 1, 2], guidance=2.0)
    whole = undye.sample(denoiser, **vars(request))
    parts = [shared_sample(OneOf(rank, size), denoiser, request) for rank in range(size) if OneOf(rank, size).rows(4)]
    assert abs(np.concatenate(parts).astype(int) - whole).max() <= 1
    frames = film(denoiser, request, 2)
    shared = [shared_film(OneOf(rank, size), denoiser, request, 2) for rank in range(size) if OneOf(rank, size).rows(4)]
    for k, frame in enumerate(frames):
        assert abs(np.concatenate([part[k] for part in shared]).astype(int) - frame).max() <= 1


def test_likelihoods_of_parts_are_joined():
    denoiser = model()
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 6, 1), dtype=np.uint8)
    whole = undye.bits_per_dim(denoiser, images, draws=3)
    parts = [undye.bits_per_dim(denoiser, images[a:b], draws=3, first_index=a) for a, b in ((0, 2), (2, 5))]
    joined = BitsPerDim.joined(parts)
    np.testing.assert_allclose(joined.total, whole.total, rtol=1e-5)
    assert (joined.draws, joined.per_step.shape) == (3, whole.per_step.shape)
    ode = OdeBitsPerDim.joined(
        [OdeBitsPerDim(np.ones(2), np.zeros(2), 10.0), OdeBitsPerDim(np.full(6, 3.0), np.zeros(6), 30.0)]
    )
    assert (ode.total.mean(), ode.calls) == (2.5, 25.0)


def test_two_real_processes(tmp_path: Path) -> None:
    folder = save(tmp_path / "model", model())
    data = tmp_path / "a.npz"
    np.savez(data, images=np.random.default_rng(0).integers(0, 256, (9, 8, 6, 1), dtype=np.uint8))
    script = tmp_path / "both.py"
    script.write_text(
        "import sys\n"
        "from undye.cli.main import main\n"
        f"eval = ['eval', {str(folder)!r}, '--data', {str(data)!r}, '--n', '5', '--draws', '3']\n"
        f"sample = ['sample', {str(folder)!r}, '--n', '5', '--steps', '3']\n"
        "end = ['--device', 'cpu', '--out']\n"
        f"code = main([*eval, *end, {str(tmp_path / 'two.json')!r}])\n"
        f"sys.exit(code or main([*sample, *end, {str(tmp_path / 'two.npz')!r}]))\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("two.npz") == 1, "one process speaks"
    report = undye.evaluate(folder, data, n=5, draws=3, device="cpu")
    both = json.loads((tmp_path / "two.json").read_text())
    one, two = (r["metrics"]["nll"]["bits_per_dim"]["total"]["mean"] for r in (report, both))
    assert two == pytest.approx(one, rel=1e-5)
    images = undye.sample(undye.load(folder), 5, steps=3)
    assert abs(np.load(tmp_path / "two.npz")["images"].astype(int) - images).max() <= 1


@pytest.mark.parametrize("size", [1, 2, 3, 9])
def test_the_finished_images_of_all_processes_are_all(size: int) -> None:
    denoiser = model(num_classes=3)
    request = SampleRequest(n=8, steps=2, seed=2, label=[0, 1, 2, 0, 1, 2, 0, 1], batch_size=2)
    whole, found = undye.sample(denoiser, **vars(request)), {}
    wanted = [range(0, 3), range(5, 8)]
    for rank in range(size):
        seen: list[tuple[int, int]] = []

        def take(numbers, images):
            found.update(zip(numbers, images, strict=True))

        shared_stream(OneOf(rank, size), denoiser, request, take, wanted, lambda *at, seen=seen: seen.append(at))
        assert not seen or seen[-1][0] == seen[-1][1]
    assert sorted(found) == [0, 1, 2, 5, 6, 7]
    for number, image in found.items():
        assert abs(image.astype(int) - whole[number]).max() <= 1
