"""Training processes that are killed at random moments, and go on to the very end that they would have had."""

import random
import signal
import time
from pathlib import Path

import pytest

from tests.training.harness import (
    Job,
    assert_same_run,
    assert_same_tensors,
    finish,
    kill_again_and_again,
    random_kills,
    records,
    step_of,
    tensors,
    tiny,
    wait_until,
    write_images,
    writing,
)

EVERY = 3
ADAM = [
    *("--training.steps", "240", "--checkpoint.every", str(EVERY), "--training.optimizer", "adam"),
    *("--training.timesteps", "importance", "--training.decay", "cosine", "--labels", "auto"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("kills") / "images.npz")


@pytest.fixture(scope="module")
def whole(data: Path) -> Path:
    """The run that nobody disturbs."""
    out = data.parent / "whole"
    finish(Job(tiny(data, out, *ADAM), data.parent / "whole.txt"))
    return out


SHORT = ["--training.steps", "30", "--checkpoint.every", "3"]


@pytest.fixture(scope="module")
def short(data: Path) -> Path:
    """A shorter one."""
    out = data.parent / "short"
    finish(Job(tiny(data, out, *SHORT), data.parent / "short.txt"))
    return out


def test_eight_kills_leave_no_trace(data: Path, whole: Path, tmp_path: Path) -> None:
    kills = random_kills(8, most=6, start=0.5, seed=20261123)
    hit = kill_again_and_again(tiny(data, tmp_path / "run", *ADAM), tmp_path / "run", EVERY, kills)
    assert any("checkpoint" in where for where in hit), "some of them while a checkpoint was being written"
    assert_same_run(whole, tmp_path / "run")


def test_signals_at_random_moments_save_and_lose_nothing(data: Path, whole: Path, tmp_path: Path) -> None:
    """A polite end: exit code 0 for what schedulers send, 130 for Ctrl-C; the step that was under way is kept."""
    out, draw = tmp_path / "run", random.Random(7)
    args = [*tiny(data, out, *ADAM), "--resume"]
    for number, code in ((signal.SIGTERM, 0), (signal.SIGUSR1, 0), (signal.SIGINT, 130)):
        job = Job(args, tmp_path / f"{number}.txt").start()
        before = step_of(out)
        wait_until(job, lambda before=before: step_of(out) > before)
        time.sleep(draw.uniform(0, 0.03))
        job.send(number)
        assert job.wait() == code, job.said()
        assert "go on with --resume" in job.said()
        assert "Traceback" not in job.said()
        assert records(out, "finished")[-1]["step"] == step_of(out), "saved at the step at which it stopped"
        assert not (out / ".lock").exists()
        assert not writing(out)
    finish(Job(args, tmp_path / "end.txt"))
    assert_same_tensors(whole, out)
    for run in (whole, out):
        assert [line["step"] for line in records(run, "logged")] == [1, 50, 100, 150, 200, 240]
    assert [r["loss"] for r in records(out, "logged")] == [r["loss"] for r in records(whole, "logged")]


def test_a_second_signal_does_not_wait(data: Path, short: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    args = [*tiny(data, out, *SHORT), "--resume"]
    job = Job(args, tmp_path / "said.txt").start()
    wait_until(job, lambda: step_of(out) >= 9)
    job.send(signal.SIGTERM)
    time.sleep(0.002)
    job.send(signal.SIGTERM)
    assert job.wait(20) in (0, 128 + signal.SIGTERM), job.said()
    assert "Traceback" not in job.said()
    finish(Job(args, tmp_path / "end.txt"))
    assert_same_tensors(short, out)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_the_first_step(data: Path, short: Path, tmp_path: Path, number: signal.Signals) -> None:
    """Nothing to save yet, or one step: in any case the run can be started again with --resume."""
    out = tmp_path / "run"
    args = [*tiny(data, out, *SHORT), "--resume"]
    job = Job(args, tmp_path / "said.txt").start()
    wait_until(job, (out / ".lock").exists)
    job.send(number)
    code = job.wait()
    # on a busy machine the run may be over before the signal is there
    over = code == 0 and "finished after" in job.said()
    assert over or code in ((128 + signal.SIGTERM, 0) if number == signal.SIGTERM else (130,)), job.said()
    assert "Traceback" not in job.said()
    finish(Job(args, tmp_path / "end.txt"))
    assert_same_tensors(short, out)


def test_a_signal_while_the_last_checkpoint_is_written(data: Path, tmp_path: Path) -> None:
    """The run is over: it ends as if nothing had been sent."""
    out = tmp_path / "run"
    large = ["--model.network.channels", "128", "--training.steps", "2", "--checkpoint.every", "2"]
    job = Job(tiny(data, out, *large), tmp_path / "said.txt").start()
    wait_until(job, lambda: writing(out))
    job.send(signal.SIGTERM)
    assert job.wait() == 0, job.said()
    assert records(out, "finished")[-1]["completed"]
    assert step_of(out) == 2
    assert tensors(out)
