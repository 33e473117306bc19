"""Several processes that train together: the same run as one process, and an end for all when one of them is lost."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.training.harness import (
    PATIENCE,
    Job,
    finish,
    finish_all,
    records,
    step_of,
    tensors,
    tiny,
    together,
    wait_until,
    write_images,
)

EXACT = ["--training.precision", "fp64", "--model.network.dropout", "0", "--training.steps", "20"]
LABELS = ["--labels", "auto", "--training.label-drop", "0.5"]
RUNS = {
    "adam": [*LABELS, "--training.optimizer", "adam", "--training.timesteps", "importance"],
    "muon": ["--training.optimizer", "muon", "--training.timesteps", "stratified", "--training.accumulate", "2"],
    "fsdp": [*LABELS, "--training.optimizer", "adam", "--training.parallel", "fsdp"],
}
ENDLESS = ["--training.steps", "1000000", "--checkpoint.every", "5"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("processes") / "images.npz")


def alone(data: Path, name: str) -> Path:
    """20 steps in one process; done once."""
    out = data.parent / name
    if not out.exists():
        finish(Job(tiny(data, out, *EXACT, *RUNS[name]), data.parent / f"{name}.txt"))
    return out


def far(a: torch.Tensor, b: torch.Tensor) -> float:
    """How far apart two tensors are, as a part of the first one's norm."""
    a, b = a.double(), b.double()
    return float((a - b).norm() / a.norm().clamp(min=1e-30))


def assert_close(one: Path, other: Path) -> None:
    """Every tensor of the newest checkpoints agrees to 1e-9 of its norm."""
    a, b = tensors(one), tensors(other)
    assert a.keys() == b.keys()
    worst = {name: far(a[name], b[name]) for name in a}
    assert all(a[name].dtype == torch.float64 for name in a if name.startswith(("weights.", "ema.")))
    assert max(worst.values()) < 1e-9, max(worst, key=worst.__getitem__)
    for event in ("logged", "saved", "finished"):
        x, y = records(one, event), records(other, event)
        assert [line["step"] for line in x] == [line["step"] for line in y], "written once"
        assert [line.get("loss", 0) for line in x] == pytest.approx([line.get("loss", 0) for line in y], rel=1e-9)


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_take_the_steps_of_one(data: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "run"
    jobs = together(tiny(data, out, *EXACT, *RUNS[name]), tmp_path / "said")
    finish_all(jobs)
    assert "2 processes on cpu" in jobs[0].said()
    assert "step" not in jobs[1].said(), "only one of them talks"
    assert_close(alone(data, name), out)


def test_averages_of_any_length_are_those_of_one_process(data: Path, tmp_path: Path) -> None:
    """The snapshots for post-hoc EMA, also across a resumption by another number of processes."""
    more = [*EXACT, *LABELS, "--training.ema-stds", "0.05", "0.1", "--training.ema-every", "8"]
    finish(Job(tiny(data, tmp_path / "one", *more), tmp_path / "one.txt"))
    finish_all(together(tiny(data, tmp_path / "two", *more, "--training.steps", "10"), tmp_path / "two"))
    finish_all(together([*tiny(data, tmp_path / "two", *more), "--resume"], tmp_path / "more"))
    names = [f"{step}.safetensors" for step in (8, 10, 16, 20)]
    assert sorted(p.name for p in (tmp_path / "two" / "ema").iterdir()) == sorted(names)
    for name in ("8.safetensors", "16.safetensors", "20.safetensors"):
        a, b = (load_file(tmp_path / run / "ema" / name) for run in ("one", "two"))
        assert a.keys() == b.keys()
        assert len(a) > 2
        assert max(far(a[k], b[k]) for k in a) < 1e-9
        assert max(far(a[k], a[k].roll(1)) for k in a if a[k].numel() > 1) > 1e-3, "they are not all the same"


@pytest.mark.parametrize("name", ["adam", pytest.param("fsdp", marks=pytest.mark.slow)])
@pytest.mark.parametrize("first", [1, 2])
def test_a_run_goes_on_in_another_number_of_processes(data: Path, tmp_path: Path, name: str, first: int) -> None:
    out = tmp_path / "run"
    for size, steps in ((first, 10), (3 - first, 20)):
        args = [*tiny(data, out, *EXACT, *RUNS[name], "--training.steps", str(steps)), "--resume"]
        said = tmp_path / f"said{size}"
        finish_all(together(args, said) if size == 2 else [Job(args, said)])
    a, b = tensors(alone(data, name)), tensors(out)
    assert a.keys() == b.keys()
    assert max(far(a[k], b[k]) for k in a) < 1e-9


@pytest.mark.parametrize("lost", [0, 1])
def test_a_killed_process_ends_the_others(data: Path, tmp_path: Path, lost: int) -> None:
    out = tmp_path / "run"
    args = [*tiny(data, out, *ENDLESS), "--resume"]
    jobs = [job.start() for job in together(args, tmp_path / "said")]
    wait_until(jobs[0], lambda: step_of(out) >= 10)
    jobs[lost].send(signal.SIGKILL)
    survivor = jobs[1 - lost]
    assert survivor.wait(20) == 2, survivor.said()
    assert "Traceback" not in survivor.said()
    (line,) = [line for line in survivor.said().splitlines() if line.startswith("undye: error: ")]
    assert "another process of this run has ended" in line
    assert "--resume" in line
    end = str(step_of(out) + 2)
    finish(Job([*args, "--training.steps", end], tmp_path / "resumed"))
    assert (out / "checkpoints" / end).is_dir()


@pytest.mark.parametrize("told", [(0, 1), (1,)])
def test_a_signal_stops_all_processes_at_one_step(data: Path, tmp_path: Path, told: tuple[int, ...]) -> None:
    out = tmp_path / "run"
    jobs = [job.start() for job in together(tiny(data, out, *ENDLESS), tmp_path / "said")]
    wait_until(jobs[0], lambda: step_of(out) >= 5)
    for rank in told:
        jobs[rank].send(signal.SIGUSR1)
    assert [job.wait(30) for job in jobs] == [0, 0], "\n".join(job.said() for job in jobs)
    assert jobs[0].said().count("go on with --resume") == 1
    (end,) = records(out, "finished")
    assert end["step"] == step_of(out)
    assert not end["completed"]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--data", "nowhere.npz"], "nowhere.npz"),
        (["--training.batch-size", "5"], "multiple of 2"),
        (["--training.precision", "fp16"], "fp16 training needs a GPU"),
        (["--training.parallel", "fsdp", "--training.optimizer", "muon"], "Muon"),
    ],
)
def test_a_mistake_is_told_once(data: Path, tmp_path: Path, more: list[str], says: str) -> None:
    out = tmp_path / "run"
    jobs = [job.start() for job in together(tiny(data, out, *more), tmp_path / "said")]
    assert [job.wait(30) for job in jobs] == [2, 2]
    said = "".join(job.said() for job in jobs)
    assert "Traceback" not in said
    assert said.count("undye: error: ") == 1, said
    assert says in said
    assert not out.exists()


def torchrun(args: list[str], said: Path) -> subprocess.Popen[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    command = [*launcher, "--signals-to-handle", "SIGTERM,SIGINT,SIGUSR1", "-m", "undye.cli.main", *args]
    env = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    with said.open("w") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, env=env, text=True)


@pytest.mark.slow
def test_torchrun(data: Path, tmp_path: Path) -> None:
    out, said = tmp_path / "run", tmp_path / "said.txt"
    process = torchrun(tiny(data, out, *EXACT, *RUNS["adam"]), said)
    assert process.wait(PATIENCE) == 0, said.read_text()
    assert_close(alone(data, "adam"), out)


@pytest.mark.slow
def test_accelerate_launch(data: Path, tmp_path: Path) -> None:
    """As on GPUs; with its own --cpu it starts one process, whatever number it is given."""
    out, said = tmp_path / "run", tmp_path / "said.txt"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command = [
        *launch,
        "--main_process_port",
        str(port),
        "-m",
        "undye.cli.main",
        *tiny(data, out, *EXACT, *RUNS["adam"]),
    ]
    env = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    with said.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=env)
    assert process.wait(2 * PATIENCE) == 0, said.read_text()
    assert "training on 2 processes" in said.read_text()
    assert_close(alone(data, "adam"), out)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_to_torchrun_reaches_the_run(data: Path, tmp_path: Path, number: signal.Signals) -> None:
    """torchrun itself ends with an error then, whatever its processes do: the run is saved all the same."""
    out, said = tmp_path / "run", tmp_path / "said.txt"
    process = torchrun(tiny(data, out, *ENDLESS), said)
    deadline = time.monotonic() + PATIENCE
    while step_of(out) < 5:
        assert process.poll() is None, said.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    code = process.wait(60)
    print(number, "torchrun's exit code:", code)
    assert "go on with --resume" in said.read_text()
    (end,) = records(out, "finished")
    assert end["step"] == step_of(out)
