"""What a run that is resumed puts right, and what it takes from where."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch._dynamo

import undye
from tests.training.harness import tensors
from undye.errors import UserError
from undye.training.plan import with_absolute_paths
from undye.training.run import RunConfig
from undye.training.session import run


def test_a_finished_run_has_its_report_renewed_where_it_is_missing_or_old(quiet: RunConfig, tmp_path: Path) -> None:
    run(quiet, tmp_path / "run")
    report, log = tmp_path / "run" / "report.html", tmp_path / "run" / "log.jsonl"
    before = report.stat().st_mtime_ns
    run(quiet, tmp_path / "run", resume=True)
    assert report.stat().st_mtime_ns == before, "it is as new as the log"
    report.unlink()
    run(quiet, tmp_path / "run", resume=True)
    assert "</html>" in report.read_text()
    report.write_text("half")
    os.utime(report, (0, log.stat().st_mtime - 10))
    run(quiet, tmp_path / "run", resume=True)
    assert "</html>" in report.read_text()


@pytest.mark.parametrize("prefix", ["hf:", "hf-stream:"])
def test_folders_of_data_sets_are_found_from_elsewhere(
    quiet: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    datasets = pytest.importorskip("datasets")
    pictures = [np.full((8, 8), k, dtype=np.uint8) for k in range(12)]
    kinds = datasets.Features({"image": datasets.Image()})
    datasets.Dataset.from_dict({"image": pictures}, features=kinds).save_to_disk(tmp_path / "here/set")
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    config = replace(quiet, data=f"{prefix}set?image=image", training=replace(quiet.training, decay="none", steps=4))
    run(config, tmp_path / "run")
    text = (tmp_path / "run" / "config.toml").read_text()
    assert f'data = "{prefix}{tmp_path}/here/set?image=image"' in text
    more = replace(with_absolute_paths(config), training=replace(config.training, steps=6))
    # as versions before wrote it: the same run, from the same folder
    (tmp_path / "run" / "config.toml").write_text(text.replace(f"{prefix}{tmp_path}/here/set", f"{prefix}set"))
    run(replace(more, training=replace(more.training, steps=5)), tmp_path / "run", resume=True)
    monkeypatch.chdir(tmp_path / "there")
    run(more, tmp_path / "run", resume=True)
    assert (tmp_path / "run/checkpoints/6").is_dir()
    named = replace(config, data=f"{prefix}someone/pictures:train")
    assert with_absolute_paths(named).data == named.data, "a name of the hub"
    with pytest.raises(UserError, match="write hf:NAME"):
        with_absolute_paths(replace(config, data=f"{prefix}set?wrong=1"))


def test_another_projects_model_is_told_what_it_does_not_say(images: Path, tmp_path: Path) -> None:
    pytest.importorskip("denoising_diffusion_pytorch")
    from tests.checkpoint.test_lucidrains import diffusion, state_file
    from undye.cli.main import main

    model = state_file(tmp_path / "model.pt", diffusion())
    out, same = tmp_path / "run", ["--device", "cpu", "--preview.count", "0", "--training.batch-size", "2"]
    args = ["train", "--data", str(images), "--init", str(model), "--out", str(out), "--training.steps", "1", *same]
    assert main(args) == 2, "it does not say its size"
    assert not out.exists()
    assert main([*args, "--set", "image_size=8", "--set", "clip_x_0=false"]) == 0
    assert not undye.load(out).config.clip_x_0
    model.unlink()
    assert main(["train", "--out", str(out), "--resume", "--training.steps", "2", *same]) == 0
    assert (out / "checkpoints/2").is_dir()
    assert main(["train", "--data", str(images), "--out", str(tmp_path / "b"), "--set", "image_size=8"]) == 2


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_a_compiled_network_takes_the_same_steps(
    quiet: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    """inductor is what users get; the other one goes half the way, without its minutes."""
    if backend == "inductor" and not any(map(shutil.which, ("c++", "g++", "clang"))):
        pytest.skip("torch.compile needs a compiler")
    compiled = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compiled(module, backend=backend))
    torch._dynamo.reset()
    training = replace(quiet.training, optimizer="adam", steps=3, precision="fp64", balance="none")
    plain = replace(quiet, training=training)
    plain = replace(plain, model=replace(quiet.model, network=replace(quiet.model.network, dropout=0.0)))
    run(plain, tmp_path / "plain")
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    run(replace(plain, training=replace(training, compile=True)), tmp_path / "compiled")
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > before, "it was compiled"
    a, b = tensors(tmp_path / "plain"), tensors(tmp_path / "compiled")
    assert a.keys() == b.keys(), "and its weights have the names of any other's"
    for name in a:
        # Adam's first steps are the gradients' signs, also where these are nearly 0
        assert (a[name] - b[name]).double().norm() <= 1e-5 * a[name].double().norm(), name
