"""Whole runs: what they write, how they stop, how they go on."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import undye
from undye.checkpoint.checksums import checksums_text
from undye.checkpoint.native import CONFIG, STATE_FILES, WEIGHTS, checkpoints, find_checkpoint
from undye.config import VarianceName
from undye.errors import UserError
from undye.training.events import BudgetSet, Event, Finished, Logged, Notice, Previewed, Saved, Started, StepDone
from undye.training.run import RunConfig
from undye.training.session import Interrupted, run


def weights(run_folder: Path) -> dict[str, torch.Tensor]:
    folder = find_checkpoint(run_folder)
    raw = load_file(folder / "train_state" / "tensors.safetensors")
    return raw | {f"ema.{k}": v for k, v in load_file(folder / "model.safetensors").items()}


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


def stop_at(step: int, number: signal.Signals = signal.SIGTERM):
    def listener(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == step:
            os.kill(os.getpid(), number)

    return listener


def test_a_run_leaves_what_is_promised(config: RunConfig, tmp_path: Path) -> None:
    events: list[Event] = []
    last = run(config, tmp_path / "run", listeners=[events.append])
    folder = tmp_path / "run"
    assert last == folder / "checkpoints" / "12"
    assert [c.name for c in checkpoints(folder)] == ["8", "12"], "rotated, and the last one kept"
    assert Image.open(folder / "samples" / "00000012.png").size[0] >= 16
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records if r["event"] == "saved"] == [4, 8, 12]
    assert records[-1] == {"event": "finished", "step": 12, "completed": True, "elapsed": records[-1]["elapsed"]}
    assert isinstance(events[0], Started)
    assert isinstance(events[-1], Finished)
    assert len([e for e in events if isinstance(e, StepDone)]) == 12
    denoiser = undye.load(folder)
    assert denoiser.config.image_size == (8, 8)
    assert not denoiser.training
    assert (folder / "tensorboard").is_dir()
    assert not list(folder.rglob("*.tmp*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_goes_on_to_the_same_weights(quiet: RunConfig, tmp_path: Path, number: signal.Signals) -> None:
    run(quiet, tmp_path / "whole")
    with pytest.raises(Interrupted) as stop:
        run(quiet, tmp_path / "stopped", listeners=[stop_at(5, number)])
    assert stop.value.signal is number
    assert [c.name for c in checkpoints(tmp_path / "stopped")] == ["4", "5"]
    run(quiet, tmp_path / "stopped", resume=True)
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "stopped"))


@pytest.mark.parametrize("stop", [2, 5, 11])
def test_importance_sampling_goes_on_with_what_it_remembers(quiet: RunConfig, tmp_path: Path, stop: int) -> None:
    """Stopped before every t has been seen ten times, and after: the same draws, so the same weights, bit by bit."""
    model = replace(quiet.model, schedule=replace(quiet.model.schedule, num_steps=4))
    training = replace(quiet.training, timesteps="importance", batch_size=16)
    config = replace(quiet, model=model, training=training, checkpoint=replace(quiet.checkpoint, every=100))
    run(config, tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(config, tmp_path / "stopped", listeners=[stop_at(stop)])
    state = weights(tmp_path / "stopped")
    assert state["timesteps.seen"].sum() == 16 * stop
    assert bool((state["timesteps.seen"] >= 10).all()) == (stop >= 5), "not warm at the first stop, warm at the others"
    run(config, tmp_path / "stopped", resume=True)
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "stopped"))
    uniform = replace(config, training=replace(training, timesteps="uniform"))
    run(uniform, tmp_path / "uniform")
    end, other = weights(tmp_path / "whole"), weights(tmp_path / "uniform")
    assert any(not torch.equal(end[name], value) for name, value in other.items() if name.startswith("weights.")), (
        "what it has learned must have made a difference"
    )


def test_a_checkpoint_without_the_history_of_losses_is_damaged(quiet: RunConfig, tmp_path: Path) -> None:
    config = replace(quiet, training=replace(quiet.training, timesteps="importance"))
    with pytest.raises(Interrupted):
        run(config, tmp_path / "run", listeners=[stop_at(2)])
    path = find_checkpoint(tmp_path / "run") / "train_state" / "tensors.safetensors"
    tensors = {k: v for k, v in load_file(path).items() if not k.startswith("timesteps.")}
    save_file(tensors, path)
    folder = path.parent.parent
    (folder / "checksums.json").write_text(checksums_text(folder, [CONFIG, WEIGHTS, *STATE_FILES]))
    with pytest.raises(UserError, match="history of losses"):
        run(config, tmp_path / "run", resume=True)


def test_resume_without_a_checkpoint_starts_and_on_a_finished_run_does_nothing(
    quiet: RunConfig, tmp_path: Path
) -> None:
    events: list[Event] = []
    run(quiet, tmp_path / "run", resume=True)
    before = (tmp_path / "run" / "log.jsonl").read_text()
    run(quiet, tmp_path / "run", resume=True, listeners=[events.append])
    assert not any(isinstance(e, StepDone) for e in events)
    assert (tmp_path / "run" / "log.jsonl").read_text() == before


def test_the_log_holds_each_step_once_after_a_kill(quiet: RunConfig, tmp_path: Path) -> None:
    config = replace(quiet, training=replace(quiet.training, steps=110), checkpoint=replace(quiet.checkpoint, every=60))
    run(config, tmp_path / "whole")

    class Killed(BaseException):
        pass

    def kill(event: Event) -> None:
        if isinstance(event, StepDone) and event.step == 105:
            raise Killed

    with pytest.raises(Killed):
        run(config, tmp_path / "killed", listeners=[kill])
    with (tmp_path / "killed" / "log.jsonl").open("a") as file:
        file.write('{"event": "logged", "st')
    run(config, tmp_path / "killed", resume=True)

    def lines(name: str) -> list[tuple[int, float]]:
        records = [json.loads(line) for line in (tmp_path / name / "log.jsonl").read_text().splitlines()]
        return [(r["step"], r["loss"]) for r in records if r["event"] == "logged"]

    assert lines("killed") == lines("whole")
    assert [step for step, _ in lines("whole")] == [1, 50, 100, 110]


def test_a_folder_in_use_is_not_touched(quiet: RunConfig, tmp_path: Path) -> None:
    run(quiet, tmp_path / "run")
    with pytest.raises(UserError, match="--resume"):
        run(quiet, tmp_path / "run")
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="not a run"):
        run(quiet, other)
    assert [p.name for p in other.iterdir()] == ["thesis.txt"]


def test_bad_input_writes_nothing(quiet: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError):
        run(replace(quiet, data=str(tmp_path / "nowhere")), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_resuming_with_other_settings_is_an_error(quiet: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run(quiet, tmp_path / "run", listeners=[stop_at(5)])
    with pytest.raises(UserError, match=r"training\.lr"):
        run(replace(quiet, training=replace(quiet.training, lr=1e-3)), tmp_path / "run", resume=True)
    more = replace(quiet.with_steps(14), checkpoint=replace(quiet.checkpoint, keep=1))
    assert run(more, tmp_path / "run", resume=True).name == "14", "length and saving may change"


def test_resuming_on_other_data_is_an_error(quiet: RunConfig, tmp_path: Path, images: Path) -> None:
    with pytest.raises(Interrupted):
        run(quiet, tmp_path / "run", listeners=[stop_at(5)])
    np.savez(images, images=np.zeros((5, 8, 8, 1), np.uint8))
    with pytest.raises(UserError, match="5 images"):
        run(quiet, tmp_path / "run", resume=True)


def test_a_budget_becomes_a_number_of_steps_and_is_kept(quiet: RunConfig, tmp_path: Path) -> None:
    config = replace(quiet, budget_seconds=4.0, preview=replace(quiet.preview, count=2))
    events: list[Event] = []
    run(config, tmp_path / "run", listeners=[events.append])
    (planned,) = [e for e in events if isinstance(e, BudgetSet)]
    assert planned.total_steps > 10
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert finished.step == planned.total_steps
    assert finished.elapsed < 3 * 4.0, "a budget, on a machine that other processes use"
    rates = [e.lr for e in events if isinstance(e, StepDone)]
    assert rates[-1] < 0.1 * max(rates), "the learning rate decays over the budget"
    from undye.training.folder import RunFolder

    assert RunFolder(tmp_path / "run").read_config().training.steps == planned.total_steps


def test_a_budgeted_run_is_the_run_of_that_many_steps(quiet: RunConfig, tmp_path: Path) -> None:
    # the speed is measured during the warm-up, when the learning rate does not depend on the number of steps
    config = replace(quiet, budget_seconds=4.0, training=replace(quiet.training, warmup=5))
    steps = int(run(config, tmp_path / "budget").name)
    from undye.training.folder import RunFolder

    # on a slow machine the plan shortens the warm-up too: what was stored is what was run
    planned = RunFolder(tmp_path / "budget").read_config()
    assert planned.training.steps == steps
    run(replace(planned, budget_seconds=None), tmp_path / "steps")
    assert_same(weights(tmp_path / "budget"), weights(tmp_path / "steps"))


def test_a_budgeted_run_resumes_to_its_planned_end(quiet: RunConfig, tmp_path: Path) -> None:
    config = replace(quiet, budget_seconds=3.0, checkpoint=replace(quiet.checkpoint, every=10_000))
    events: list[Event] = []

    def stop_soon_after_planning(event: Event) -> None:
        events.append(event)
        if isinstance(event, StepDone) and any(isinstance(e, BudgetSet) for e in events):
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted):
        run(config, tmp_path / "run", listeners=[stop_soon_after_planning])
    (planned,) = [e for e in events if isinstance(e, BudgetSet)]
    assert int(run(config, tmp_path / "run", resume=True).name) == planned.total_steps


def test_labels_reach_the_model(quiet: RunConfig, tmp_path: Path) -> None:
    run(replace(quiet, labels="auto"), tmp_path / "run")
    denoiser = undye.load(tmp_path / "run")
    assert denoiser.config.num_classes == 2
    assert undye.sample(denoiser, n=3, steps=3, label=1, guidance=2.0).shape == (3, 8, 8, 1)


def test_init_starts_from_a_model(quiet: RunConfig, tmp_path: Path) -> None:
    run(quiet, tmp_path / "first")
    tuned = replace(quiet, init=str(tmp_path / "first"), training=replace(quiet.training, steps=1, lr=1e-12))
    run(tuned, tmp_path / "second")
    first, second = undye.load(tmp_path / "first"), undye.load(tmp_path / "second")
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    with pytest.raises(UserError, match="classes"):
        run(replace(tuned, labels="auto"), tmp_path / "third")


def test_a_loss_that_is_not_finite_stops_the_run(quiet: RunConfig, tmp_path: Path) -> None:
    wild = replace(quiet, training=replace(quiet.training, lr=1e30, warmup=0, grad_clip=0.0))
    with pytest.raises(UserError, match="not finite at step"):
        run(wild, tmp_path / "run")


@pytest.mark.parametrize(
    ("objective", "variance"),
    [("vlb", "fixed_large"), ("vlb", "learned"), ("hybrid", "learned_range"), ("hybrid", "learned")],
)
def test_the_bound_trains_models_of_every_variance(
    quiet: RunConfig, tmp_path: Path, objective: Literal["vlb", "hybrid"], variance: VarianceName
) -> None:
    """With muon and dropout as any other run; the model comes back and is sampled with the variance it has learned."""
    config = replace(
        quiet,
        model=replace(quiet.model, variance=variance),
        training=replace(quiet.training, objective=objective, timesteps="importance"),
    )
    events: list[Event] = []
    run(config, tmp_path / "run", listeners=[events.append])
    assert all(e.loss > 0 for e in events if isinstance(e, StepDone))
    denoiser = undye.load(tmp_path / "run")
    assert denoiser.config.variance == variance
    assert undye.sample(denoiser, n=2, sampler="ancestral", steps=3).shape == (2, 8, 8, 1)


def test_learned_range_needs_another_objective(quiet: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="learned_range"):
        run(replace(quiet, model=replace(quiet.model, variance="learned_range")), tmp_path / "run")


def test_train_from_python(quiet: RunConfig, tmp_path: Path, images: Path) -> None:
    events: list[Event] = []
    denoiser = undye.train(images, tmp_path / "run", steps=3, config=quiet, listeners=[events.append])
    assert undye.sample(denoiser, n=2, steps=2).shape == (2, 8, 8, 1)
    assert [e.step for e in events if isinstance(e, Saved)] == [3]
    assert [e.step for e in events if isinstance(e, Logged)] == [1, 3]


@pytest.mark.parametrize("what", ["model.safetensors", "train_state/tensors.safetensors", "train_state/state.json"])
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(quiet: RunConfig, tmp_path: Path, what: str) -> None:
    run(quiet, tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(quiet, tmp_path / "run", listeners=[stop_at(6)])
    broken = tmp_path / "run" / "checkpoints" / "6" / what
    broken.write_bytes(broken.read_bytes()[:-20])
    events: list[Event] = []
    run(quiet, tmp_path / "run", resume=True, listeners=[events.append])
    assert any(isinstance(e, Notice) and "damaged" in e.text for e in events)
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "run"))


def test_a_run_can_be_resumed_from_another_folder(
    quiet: RunConfig, tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(images.parent)
    relative = replace(quiet, data=images.name)
    with pytest.raises(Interrupted):
        run(relative, tmp_path / "run", listeners=[stop_at(5)])
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    denoiser = undye.train(images, tmp_path / "run", resume=True, listeners=[])
    assert denoiser.config.image_size == (8, 8)


def test_a_budget_leaves_most_of_its_time_to_steps(quiet: RunConfig, tmp_path: Path) -> None:
    greedy = replace(quiet, budget_seconds=3.0, preview=replace(quiet.preview, count=500, n=16, steps=100))
    events: list[Event] = []
    run(greedy, tmp_path / "run", listeners=[events.append])
    (planned,) = [e for e in events if isinstance(e, BudgetSet)]
    assert planned.previews < 10
    assert planned.total_steps > 20
    assert len([e for e in events if isinstance(e, Previewed)]) == planned.previews


def test_the_warm_up_fits_into_a_budget(quiet: RunConfig, tmp_path: Path) -> None:
    slow = replace(quiet, budget_seconds=2.0, training=replace(quiet.training, warmup=1_000_000))
    events: list[Event] = []
    run(slow, tmp_path / "run", listeners=[events.append])
    rates = [e.lr for e in events if isinstance(e, StepDone)]
    assert max(rates) == pytest.approx(slow.training.lr)
    assert rates[-1] < 0.2 * max(rates)


@pytest.mark.parametrize("objective", ["hybrid", "vlb", "simple"])
def test_a_model_with_a_learned_variance_can_be_fine_tuned(tmp_path, objective):
    """The objective is held against the model that --init brings, not against the preset's."""
    from undye.checkpoint.native import save
    from undye.config import CompactConfig, ModelConfig
    from undye.denoiser import Denoiser

    network = CompactConfig(channels=(8,), blocks=(1,), head_channels=8)
    config = ModelConfig(network=network, image_size=(8, 8), channels=1, variance="learned_range", prediction="v")
    save(tmp_path / "m", Denoiser.from_config(config))
    np.savez(tmp_path / "a.npz", images=np.zeros((4, 8, 8, 1), np.uint8))
    base = undye.run_preset("cpu")
    base = replace(
        base,
        init=str(tmp_path / "m"),
        training=replace(base.training, objective=objective, steps=2, batch_size=2, warmup=0),
        preview=replace(base.preview, count=0),
    )

    def go():
        return undye.train(
            tmp_path / "a.npz", tmp_path / "run", config=base, init=tmp_path / "m", device="cpu", listeners=[]
        )

    if objective == "simple":
        with pytest.raises(undye.UserError, match=r"hybrid or vlb$"):
            go()
    else:
        assert go().config.variance == "learned_range"


def test_how_it_is_computed_may_change_on_the_way(quiet: RunConfig, tmp_path: Path) -> None:
    """Threads and memory; but not what is computed."""
    network = replace(quiet.model.network, dropout=0.0)
    config = replace(quiet, model=replace(quiet.model, network=network))
    config = replace(config, training=replace(config.training, optimizer="adam"))
    run(config, tmp_path / "whole")
    with pytest.raises(Interrupted):
        run(config, tmp_path / "stopped", listeners=[stop_at(5)])
    other = replace(config, training=replace(config.training, accumulate=3, workers=1, prefetch=1))
    run(other, tmp_path / "stopped", resume=True)
    a, b = weights(tmp_path / "whole"), weights(tmp_path / "stopped")
    for name in a:
        torch.testing.assert_close(b[name], a[name], rtol=1e-4, atol=1e-5, msg=name)
    with pytest.raises(UserError, match="lr"):
        run(replace(config, training=replace(config.training, lr=1.0)), tmp_path / "stopped", resume=True)
