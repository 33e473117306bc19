"""Trackers: what reaches them, that a resumed run goes on there, and that nothing of theirs can stop a run."""

import json
import os
import signal
import sys
import threading
import types
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from undye.errors import UserError
from undye.training import trackers
from undye.training.events import Event, Failed, Finished, Logged, Notice, StepDone
from undye.training.listeners import JsonLog
from undye.training.run import RunConfig
from undye.training.session import Interrupted, run
from undye.training.trackers import InBackground, Tracker, check_trackers


@dataclass
class Fake:
    """Stands for wandb or trackio: a module, and the one run that it has."""

    broken: str = ""
    calls: list[tuple[str, Any]] = field(default_factory=list)

    def module(self, name: str) -> types.ModuleType:
        module = types.ModuleType(name)
        module.init = self.init  # type: ignore[attr-defined]
        module.Image = lambda path: f"image {path}"  # type: ignore[attr-defined]
        return module

    def called(self, what: str, value: Any) -> None:
        self.calls.append((what, value))
        if what == self.broken:
            raise ConnectionError("no route\nto host")

    def init(self, **settings: Any) -> "Fake":
        self.called("init", settings)
        return self

    def define_metric(self, name: str, step_metric: str) -> None:
        self.called("define", (name, step_metric))

    def log(self, values: dict[str, Any], step: int | None = None) -> None:
        self.called("log", values | ({} if step is None else {"step": step}))

    def finish(self, exit_code: int | None = None) -> None:
        self.called("finish", exit_code)

    def of(self, what: str) -> list[Any]:
        return [value for kind, value in self.calls if kind == what]


def fake(monkeypatch: pytest.MonkeyPatch, name: str, broken: str = "") -> Fake:
    made = Fake(broken)
    monkeypatch.setitem(sys.modules, name, made.module(name))
    return made


def tracked(config: RunConfig, *names: str) -> RunConfig:
    return replace(config, watch=replace(config.watch, trackers=names))


def stop_at(step: int) -> Callable[[Event], None]:
    def listener(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    return listener


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_numbers_grids_and_settings_reach_a_tracker(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    told = fake(monkeypatch, name)
    config = replace(config, watch=replace(config.watch, nll_every=6, held_out=0.2, trackers=(name,)))
    run(config, tmp_path / "run")
    (settings,) = told.of("init")
    assert settings["config"]["training"]["batch_size"] == 6
    assert (settings["project"], settings["resume"]) == ("undye", "allow")
    logged = told.of("log")
    losses = {values["step"]: values["loss"] for values in logged if "loss" in values}
    records = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert losses == {r["step"]: r["loss"] for r in records if r["event"] == "logged"}
    assert [v["step"] for v in logged if "nll/bits_per_dim" in v] == [6, 12]
    assert [(v["samples"], v["step"]) for v in logged if "samples" in v] == [
        (f"image {tmp_path / 'run' / 'samples' / '00000012.png'}", 12)
    ]
    assert any("loss_of_t/0" in values for values in logged)
    assert told.of("finish") == [0 if name == "wandb" else None]
    assert not (tmp_path / "run" / "tensorboard").exists(), "it was not named"


def test_a_resumed_run_goes_on_under_its_name(
    quiet: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb, trackio = fake(monkeypatch, "wandb"), fake(monkeypatch, "trackio")
    config = tracked(quiet, "wandb", "trackio")
    with pytest.raises(Interrupted):
        run(config, tmp_path / "run", listeners=[stop_at(5)])
    run(config, tmp_path / "run", resume=True)
    run(config, tmp_path / "other")
    first, again, other = (settings["id"] for settings in wandb.of("init"))
    assert first == again != other
    assert wandb.of("define")[0] == ("*", "step"), "the steps that are taken again may go back"
    first, again, other = (settings["name"] for settings in trackio.of("init"))
    assert first == again != other


@pytest.mark.parametrize("broken", ["init", "log", "finish"])
def test_a_tracker_that_fails_is_told_once_and_the_run_goes_on(
    quiet: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    told = fake(monkeypatch, "wandb", broken)
    events: list[Event] = []
    run(tracked(quiet, "wandb"), tmp_path / "run", listeners=[events.append])
    assert isinstance(events[-1], Finished | Notice)
    notices = [e.text for e in events if isinstance(e, Notice)]
    assert len(notices) == 1
    assert notices[0].startswith("wandb: ConnectionError: no route to host")
    records = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert [r["text"] for r in records if r["event"] == "notice"] == notices
    assert len(told.of("log")) == (0 if broken == "init" else 2), "it is tried again"


def test_a_tracker_that_only_fails_is_left_alone(
    quiet: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = fake(monkeypatch, "wandb", "log")
    notices: list[Notice] = []
    tracker = InBackground("wandb", trackers.WandB(tmp_path, quiet, 0), notices.append)
    for step in range(20):
        tracker(Logged(step, 1.0, 1.0, 1.0, 1.0, 1.0))
    tracker(Finished(20, True, 1.0))
    assert len(told.of("log")) == trackers.FAILURES
    assert len(notices) == 1


class Stuck(Tracker):
    """A network that never answers."""

    def open(self) -> None:
        self.free = threading.Event()

    def scalars(self, values: dict[str, float], step: int) -> None:
        self.free.wait(30)

    def picture(self, path: Path, step: int) -> None: ...

    def close(self, failed: bool) -> None: ...


def test_a_tracker_that_hangs_holds_nothing_up(
    quiet: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "LAST_WORDS", 0.2)
    monkeypatch.setattr(trackers, "WAITING", 3)
    notices: list[Notice] = []
    stuck = Stuck(tmp_path, quiet, 0)
    tracker = InBackground("far", stuck, notices.append)
    for step in range(10):
        tracker(Logged(step, 1.0, 1.0, 1.0, 1.0, 1.0))
    tracker(Finished(10, True, 1.0))
    stuck.free.set()
    assert len(notices) == 1
    assert "does not keep up" in notices[0].text


def test_the_end_of_a_failed_run_is_told(quiet: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = fake(monkeypatch, "wandb")
    config = replace(quiet, training=replace(quiet.training, lr=1e30, warmup=0, grad_clip=0.0))
    events: list[Event] = []
    with pytest.raises(UserError, match="not finite"):
        run(tracked(config, "wandb"), tmp_path / "run", listeners=[events.append])
    assert isinstance(events[-1], Failed)
    assert "not finite" in events[-1].text
    assert told.of("finish") == [1]
    last = json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])
    assert (last["event"], last["text"]) == ("failed", events[-1].text)


@pytest.mark.parametrize("name", ["wandb", "trackio", "tensorboard"])
def test_a_tracker_that_is_not_installed_is_a_line_before_the_first_step(
    quiet: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError) as error:
        run(tracked(quiet, name), tmp_path / "run")
    assert str(error.value) == (
        f"{name} is not installed: pip install 'undye[{name}]', or leave it out of --watch.trackers"
    )
    assert not (tmp_path / "run").exists()
    check_trackers(tracked(quiet, "auto"))


def test_tensorboard_has_every_number_once(config: RunConfig, tmp_path: Path) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with pytest.raises(Interrupted):
        run(config, tmp_path / "run", listeners=[stop_at(5)])
    run(config, tmp_path / "run", resume=True)
    events = event_accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert [e.step for e in events.Scalars("loss")] == [1, 12]
    assert [e.step for e in events.Images("samples")] == [12]
    assert {"grad_norm", "lr", "images_per_second", "memory_gb", "loss_of_t/0"} <= set(events.Tags()["scalars"])


def test_no_tracker_at_all(quiet: RunConfig, tmp_path: Path) -> None:
    run(tracked(quiet), tmp_path / "run")
    assert not (tmp_path / "run" / "tensorboard").exists()
    assert not (tmp_path / "run" / trackers.IDS).exists()


def test_trackers_are_named_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from undye.cli.main import main

    monkeypatch.setitem(sys.modules, "wandb", None)
    args = ["train", "--data", "fashion-mini", "--out", str(tmp_path / "run"), "--watch.trackers"]
    assert main([*args, "tensorboard", "wandb"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("undye: error: wandb is not installed")
    assert error.count("\n") == 1
    assert main([*args, "mlflow"]) == 2
    assert "mlflow" in capsys.readouterr().err


def test_notices_are_logged_with_their_step(tmp_path: Path) -> None:
    log = JsonLog(tmp_path / "log.jsonl", 0)
    log(StepDone(7, 1.0, 1.0, 1.0, 4))
    log(Notice("look"))
    log(Failed(8, "broken"))
    assert [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [
        {"event": "notice", "step": 7, "text": "look"},
        {"event": "failed", "step": 8, "text": "broken"},
    ]
    JsonLog(tmp_path / "log.jsonl", 8)
    kept = [json.loads(line)["event"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert kept == ["notice", "saved"], "a run that goes on has not failed"
