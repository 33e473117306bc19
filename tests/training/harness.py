"""Real training processes that can be killed, and what their run has to look like afterwards.

Each process runs `undye train` as a shell would, and is forked from a server that has torch imported already: that
takes a tenth of a second instead of several. `plain` starts the slow and ordinary way.
"""

import json
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from undye.checkpoint.native import checkpoints, find_checkpoint

PATIENCE = 120
"""Seconds after which a process that should have ended has hung."""

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [
        *("accelerate.state", "torch._dynamo", "torch.distributed.tensor", "torch.utils.tensorboard"),
        *("undye.cli.train", "undye.training.console", "undye.training.session", "datasets"),
    ]
)


def tiny(data: Path, out: Path, *more: str) -> list[str]:
    """`undye train` of a model so small that a step takes milliseconds; dropout is on, so that all state matters."""
    return [
        *("train", "cpu", "--data", str(data), "--out", str(out), "--threads", "1", "--device", "cpu"),
        *("--model.network.channels", "8", "--model.network.blocks", "1", "--model.network.head-channels", "8"),
        *("--model.network.dropout", "0.1", "--model.schedule.num-steps", "50", "--preview.count", "0"),
        *("--training.precision", "fp32", "--training.warmup", "20", "--training.batch-size", "4", *more),
    ]


def write_images(path: Path, n: int = 20) -> Path:
    """An .npz of n images, 8x8 greyscale, in 2 classes."""
    rng = np.random.default_rng(0)
    labels = np.arange(n) % 2
    base = np.where(labels[:, None, None, None] == 0, 40, 200)
    np.savez(path, images=(base + rng.integers(0, 40, (n, 8, 8, 1))).astype(np.uint8), labels=labels)
    return path


@dataclass
class Job:
    """A training process; its output is in a file.

    Attributes:
        args: of `undye`.
        output: stdout and stderr together.
        env: variables that only it sees.
        before: called in the process first: limits, faults.
    """

    args: list[str]
    output: Path
    env: dict[str, str] = field(default_factory=dict)
    before: Callable[[], None] | None = None
    plain: bool = False
    _process: Any = None

    def start(self) -> "Job":
        """Start it."""
        if self.plain:
            command = [sys.executable, "-m", "undye.cli.main", *self.args]
            env = os.environ | {"OMP_NUM_THREADS": "1"} | self.env
            with self.output.open("a") as file:
                self._process = subprocess.Popen(command, stdout=file, stderr=file, env=env)
        else:
            arguments = (self.args, str(self.output), self.env, self.before)
            self._process = _context.Process(target=_child, args=arguments)
            self._process.start()
        return self

    def running(self) -> bool:
        """Whether it has not ended yet."""
        if isinstance(self._process, ForkServerProcess):
            return self._process.is_alive()
        return self._process.poll() is None

    def send(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self._process.pid, number)

    def wait(self, seconds: float = PATIENCE) -> int:
        """Its exit code, negative for a signal, once it has ended."""
        deadline = time.monotonic() + seconds
        while self.running():
            if time.monotonic() > deadline:
                self._process.kill()
                raise AssertionError(f"still running after {seconds} s\n{self.said()}")
            time.sleep(0.005)
        code = self._process.exitcode if isinstance(self._process, ForkServerProcess) else self._process.returncode
        assert code is not None
        return code

    def said(self) -> str:
        """What it has printed."""
        return self.output.read_text() if self.output.exists() else ""


def _child(args: list[str], output: str, env: dict[str, str], before: Callable[[], None] | None) -> None:
    """In the forked process: what the `undye` script does."""
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.environ.update(env)
    from undye.cli.main import main

    if before is not None:
        before()
    sys.exit(main(args))


def finish(job: Job) -> str:
    """Run a job to its good end; returns its output."""
    code = job.start().wait()
    assert code == 0, f"exit code {code}\n{job.said()}"
    return job.said()


def fails(job: Job) -> str:
    """Run a job that has to end with one line for the user and exit code 2; returns that line."""
    code = job.start().wait()
    said = job.said()
    assert code == 2, f"exit code {code}\n{said}"
    assert "Traceback" not in said, said
    lines = [line for line in said.splitlines() if line.startswith("undye: error: ")]
    assert len(lines) == 1, said
    return lines[0]


def together(args: list[str], output: Path, size: int = 2, **more: Any) -> list[Job]:
    """The jobs of several processes that train together, in the environment that torchrun gives them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"GLOO_SOCKET_IFNAME": "lo"}
    ranks = [
        shared | {"RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(size)} for rank in range(size)
    ]
    return [Job(args, output.with_suffix(f".{rank}.txt"), env, **more) for rank, env in enumerate(ranks)]


def finish_all(jobs: list[Job]) -> None:
    """Run jobs that need each other to their good end."""
    for job in jobs:
        job.start()
    for job in jobs:
        code = job.wait()
        assert code == 0, f"exit code {code}\n" + "\n".join(j.said() for j in jobs)


def step_of(run: Path) -> int:
    """The step of the newest checkpoint of a run; 0: none."""
    return max((int(p.name) for p in (run / "checkpoints").glob("*") if p.name.isdigit()), default=0)


def wait_until(job: Job, condition: Callable[[], object], pause: float = 0.0005) -> None:
    """Watch a running job until something is so."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert job.running(), f"ended before it could be stopped\n{job.said()}"
        assert time.monotonic() < deadline, f"nothing happens\n{job.said()}"
        time.sleep(pause)


def writing(run: Path) -> bool:
    """Whether a checkpoint is being written, or was when its process was killed."""
    with suppress(FileNotFoundError):
        return any((run / "checkpoints").glob(".*.tmp*"))
    return False


@dataclass(frozen=True)
class Kill:
    """When to kill a process that trains.

    Attributes:
        checkpoints: how many it writes before.
        at_write: wait until the next one is being written.
        delay: seconds after that.
    """

    checkpoints: int
    at_write: bool
    delay: float

    def wait(self, job: Job, run: Path, every: int) -> None:
        """Until the moment has come, for a run that is saved `every` so many steps."""
        goal = step_of(run) + every * self.checkpoints
        wait_until(job, lambda: run.exists() and step_of(run) >= goal)
        if self.at_write:
            wait_until(job, lambda: writing(run), pause=0)
        time.sleep(self.delay)


def random_kills(n: int, most: int, start: float, seed: int) -> Iterator[Kill]:
    """n kills: a quarter in the first `start` seconds, the others after up to `most` checkpoints, most into one."""
    draw = random.Random(seed)
    for i in range(n):
        if i % 4 == 0:
            yield Kill(0, False, draw.uniform(0, start))
        else:
            # a checkpoint this small is written in some 10 ms, and a step takes as long
            yield Kill(draw.randint(1, most), i % 4 != 2, draw.uniform(0, 0.03 if i % 4 == 2 else 0.006))


def kill_again_and_again(
    args: list[str], run: Path, every: int, kills: Iterable[Kill], plain: bool = False
) -> list[str]:
    """Start a run, kill it, resume it, kill it, ..., and let it end at last; what each kill hit, in words."""
    said, hit = run.parent / f"{run.name}.txt", []
    for kill in kills:
        job = Job([*args, "--resume"], said, plain=plain).start()
        kill.wait(job, run, every)
        job.send(signal.SIGKILL)
        code = job.wait()
        assert code == -signal.SIGKILL, f"exit code {code}\n{job.said()}"
        hit.append(f"step {step_of(run)}" + (", into a checkpoint" if writing(run) else ""))
    finish(Job([*args, "--resume"], said, plain=plain))
    assert "Traceback" not in said.read_text()
    return hit


def tensors(run: Path) -> dict[str, torch.Tensor]:
    """All that a run's newest checkpoint holds: weights, averages, moments, whatever else."""
    folder = find_checkpoint(run)
    raw = load_file(folder / "train_state" / "tensors.safetensors")
    return raw | {f"ema.{name}": value for name, value in load_file(folder / "model.safetensors").items()}


def records(run: Path, event: str) -> list[dict[str, Any]]:
    """The lines of one kind in a run's log."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == event]


def assert_same_tensors(one: Path, other: Path) -> None:
    """The newest checkpoints of two runs are the same, bit by bit."""
    a, b = tensors(one), tensors(other)
    assert a.keys() == b.keys()
    assert {name for name in a if not torch.equal(a[name], b[name])} == set()


def assert_same_run(one: Path, other: Path) -> None:
    """Two runs have the same state, bit by bit, and logs that differ in times only; nothing is left over."""
    assert_same_tensors(one, other)
    assert [c.name for c in checkpoints(one)] == [c.name for c in checkpoints(other)]
    for event, keys in {
        "logged": ("step", "loss", "lr", "grad_norm"),
        "saved": ("step", "path"),
        "previewed": ("step", "path"),
        "finished": ("step", "completed"),
    }.items():
        told = [[[line[key] for key in keys] for line in records(run, event)] for run in (one, other)]
        assert told[0] == told[1], event
    left = [
        sorted(str(p.relative_to(run)) for p in run.rglob("*") if "tensorboard" not in p.parts) for run in (one, other)
    ]
    assert left[0] == left[1], "the same files"
    assert not any(word in path for path in left[0] for word in (".tmp", ".lock", ".damaged"))
