"""Lines of the log: means, losses by timestep, and that none of it depends on where a run was stopped."""

import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from undye.training import window as window_module
from undye.training.events import Event, Logged, StepDone
from undye.training.listeners import JsonLog
from undye.training.run import RunConfig
from undye.training.session import run
from undye.training.window import BUCKETS, Sums, Window, bucket_bounds, device_memory, process_memory


def event(step: int, t: list[int], losses: list[float], **others: object) -> StepDone:
    values = torch.tensor(losses, dtype=torch.float64)
    done = StepDone(step, float(values.mean()), 1e-3, 2.0, len(t), torch.tensor(t), values)
    return replace(done, **others)


def line_of(window: Window, events: list[StepDone]) -> Logged:
    (line,) = [line for k, e in enumerate(events) for line in window.add(e, last=k == len(events) - 1)]
    assert isinstance(line, Logged)
    return line


@pytest.mark.parametrize("num_steps", [1, 7, 10, 100, 999, 1000])
def test_every_t_is_in_the_bucket_whose_bounds_hold_it(num_steps: int) -> None:
    for t in {1, num_steps // 3 + 1, num_steps // 2 + 1, num_steps}:
        line = line_of(Window(num_steps), [event(2, [t], [3.5])])
        (bucket,) = [k for k, value in enumerate(line.buckets) if value is not None]
        assert line.buckets[bucket] == 3.5
        low, high = bucket_bounds(num_steps)[bucket]
        assert low <= t <= high
    assert sum(high - low + 1 for low, high in bucket_bounds(num_steps)) == num_steps


def test_bucket_means_are_over_all_examples_since_the_last_line() -> None:
    line = line_of(Window(100), [event(2, [1, 10, 100], [1.0, 2.0, 5.0]), event(3, [10, 11], [6.0, 7.0])])
    assert line.buckets == (3.0, 7.0, *[None] * 7, 5.0)


def test_skipped_steps_are_counted_and_spoil_no_mean() -> None:
    bad = event(3, [1, 2], [math.nan, 1.0], skipped=True, grad_norm=math.inf)
    line = line_of(Window(100), [event(2, [1, 2], [1.0, 3.0]), bad])
    assert (line.loss, line.grad_norm, line.buckets[0], line.skipped) == (2.0, 2.0, 2.0, 1)


def test_a_line_without_a_single_step_is_valid_json(tmp_path: Path) -> None:
    window = Window(100)
    window.add(event(1, [1], [4.0]))
    line = line_of(window, [event(2, [1], [math.nan], skipped=True)])
    assert math.isnan(line.loss)
    assert window.loss() == 4.0, "the last that is known"
    JsonLog(tmp_path / "log.jsonl", 0)(line)

    def refuse(name: str) -> float:
        raise AssertionError(name)

    record = json.loads((tmp_path / "log.jsonl").read_text(), parse_constant=refuse)
    assert (record["loss"], record["skipped"]) == (None, 1)


def test_memory_is_that_of_this_process() -> None:
    before = process_memory()
    held = torch.ones(24_000_000)  # more than an allocator keeps for later
    assert process_memory() - before > 0.8 * held.numel() * 4
    assert device_memory() is None or torch.cuda.is_available()


def test_a_state_of_an_older_version_goes_on() -> None:
    old = {"loss": 1.0, "grad_norm": 2.0, "images": 4, "steps": 1, "seconds": 0.1, "last_loss": None}
    assert line_of(Window(100, Sums(**old)), [event(9, [1], [3.0])]).loss == 2.0


@pytest.mark.parametrize("kill_at", [8, 19])
def test_a_killed_run_logs_the_same_lines_bit_by_bit(
    quiet: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kill_at: int
) -> None:
    """Killed in the middle of a window, after a checkpoint in the middle of it."""
    monkeypatch.setattr(window_module, "LOG_EVERY", 10)
    config = replace(quiet, watch=replace(quiet.watch, trackers=()), checkpoint=replace(quiet.checkpoint, every=3))
    config = config.with_steps(22)
    run(config, tmp_path / "whole")

    class Killed(BaseException):
        pass

    def kill(happened: Event) -> None:
        if isinstance(happened, StepDone) and happened.step == kill_at:
            raise Killed

    with pytest.raises(Killed):
        run(config, tmp_path / "killed", listeners=[kill])
    run(config, tmp_path / "killed", resume=True)

    def lines(name: str) -> list[dict[str, object]]:
        records = map(json.loads, (tmp_path / name / "log.jsonl").read_text().splitlines())
        timing = ("elapsed", "images_per_second", "memory", "device_memory")
        return [{k: v for k, v in r.items() if k not in timing} for r in records if r["event"] == "logged"]

    assert lines("killed") == lines("whole")
    assert [line["step"] for line in lines("whole")] == [1, 10, 20, 22]
    assert all(len(line["buckets"]) == BUCKETS for line in lines("whole"))
    assert all(value is not None for value in lines("whole")[1]["buckets"]), "54 draws of t in 10 buckets"


def test_the_state_is_plain_data() -> None:
    window = Window(100)
    window.add(event(2, [3], [0.1]))
    assert asdict(Sums(**json.loads(json.dumps(window.sums())))) == window.sums()
