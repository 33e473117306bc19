"""A hundred kills of two training runs, each of a process started the ordinary way. Minutes."""

import time
from pathlib import Path

import pytest

from tests.training.harness import Job, assert_same_run, finish, kill_again_and_again, random_kills, tiny, write_images

EVERY = 3
RUNS = {
    "adam": [
        *("--training.optimizer", "adam", "--training.timesteps", "importance", "--training.decay", "cosine"),
        *("--labels", "auto", "--training.accumulate", "2"),
    ],
    "muon": [
        *("--training.optimizer", "muon", "--training.timesteps", "stratified", "--training.flip"),
        *("--training.objective", "hybrid", "--model.variance", "learned_range", "--checkpoint.keep-every", "120"),
        *("--training.ema-stds", "0.05", "0.1", "--training.ema-every", "30", "--training.workers", "2"),
        *("--watch.held-out", "0.2", "--watch.nll-every", "60", "--watch.nll-images", "2", "--watch.nll-draws", "1"),
        *("--preview.count", "12", "--preview.n", "4", "--preview.steps", "3"),
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "seed"), [("adam", 1), ("muon", 2)])
def test_fifty_kills_leave_no_trace(tmp_path: Path, name: str, seed: int) -> None:
    data = write_images(tmp_path / "images.npz")
    more = [*RUNS[name], "--training.steps", "600", "--checkpoint.every", str(EVERY)]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(Job(tiny(data, whole, *more), tmp_path / "said.txt", plain=True))
    start = time.monotonic()
    kills = random_kills(50, most=4, start=4.0, seed=seed)
    hit = kill_again_and_again(tiny(data, killed, *more), killed, EVERY, kills, plain=True)
    torn = sum("checkpoint" in where for where in hit)
    print(f"{name}: 50 kills in {time.monotonic() - start:.0f} s, {torn} into a checkpoint: {'; '.join(hit)}")
    assert torn >= 10
    assert_same_run(whole, killed)
