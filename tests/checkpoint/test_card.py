"""The model card says what the checkpoint holds, and what has been measured of it."""

import json
from pathlib import Path

import pytest

import undye
from undye.checkpoint.card import CARD, MEASURED, Measurement, model_card, read_license, read_measurements
from undye.checkpoint.native import add_measurements, save
from undye.cli.main import main
from undye.config import CompactConfig, ModelConfig
from undye.denoiser import Denoiser

NETWORK = CompactConfig(channels=(8, 8), blocks=(1, 1), head_channels=0)


def model(**settings) -> Denoiser:
    return Denoiser.from_config(ModelConfig(network=NETWORK, image_size=(8, 6), channels=1, **settings))


def nll(value: float, how: str = "every step") -> Measurement:
    return Measurement(metric="NLL", value=value, standard_error=0.5, data="a|b, 3 images", how=how)


def test_it_says_data_steps_licence_and_how_to_load(tmp_path):
    save(
        tmp_path / "m", model(), about={"data": "fashion-mini train", "step": 12000, "of_steps": None, "license": "mit"}
    )
    text = (tmp_path / "m" / CARD).read_text()
    head = text.split("---\n")[1]
    assert 'license: "mit"' in head
    assert "datasets: [fashion-mini]\n" in head
    assert "library_name: undye" in head
    for line in (
        "| images | 8x6, 1 channel, uint8 |",
        "| data | fashion-mini train |",
        "| step | 12,000 |",
        "None measured",
    ):
        assert line in text
    assert "of steps" not in text
    assert read_license(tmp_path / "m") == "mit"


def test_its_python_runs(tmp_path):
    for name, settings in {"plain": {}, "classes": {"num_classes": 2, "null_label": False}}.items():
        folder = save(tmp_path / name, model(**settings))
        code = (folder / CARD).read_text().split("```python\n")[1].split("```")[0]
        names: dict = {}
        exec(code.replace("PATH/OF/THIS/FOLDER", str(folder)), names)
        assert names["images"].shape == (16, 8, 6, 1)


@pytest.mark.parametrize("data", ["/home/me/private/cats", "cats.npz", None, 3])
def test_paths_are_no_names_of_data_sets(data):
    assert "datasets:" not in model_card(model().config, 5, {"data": data})


def test_without_a_licence_it_says_so(tmp_path):
    save(tmp_path / "m", model())
    text = (tmp_path / "m" / CARD).read_text()
    assert 'license: "unknown"' in text
    assert "Not stated" in text
    assert read_license(tmp_path / "m") is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("---\nlicense: cc-by-4.0\n---\n", "cc-by-4.0"),
        ("---\ntags: [a]\nlicense: 'mit'\n---\nlicense: gpl", "mit"),
        ("license: mit\n", None),
        ("---\nlicense: mit\n", None),
        ("---\nlicense:\n---\n", None),
        ('---\nlicense: "a \\"b\\" \\u00e9"\n---\n', 'a "b" é'),
        ("---\nlicense: 'it''s mine'\n---\n", "it's mine"),
        ('---\nlicense: "open\n---\n', "open"),
        ("", None),
    ],
)
def test_a_licence_is_read_from_the_head_of_a_card(text, said, tmp_path):
    (tmp_path / CARD).write_text(text, encoding="utf-8")
    assert read_license(tmp_path) == said


@pytest.mark.parametrize("license", ['My "own" licence é', "a\\b\nc", "\u2028", "'quoted'", "a: b # c"])
def test_a_licence_comes_back_as_it_was_given(license, tmp_path):
    save(tmp_path / "m", model(), about={"license": license})
    assert read_license(tmp_path / "m") == license


def test_metrics_go_into_the_card_and_replace_their_like(tmp_path):
    folder = save(tmp_path / "m", model())
    add_measurements(folder, [nll(3.5)])
    add_measurements(folder, [nll(3.25), nll(4.5, how="16 steps")])
    assert read_measurements(folder) == [nll(3.25), nll(4.5, how="16 steps")]
    text = (folder / CARD).read_text()
    assert "| NLL | 3.2500 ± 0.5000 | a\\|b, 3 images | every step |" in text
    assert "3.5000" not in text
    assert "None measured" not in text
    undye.load(folder)


@pytest.mark.parametrize("content", ["{", "[1]", '[{"metric": "a"}]', "3"])
def test_damaged_metrics(content, tmp_path):
    folder = save(tmp_path / "m", model())
    (folder / MEASURED).write_text(content)
    with pytest.raises(undye.UserError, match="damaged"):
        add_measurements(folder, [nll(3.5)])


def test_eval_writes_into_the_card(tmp_path, capsys):
    folder = save(tmp_path / "m", Denoiser.from_config(ModelConfig(network=NETWORK, image_size=(28, 28), channels=1)))
    command = ["eval", str(folder), "--data", "fashion-mini", "--n", "2", "--draws", "2", "--card"]
    assert main(command) == 0
    assert str(folder / CARD) in capsys.readouterr().out
    (row,) = json.loads((folder / MEASURED).read_text())
    assert row["metric"] == "NLL bound, bits/dim"
    assert "2 of" in row["data"]
    assert f"{row['value']:.4f}" in (folder / CARD).read_text()
    assert main(["eval", str(folder), "--data", "fashion-mini", "--metrics", "rate-distortion", "--card"]) == 2
    (folder / MEASURED).write_text("{")
    assert main(command) == 2  # before the work


def test_the_training_run_fills_it(tmp_path: Path):
    undye.train("fashion-mini", tmp_path / "run", steps=2, listeners=[])
    (folder,) = (tmp_path / "run" / "checkpoints").iterdir()
    text = (folder / CARD).read_text()
    for line in ("| data | fashion-mini train |", "| step | 2 |", "| batch size | 64 |", "| optimizer | muon |"):
        assert line in text
    loss = json.loads((folder / "config.json").read_text())["about"]["training_loss"]
    assert f"| training loss | {loss} |" in text
    assert 0 < loss < 10


def test_a_fine_tuned_model_says_what_it_started_from(tmp_path: Path):
    start = Denoiser.from_config(ModelConfig(network=NETWORK, image_size=(28, 28), channels=1))
    save(tmp_path / "start", start, about={"license": "cc-by-4.0"})
    undye.train("fashion-mini", tmp_path / "run", init=tmp_path / "start", steps=1, listeners=[])
    text = (tmp_path / "run" / "checkpoints" / "1" / CARD).read_text()
    assert "| init | start |" in text
    assert 'license: "cc-by-4.0"' in text
