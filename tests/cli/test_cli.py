"""The command line as a user meets it: output, one-line errors, exit codes, speed of parsing, signals."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from undye.cli.main import COMMANDS, main

TINY = [
    "--threads",
    "1",
    *("--model.network.channels", "8", "16", "--model.network.blocks", "1", "1", "--model.network.head-channels", "8"),
    *("--training.batch-size", "4", "--preview.count", "1", "--preview.n", "4", "--preview.steps", "2"),
]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    rng = np.random.default_rng(0)
    np.savez(folder / "a.npz", images=rng.integers(0, 256, (12, 8, 8, 1), dtype=np.uint8), labels=np.arange(12) % 3)
    args = ["train", "cpu", "--data", str(folder / "a.npz"), "--labels", "auto", "--out", str(folder / "run")]
    assert main([*args, *TINY, "--training.steps", "4"]) == 0
    return folder / "run"


def fails(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """The one line of a wrong call."""
    assert main(list(args)) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("undye: error: ")
    assert captured.err.count("\n") == 1
    assert "Traceback" not in captured.err
    return captured.err


@pytest.mark.parametrize("command", [[], *([c] for c in COMMANDS)])
def test_help(capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    try:
        code = main([*command, "--help"])
    except SystemExit as stop:
        code = stop.code
    assert code in (0, None)
    assert "undye" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["trian"], "did you mean 'train'"),
        (["train", "cpo", "--data", "x", "--out", "y"], "did you mean 'cpu'"),
        (["train", "cpu", "--data", "fashion-mini"], "--out"),
        (["train", "cpu", "--out", "y"], "--data"),
        (["train", "--trainng.steps", "5"], "did you mean --training.steps"),
        (["train", "--training.steps", "five"], "--training.steps"),
        (["train", "--training.steps"], "--training.steps"),
        (["train", "--training.decay", "cubic"], "cubic"),
        (["train", "--data", "x", "--out", "y", "--budget", "5"], "90s"),
        (["train", "--data", "x", "--out", "y", "--image-size", "12,5"], "HxW"),
        (["train", "--data", "fashion-mimi", "--out", "y"], "fashion-mini"),
        (["train", "--data", "x", "--out", "y", "--config", "no.toml"], "no.toml"),
        (["train", "--data", "fashion-mini", "--out", "y", "--device", "tpu"], "tpu"),
        (["train", "--data", "fashion-mini", "--out", "y", "--threads", "-1"], "--threads"),
        (["sample"], "no model"),
        (["sample", "nowhere", "--out", "x.png"], "nowhere"),
        (["sample", "nowhere", "--sed", "3"], "did you mean --seed"),
        (["info", "nowhere"], "nowhere"),
        (["train", "--data", "fashion-mini", "--out", "y", "--budget", "9s", "--training.steps", "5"], "not both"),
        (["train", "--data", "fashion-mini", "--out", "y", "--init", "z", "--model.prediction", "eps"], "--model"),
        (["train", "--data", "fashion-mini", "--out", "y", "--model.schedule.num-steps", "0"], "at least 1 step"),
        (["train", "--data", "fashion-mini", "--out", "y", "--model.schedule.beta-end", "0.5"], "beta_end"),
        (["train", "--data", "fashion-mini", "--out", "y", "--model.network.channels", "8"], "as many"),
        (["train", "--data", "fashion-mini", "--out", "y", "--model.network.head-channels", "40"], "heads of 40"),
        (["train", "--data", "fashion-mini", "--out", "y", "--model.network.dropout", "2"], "dropout"),
        (["train", "ddpm-cifar10", "--data", "x", "--out", "y", "--model.network.base-channels", "100"], "norm groups"),
    ],
)
def test_wrong_calls(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert says in fails(capsys, *args)
    assert list(tmp_path.iterdir()) == [], "a wrong call leaves nothing"


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ([], "nothing to write"),
        (["--out", "x.bmp"], "x.bmp"),
        (["--out", "x.png", "--film", "x.avi"], "x.avi"),
        (["--out", "x.png", "--sampler", "eular"], "ddim"),
        (["--out", "x.png", "--sampler", "ddim", "--variance", "fixed_small"], "variance"),
        (["--out", "x.png", "--sampler", "ancestral", "--variance", "wide"], "wide"),
        (["--out", "x.png", "--sampler", "ancestral", "--variance", "learned_range"], "has not learned"),
        (["--out", "x.png", "--eta", "2"], "eta"),
        (["--out", "x.png", "--steps", "5000"], "1..1000"),
        (["--out", "x.png", "--steps", "0"], "1..1000"),
        (["--out", "x.png", "--n", "0"], "at least 1"),
        (["--out", "x.png", "--label", "7"], "choose from"),
        (["--out", "x.png", "--guidance", "2"], "label"),
        (["--out", "x.png", "--grid", "cubic"], "cubic"),
        (["--out", "x.png", "--batch-size", "0"], "at least 1"),
        (["--out", "x.png", "--seed", "-1"], "seed"),
        (["--out", "x.png", "--dtype", "float16"], "bfloat16 or float32"),
        (["--out", "x.npz", "--captions"], "grid.png"),
        (["--out", "x.npz", "--resume"], "folder"),
        (["--film", "x.gif", "--resume"], "folder"),
        (["--out", "x.png", "--runtime", "onnxruntime-int8"], "--calibration"),
        (["--out", "x.png", "--calibration", "fashion-mini"], "--calibration is for"),
        (["--out", "x.png", "--runtime", "onnxruntime", "--dtype", "bfloat16"], "--dtype is for PyTorch"),
        (["--out", "x.png", "--like", "nothing.png"], "no picture at"),
        (["--out", "x.png", "--like", "nothing.png", "--steps", "3"], "leave --steps out"),
    ],
)
def test_wrong_sampling(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run_folder: Path,
    args: list[str],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert says in fails(capsys, "sample", str(run_folder), *args)
    assert list(tmp_path.iterdir()) == []


def test_sampling_writes_every_kind_of_output(run_folder: Path, tmp_path: Path) -> None:
    common = ["sample", str(run_folder), "--n", "5", "--steps", "3", "--label", "2", "--guidance", "1.5"]
    assert main([*common, "--out", str(tmp_path / "grid.png"), "--film", str(tmp_path / "film.gif")]) == 0
    assert main([*common, "--out", str(tmp_path / "a.npz")]) == 0
    assert main([*common, "--out", str(tmp_path / "folder"), "--film", str(tmp_path / "strip.png")]) == 0
    array = np.load(tmp_path / "a.npz")["images"]
    assert array.shape == (5, 8, 8, 1)
    for i in range(5):
        assert np.array_equal(np.asarray(Image.open(tmp_path / "folder" / f"{i:06d}.png")), array[i, :, :, 0])
    ancestral = ["--sampler", "ancestral", "--variance", "fixed_large", "--out", str(tmp_path / "b.npz")]
    assert main([*common, *ancestral]) == 0
    assert not np.array_equal(np.load(tmp_path / "b.npz")["images"], array)


def test_info(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["info", str(run_folder)]) == 0
    text = capsys.readouterr().out
    assert "8x8, 1 channel" in text
    assert "cosine, T = 1000" in text
    assert main(["info", str(run_folder), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["model"]["num_classes"] == 3
    assert facts["about"]["step"] == 4


def test_settings_from_a_file_and_flags_over_them(run_folder: Path, tmp_path: Path) -> None:
    toml = tmp_path / "run.toml"
    toml.write_text('data = "x"\n[training]\nsteps = 3\nlr = 1e-4\n[model.schedule]\nname = "linear"\n')
    args = ["train", "cpu", "--config", str(toml), "--data", str(run_folder.parent / "a.npz"), *TINY]
    assert main([*args, "--training.steps", "2", "--out", str(tmp_path / "run")]) == 0
    from undye.training.folder import RunFolder

    config = RunFolder(tmp_path / "run").read_config()
    assert (config.training.steps, config.training.lr, config.model.schedule.name) == (2, 1e-4, "linear")
    # a run's own config.toml makes the same run again
    again = ["train", "--config", str(tmp_path / "run" / "config.toml"), "--out", str(tmp_path / "again")]
    assert main(again) == 0
    a, b = (tmp_path / name / "checkpoints" / "2" / "model.safetensors" for name in ("run", "again"))
    assert a.read_bytes() == b.read_bytes()


@pytest.mark.parametrize("text", ["preset = 3", 'preset = ["cpu"]', 'preset = "cpo"'])
def test_a_config_file_with_a_wrong_preset(capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str) -> None:
    (tmp_path / "run.toml").write_text(text)
    assert "unknown preset" in fails(capsys, "train", "--config", str(tmp_path / "run.toml"), "--out", "y")


def test_the_choices_of_the_flags_are_the_tables() -> None:
    from typing import get_args, get_type_hints

    from undye.cli.sample import SampleArgs
    from undye.diffusion.variance import VARIANCES
    from undye.samplers import SAMPLERS
    from undye.samplers.grid import GRIDS

    hints = get_type_hints(SampleArgs)
    assert set(get_args(get_args(hints["sampler"])[0])) == set(SAMPLERS)
    assert set(get_args(get_args(hints["grid"])[0])) == {"optimised", *GRIDS}
    assert set(get_args(get_args(hints["variance"])[0])) == set(VARIANCES)


def test_a_config_file_with_a_mistake(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    toml = tmp_path / "run.toml"
    toml.write_text("[training]\nstep = 3\n")
    assert "unknown setting 'step'" in fails(capsys, "train", "--config", str(toml), "--data", "x", "--out", "y")
    toml.write_text("training = [")
    assert "not valid TOML" in fails(capsys, "train", "--config", str(toml), "--data", "x", "--out", "y")


def test_resume_needs_only_the_folder(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--resume", "--out", str(run_folder)]) == 0
    assert "checkpoints/4 is the end of this run" in capsys.readouterr().err
    assert "training.lr" in fails(capsys, "train", "--resume", "--out", str(run_folder), "--training.lr", "1")
    assert "preset" in fails(capsys, "train", "ddpm-256", "--resume", "--out", str(run_folder))


@pytest.mark.parametrize("args", [["--help"], ["train", "--help"], ["train", "--no-such-flag"], ["sample", "--help"]])
def test_help_and_wrong_flags_import_nothing_heavy(args: list[str]) -> None:
    code = (
        "import sys\nfrom undye.cli.main import main\n"
        f"try:\n    main({args!r})\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'torchvision', 'numpy', 'PIL', 'accelerate', 'safetensors'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0), (signal.SIGUSR1, 0)])
def test_a_signal_leaves_a_resumable_run(run_folder: Path, tmp_path: Path, number: signal.Signals, code: int) -> None:
    out = tmp_path / "run"
    data = str(run_folder.parent / "a.npz")
    command = [sys.executable, "-m", "undye.cli.main", "train", "cpu", "--data", data, "--out", str(out), *TINY]
    process = subprocess.Popen([*command, "--training.steps", "1000000"], stderr=subprocess.PIPE, text=True)
    log = out / "log.jsonl"
    deadline = time.monotonic() + 120
    while not (log.exists() and '"logged"' in log.read_text()):
        assert process.poll() is None, process.stderr and process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert "--resume" in err
    assert "Traceback" not in err
    (checkpoint,) = (out / "checkpoints").iterdir()
    step = int(checkpoint.name)
    assert main(["train", "--resume", "--out", str(out), "--training.steps", str(step + 2)]) == 0
    assert (out / "checkpoints" / str(step + 2)).is_dir()


def test_a_full_disk_is_one_line(
    capsys: pytest.CaptureFixture[str], run_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: object) -> None:
        raise OSError(28, os.strerror(28), "x.png")

    monkeypatch.setattr("os.replace", full)
    out = str(tmp_path / "x.png")
    assert "No space left" in fails(capsys, "sample", str(run_folder), "--n", "1", "--steps", "2", "--out", out)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ([], "--data"),
        (["--data", "{npz}", "--metrics", "fit"], "fit"),
        (["--data", "{npz}", "--out", "report.txt"], ".json"),
        (["--data", "{npz}", "--out", "{npz}/report.json"], "is not a folder"),
        (["--data", "{npz}", "--n", "0"], "at least 1"),
        (["--data", "{npz}", "--draws", "0"], "at least 1"),
        (["--data", "{npz}", "--steps", "5000"], "1..1000"),
        (["--data", "{npz}", "--image-size", "7x8"], "7x8 with 1 channel, the model is for 8x8 with 1 channel"),
        (["--data", "{npz}", "--image-size", "9"], "--upscale"),
        (["--data", "{npz}", "--channels", "3"], "8x8 with 3 channels, the model is for 8x8 with 1 channel"),
        (["--data", "{npz}", "--variance", "learned"], "has not learned"),
        (["--data", "{npz}", "--metrics", "ode", "--sigma-min", "0"], "sigma_min"),
        (["--data", "{npz}", "--exact", "--draws", "3"], "leave it out"),
        (["--data", "{npz}", "--metrics", "rate-distortion", "--draws", "3"], "leave it out"),
        (["--data", "{npz}", "--tolerance", "0.1"], "--tolerance is for the metric ode"),
        (["--data", "{npz}", "--metrics", "ode", "--steps", "5"], "--steps is for the metrics nll"),
        (["--data", "{npz}", "--metrics", "ode", "--exact"], "--exact is for"),
        (["--data", "{npz}", "--out", "/proc/report.json"], "not writable"),
        (["--data", "nothing"], "nothing"),
        (["--data", "{npz}", "--dta", "x"], "unknown option"),
    ],
)
def test_wrong_evaluations(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run_folder: Path,
    args: list[str],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    npz = str(run_folder.parent / "a.npz")
    assert says in fails(capsys, "eval", str(run_folder), *(a.replace("{npz}", npz) for a in args))
    assert list(tmp_path.iterdir()) == []


def test_evaluation(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    npz, out = str(run_folder.parent / "a.npz"), tmp_path / "new" / "report.json"
    common = ["eval", str(run_folder), "--data", npz, "--n", "4"]
    assert main([*common, "--draws", "3", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    for word in ("bits/dim", "prior", "rate", "decoder", "+-", "4 of 12 images", "3 steps drawn", str(out)):
        assert word in text
    report = json.loads(out.read_text())
    total = report["metrics"]["nll"]["bits_per_dim"]["total"]
    assert f"{total['mean']:.4f}  +- {total['standard_error']:.4f}" in text
    more = [*common, "--exact", "--steps", "20", "--metrics", "nll", "rate-distortion", "ode", "--labels", "auto"]
    assert main([*more, "--tolerance", "0.1"]) == 0
    text = capsys.readouterr().out
    for word in ("every step", "20 steps", "RMSE", "probability-flow ODE"):
        assert word in text
    assert len([line for line in text.splitlines() if line.strip()[:1].isdigit()]) == 15, (
        "Table 4 and the rates at four errors"
    )


def test_forward_film(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    npz = str(run_folder.parent / "a.npz")
    args = ["forward", "--data", npz, "--n", "2", "--frames", "3"]
    assert main([*args, "--out", str(tmp_path / "film.gif")]) == 0
    assert Image.open(tmp_path / "film.gif").n_frames == 4
    assert capsys.readouterr().err == ""
    assert main([*args, "--out", str(tmp_path / "strip.png"), "--schedule.num-steps", "50"]) == 0
    assert "undye: warning: the linear schedule of 50 steps leaves" in capsys.readouterr().err
    for wrong, says in [
        (["--out", "x.avi"], "x.avi"),
        ([], "--out"),
        (["--out", "x.png", "--n", "0"], "at least 1"),
        (["--out", "x.png", "--frames", "0"], "at least 1 frame"),
        (["--out", "x.png", "--schedule.beta-end", "2"], "beta"),
        (["--out", "x.png", "--schedule.num-steps", "10", "--schedule.rescale-betas"], "at least 21 steps"),
    ]:
        assert says in fails(capsys, "forward", "--data", npz, *wrong)
    assert "--data" in fails(capsys, "forward", "--out", "x.png")


def test_training_with_a_learned_variance(run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ["train", "cpu", "--data", str(run_folder.parent / "a.npz"), *TINY, "--training.steps", "3"]
    learned = ["--model.variance", "learned_range"]
    assert "hybrid or vlb" in fails(capsys, *args, *learned, "--out", str(tmp_path / "no"))
    assert not (tmp_path / "no").exists()
    for i, extra in enumerate(
        [
            [*learned, "--training.objective", "hybrid"],
            ["--model.variance", "learned", "--training.objective", "vlb", "--training.timesteps", "importance"],
            ["--model.prediction", "mu", "--training.weighting", "vlb"],
            ["--model.prediction", "score", "--training.weighting", "snr", "--training.distance", "huber"],
            ["--model.schedule.zero-terminal-snr", "--training.weighting", "min_snr"],
        ]
    ):
        run = str(tmp_path / str(i))
        assert main([*args, *extra, "--out", run]) == 0
        assert main(["sample", run, "--n", "2", "--steps", "3", "--sampler", "ancestral", "--out", f"{run}.png"]) == 0
    capsys.readouterr()
    wrong = ["--model.prediction", "eps", "--model.schedule.zero-terminal-snr"]
    assert "predict v or x_0" in fails(capsys, *args, *wrong, "--out", str(tmp_path / "no"))


def test_a_schedule_that_leaves_signal_is_warned_about_once(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["train", "cpu", "--data", str(run_folder.parent / "a.npz"), *TINY, "--training.steps", "2"]
    short = ["--model.schedule.name", "linear", "--model.schedule.num-steps", "100", "--out", str(tmp_path / "run")]
    capsys.readouterr()
    assert main([*args, *short]) == 0
    assert capsys.readouterr().err.count("undye: warning: the linear schedule of 100 steps leaves 0.36") == 1
    assert main(["info", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().err.count("warning") == 1


def test_import_export_and_use_of_another_projects_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import torch

    from undye.checkpoint.native import save
    from undye.config import ModelConfig, UNetConfig
    from undye.denoiser import Denoiser

    network = UNetConfig(base_channels=8, channel_mult=(1,), num_res_blocks=1, norm_groups=4, attention_levels=())
    save(tmp_path / "own", Denoiser.from_config(ModelConfig(network=network, image_size=(8, 8), channels=1)))
    theirs, back = tmp_path / "theirs", tmp_path / "back"
    assert main(["export", str(tmp_path / "own"), "--to", "diffusers", "--out", str(theirs)]) == 0
    assert main(["import", str(theirs), "--out", str(back), "--set", "prediction=x_0"]) == 0
    assert json.loads((back / "config.json").read_text())["model"]["prediction"] == "x_0"
    for model in (theirs, back):
        out = str(tmp_path / f"{model.name}.npz")
        assert main(["sample", str(model), "--n", "2", "--steps", "2", "--out", out]) == 0
        assert np.load(out)["images"].shape == (2, 8, 8, 1)
    capsys.readouterr()
    assert main(["info", str(theirs)]) == 0
    assert "diffusers" in capsys.readouterr().out.splitlines()[1]
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 8, 8, 1), np.uint8))
    assert main(["eval", str(theirs), "--data", str(tmp_path / "a.npz"), "--draws", "2"]) == 0
    train = ["train", "--data", str(tmp_path / "a.npz"), "--init", str(theirs), "--training.steps", "1"]
    small = ["--training.batch-size", "2", "--preview.count", "0", "--threads", "1"]
    assert main([*train, *small, "--out", str(tmp_path / "tuned")]) == 0

    wrong = str(tmp_path / "no")
    (tmp_path / "text.pt").write_text("hello")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    capsys.readouterr()
    for args, says in [
        (["import", str(theirs)], "--out"),
        (["import", str(theirs), "--out", str(back)], "exists already"),
        (["import", str(theirs), "--out", wrong, "--set", "prediction"], "KEY=VALUE"),
        (["import", str(theirs), "--out", wrong, "--set", "colour=red"], "colour"),
        (["import", str(tmp_path / "nowhere"), "--out", wrong], "no model at"),
        (["import", str(back), "--out", wrong], "no model of another project"),
        (["import", str(tmp_path / "text.pt"), "--out", wrong], "is a text file, not a model"),
        (["import", str(tmp_path / "other.pt"), "--out", wrong], "not a model that undye knows"),
        (["export", str(tmp_path / "own")], "--out"),
        (["export", str(tmp_path / "own"), "--out", str(back)], "exists already"),
        (["export", str(tmp_path / "own"), "--to", "keras", "--out", wrong], "keras"),
        (["export", str(tmp_path / "nowhere"), "--out", wrong], "no model at"),
        (["sample", str(tmp_path / "other.pt"), "--out", wrong + ".png"], "not a model that undye knows"),
        (["sample", str(back), "--out", wrong + ".png", "--set", "prediction=v"], "settings are for other projects'"),
        (["export", str(back), "--out", wrong, "--set", "prediction=v"], "settings are for other projects'"),
        (["info", str(back), "--set", "prediction=v"], "--set is for other projects'"),
        (["info", str(theirs), "--set", "colour=red"], "colour"),
    ]:
        assert says in fails(capsys, *args)
    assert not Path(wrong).exists()


def test_what_a_model_does_not_say_is_set_with_every_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """info says what there is to say without it; sample and export cannot do without an image size."""
    import torch

    from undye.config import UNetConfig
    from undye.networks.names_original import original_name
    from undye.networks.spec import UNetSpec

    config = UNetConfig(base_channels=32, channel_mult=(1,), num_res_blocks=1, attention_levels=())
    weights = {original_name(k, config): torch.zeros(shape) for k, shape in UNetSpec(config=config).shapes().items()}
    theirs = str(tmp_path / "m.ckpt")
    torch.save(weights, theirs)
    assert main(["info", theirs]) == 0
    text = capsys.readouterr().out
    assert re.search(r"^images +of a size that is not said \(--set image_size=HxW\), 3 channels$", text, re.MULTILINE)
    assert re.search(r"^network +unet, ", text, re.MULTILINE)
    assert main(["info", theirs, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["model"]["image_size"] is None
    assert facts["model"]["channels"] == 3
    assert main(["info", theirs, "--set", "image_size=8", "--set", "prediction=v"]) == 0
    text = capsys.readouterr().out
    assert re.search(r"^images +8x8, 3 channels$", text, re.MULTILINE)
    assert re.search(r"^predicts +v$", text, re.MULTILINE)
    assert main(["info", theirs, "--json", "--set", "image_size=8"]) == 0
    assert json.loads(capsys.readouterr().out)["model"]["image_size"] == [8, 8]
    out, folder = str(tmp_path / "a.npz"), str(tmp_path / "out")
    assert "--set image_size=H" in fails(capsys, "sample", theirs, "--out", out)
    assert "--set image_size=H" in fails(capsys, "export", theirs, "--out", folder)
    assert main(["sample", theirs, "--n", "1", "--steps", "1", "--set", "image_size=8", "--out", out]) == 0
    assert np.load(out)["images"].shape == (1, 8, 8, 3)
    assert main(["export", theirs, "--set", "image_size=8", "variance=fixed_small", "--out", folder]) == 0
    scheduler = json.loads((tmp_path / "out" / "scheduler" / "scheduler_config.json").read_text())
    assert scheduler["variance_type"] == "fixed_small"
