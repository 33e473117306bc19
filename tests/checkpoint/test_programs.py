"""Exported programs: they compute what the Denoiser does, and say what they are."""

import copy
import json
import logging
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import get_args

import jaxtyping
import numpy as np
import pytest
import torch

import undye
from undye.checkpoint import program_info, programs
from undye.checkpoint.program_info import ProgramInfo, read_info
from undye.checkpoint.programs import export_program
from undye.cli.main import main
from undye.config import (
    CompactConfig,
    Dome272Config,
    LucidrainsConfig,
    ModelConfig,
    ScheduleConfig,
    TimeInput,
    UNetConfig,
)
from undye.data.pixels import to_uint8
from undye.denoiser import Denoiser
from undye.diffusion.prediction import PREDICTIONS
from undye.presets import MODEL_PRESETS
from undye.samplers.guidance import Conditioned
from undye.samplers.noise import SampleNoise

onnxruntime = pytest.importorskip("onnxruntime")

COMPACT = CompactConfig(channels=(8, 16), blocks=(0, 1), head_channels=8)
TINY = ModelConfig(
    network=COMPACT, image_size=(7, 9), channels=1, prediction="v", schedule=ScheduleConfig(num_steps=50)
)


def small(config: ModelConfig) -> ModelConfig:
    """A preset's kind of network, at its lowest level alone: tracing takes seconds for each level."""
    network = config.network
    if isinstance(network, CompactConfig):
        return replace(config, network=replace(network, channels=(8, 16), blocks=(1, 1), head_channels=8))
    lowest = {"channel_mult": network.channel_mult[-1:], "attention_levels": (0,), "num_res_blocks": 1}
    return replace(config, network=replace(network, base_channels=32, **lowest), image_size=(4, 4))


MODELS = {
    **{name: small(config) for name, config in MODEL_PRESETS.items()},
    "unet": ModelConfig(
        network=UNetConfig(base_channels=8, channel_mult=(1, 2), num_res_blocks=1, norm_groups=4, num_heads=2,
                           scale_shift_norm=True, time_order="cos_sin", dropout=0.3, checkpointing=True),
        image_size=(6, 7), num_classes=3, variance="learned_range", time_input="zero_based_per_mille",
    ),
    "compact": replace(TINY, num_classes=3, null_label=False, variance="learned", prediction="x_0"),
    # linear attention at its level, softmax in the middle, both with keys and values of their own
    "lucidrains": replace(
        TINY,
        network=LucidrainsConfig(
            base_channels=4, channel_mult=(1,), attention_levels=(), head_channels=(4,), memory=2, self_condition=True
        ),
    ),
    "dome272": replace(TINY, network=Dome272Config(base_channels=2, emb_channels=4, num_heads=1), image_size=(8, 8)),
}  # fmt: skip
TORCH_ALONE = {"cpu", "ddpm-256", "ddpm-256-large", "dome272"}
"""Whose parts are in others that are written as ONNX too, which takes seconds."""


def model(config: ModelConfig) -> Denoiser:
    """With random weights everywhere: fresh ones are zero in the last layers, and hide the rest."""
    denoiser = Denoiser.from_config(config)
    generator = torch.Generator().manual_seed(5)
    for weight in denoiser.parameters():
        weight.data += 0.05 * torch.randn(weight.shape, generator=generator)
    return denoiser


@pytest.fixture(autouse=True, scope="module")
def _no_shape_checks():
    """The checks of shapes that tests switch on would look into the tensors of a trace."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


class Exported:
    """A model with its file of torch, and of ONNX if that is asked for, of one trace."""

    def __init__(self, folder: Path, config: ModelConfig, onnx: bool):
        self.denoiser = model(config).eval().requires_grad_(False)
        self.onnx, self.pt2 = folder / "m.onnx", folder / "m.pt2"
        writers = {self.pt2: programs.write_torch} | ({self.onnx: programs.write_onnx} if onnx else {})
        info = programs.describe(self.denoiser)
        traced = programs.trace(programs._Program(self.denoiser.network, config))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what `export_program` keeps from the terminal
            # each is measured against the model, on inputs of its own
            self.apart = {
                path.suffix: programs.disagreement(write(traced, info, path), self.denoiser)
                for path, write in writers.items()
            }


@pytest.fixture(scope="module")
def exports(tmp_path_factory) -> Callable[[str], Exported]:
    return cache(lambda name: Exported(tmp_path_factory.mktemp(name), MODELS[name], name not in TORCH_ALONE))


@pytest.fixture(scope="module", params=MODELS)
def exported(request, exports) -> Exported:
    return exports(request.param)


@pytest.fixture(scope="module")
def tiny(exports) -> Exported:
    return exports("compact")


def inputs(config: ModelConfig, batch: int, whole: bool) -> tuple[torch.Tensor, ...]:
    """Images, times and labels, the null label among them where there is one."""
    T = config.schedule.num_steps
    x = torch.randn(batch, config.channels, *config.image_size)
    t = torch.linspace(T, T / 3, batch) - (0 if whole else 0.37)
    t = t.round() if whole else t
    if config.num_classes is None:
        return x, t
    return x, t, torch.arange(config.num_classes - (not config.null_label), -1, -1).repeat(batch)[:batch]


def apart(one: np.ndarray, other: torch.Tensor) -> float:
    return float(np.abs(one - other.numpy()).max() / other.abs().max())


def test_programs_compute_what_the_denoiser_does(exported):
    config = exported.denoiser.config
    program = torch.export.load(exported.pt2).module()
    session = onnxruntime.InferenceSession(exported.onnx) if exported.onnx.exists() else None
    names = ["x_t", "t"] + ["label"] * (config.num_classes is not None)
    for batch, whole in ((1, True), (1, False), (3, True), (3, False)):
        given = inputs(config, batch, whole)
        # as the Denoiser is usually asked: integers are int64
        found = exported.denoiser(given[0], given[1].long() if whole else given[1], *given[2:])
        expected = {"x_0": found.x_0, "eps": found.eps}
        if found.learned_variance is not None:
            expected["var_fraction" if found.var_fraction is not None else "log_var_offset"] = found.learned_variance
        for other in expected.values():
            assert other.abs().max() > 0.01
        if session is not None:
            assert [i.name for i in session.get_inputs()] == names
            assert [o.name for o in session.get_outputs()] == list(expected)
            got = session.run(list(expected), {name: part.numpy() for name, part in zip(names, given, strict=True)})
            for one, other in zip(got, expected.values(), strict=True):
                assert apart(one, other) < 1e-4
        for one, other in zip(program(*given), expected.values(), strict=True):
            assert not one.requires_grad
            assert apart(one.numpy(), other) < 1e-5


def test_the_files_say_what_they_are(exported):
    denoiser = exported.denoiser
    assert exported.apart.get(".onnx", 0) < 1e-4
    assert exported.apart[".pt2"] < 1e-5
    for path in filter(Path.exists, (exported.onnx, exported.pt2)):
        info = read_info(path)
        assert info.model == denoiser.config
        assert info.parameters == sum(p.numel() for p in denoiser.network.parameters())
        assert info.alpha_bar == tuple(denoiser.schedule.alpha_bar.tolist())
        assert [port.name for port in info.inputs] == ["x_t", "t", "label"][: 2 + (info.model.num_classes is not None)]
        assert info.outputs[0].shape == ("batch", info.model.channels, *info.model.image_size)
        assert info.undye == undye.__version__
    if not exported.onnx.exists():
        return
    session = onnxruntime.InferenceSession(exported.onnx)
    types = {"tensor(float)": "float32", "tensor(int64)": "int64"}
    for port, held in zip((*info.inputs, *info.outputs), (*session.get_inputs(), *session.get_outputs()), strict=True):
        assert (port.name, port.dtype, list(port.shape)) == (held.name, types[held.type], held.shape)


def test_ddim_with_numpy_and_the_file_alone(tiny):
    """What a reader without undye writes: the file's outputs, its alpha_bar, and Eq. 12 of Song et al. 2021."""
    session = onnxruntime.InferenceSession(tiny.onnx)
    about = json.loads(session.get_modelmeta().custom_metadata_map["undye"])
    alpha_bar = np.array(about["alpha_bar"])
    times = np.linspace(len(alpha_bar) - 1, 0, 5 + 1).round().astype(int)
    label = np.array([0, 1, 2, 0])
    x = x_T = SampleNoise(7, range(4)).draw((1, 7, 9), 0).numpy()
    for t, s in pairwise(times):
        x_0, _ = session.run(["x_0", "eps"], {"x_t": x, "t": np.full(4, t, np.float32), "label": label})
        x_0 = x_0.clip(-1, 1) if about["model"]["clip_x_0"] else x_0
        eps = (x - alpha_bar[t] ** 0.5 * x_0) / (1 - alpha_bar[t]) ** 0.5
        x = (alpha_bar[s] ** 0.5 * x_0 + (1 - alpha_bar[s]) ** 0.5 * eps).astype(np.float32)
    assert np.abs(x - x_T).max() > 0.1
    guided = Conditioned(tiny.denoiser, torch.from_numpy(label))
    steps = undye.samplers.DDIM().steps(guided, torch.from_numpy(x_T), torch.from_numpy(times), lambda x: x)
    assert np.abs(x - undye.samplers.base.final(steps).numpy()).max() < 1e-3
    images = undye.sample(tiny.denoiser, 4, "ddim", steps=5, seed=7, label=label)
    assert np.abs(to_uint8(torch.from_numpy(x)).astype(int) - images).max() <= 1


@pytest.mark.parametrize("to", ["onnx", "torch"])
def test_the_model_and_the_terminal_stay_as_they_were(to, tiny, tmp_path, capfd):
    denoiser = copy.deepcopy(tiny.denoiser).double().train().requires_grad_(True)
    level, path = logging.root.manager.disable, tmp_path / f"m{program_info.SUFFIXES[to]}"
    capfd.readouterr()
    assert undye.export(denoiser, to, path) == path
    assert capfd.readouterr() == ("", "")
    assert denoiser.training
    assert all(p.requires_grad and p.dtype == torch.float64 for p in denoiser.parameters())
    assert logging.root.manager.disable == level
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    # the same model is the same file, which remembers neither its first name nor where undye is
    data = path.read_bytes()
    assert data == (tiny.onnx if to == "onnx" else tiny.pt2).read_bytes()
    for place in (torch.__file__, programs.__file__, __file__, str(tmp_path)):
        assert str(Path(place).parent).encode() not in data


def test_a_program_that_computes_something_else_is_not_left(tmp_path, monkeypatch):
    def wrong(self, t):
        return self.log_alpha_bar[t.round().long()]

    monkeypatch.setattr(programs._ScheduleInProgram, "log_alpha_bar_at", wrong)
    with pytest.raises(RuntimeError, match="differs from the model by"):
        export_program(model(TINY), "torch", tmp_path / "m.pt2")
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_cannot_be_traced_is_an_error_of_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "trace", lambda program: [].pop())
    with pytest.raises(
        undye.UserError, match=r"model of kind compact as a program for torch .IndexError: pop"
    ) as error:
        export_program(model(TINY), "torch", tmp_path / "m.pt2")
    assert isinstance(error.value.__cause__, IndexError)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_leaves_nothing(tmp_path, monkeypatch):
    def stop(traced, info, path):
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(programs, "trace", lambda program: None)
    monkeypatch.setattr(programs, "write_torch", stop)
    with pytest.raises(KeyboardInterrupt):
        export_program(model(TINY), "torch", tmp_path / "m.pt2")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("time_input", get_args(TimeInput))
def test_what_is_traced_is_the_denoiser(prediction, time_input):
    """For each prediction and time input, eagerly: what is traced differs from the Denoiser in its schedule alone."""
    config = replace(TINY, prediction=prediction, time_input=time_input)
    denoiser = model(config).eval()
    program = programs._Program(denoiser.network, config).eval()
    assert programs.disagreement(lambda given: program(*given), denoiser) < 1e-6
    for t in (1e-3, 0.5, 1, 1.5, 49.99, 50):
        x, times = torch.randn(1, 1, 7, 9), torch.tensor([t], dtype=torch.float32)
        expected = programs.outputs_of(denoiser(x, times))
        torch.testing.assert_close(program(x, times), expected, rtol=1e-5, atol=1e-6)


def test_disagreement_is_seen_in_each_output():
    config = replace(TINY, variance="learned_range")
    denoiser = model(config).eval()
    right = programs._Program(denoiser.network, config).eval()
    assert programs.disagreement(lambda given: right(*given), denoiser) == 0
    for k in range(3):
        for error in (lambda x: x * 1.001, lambda x: torch.full_like(x, float("nan"))):

            def run(given, k=k, error=error):
                return [error(part) if i == k else part for i, part in enumerate(right(*given))]

            assert programs.disagreement(run, denoiser) > 5e-4


def test_an_overflow_that_the_model_has_too_is_no_disagreement():
    config = replace(TINY, schedule=ScheduleConfig(num_steps=20_000), prediction="eps")
    denoiser = model(config).eval()
    right = programs._Program(denoiser.network, config).eval()
    assert denoiser(torch.randn(1, 1, 7, 9), torch.tensor([20_000])).x_0.abs().max() > 1e29
    assert programs.disagreement(lambda given: right(*given), denoiser) == 0


@pytest.mark.parametrize(
    ("to", "name", "says"),
    [("onnx", "m.pt2", "end in .onnx"), ("torch", "m.onnx", "end in .pt2"), ("torch", "old.pt2", "exists already")],
)
def test_where_nothing_can_be_written(to, name, says, tmp_path):
    (tmp_path / "old.pt2").write_text("mine")
    with pytest.raises(undye.UserError, match=says):
        undye.export(model(TINY), to, tmp_path / name)
    assert [p.name for p in tmp_path.iterdir()] == ["old.pt2"]


def test_onnx_without_its_packages(tmp_path, monkeypatch):
    find = program_info.importlib.util.find_spec
    monkeypatch.setattr(program_info.importlib.util, "find_spec", lambda n: None if n == "onnxscript" else find(n))
    with pytest.raises(undye.UserError, match=r"needs onnxscript: pip install 'undye\[onnx\]'"):
        export_program(model(TINY), "onnx", tmp_path / "m.onnx")


def test_weights_that_no_onnx_file_holds(tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "ONNX_LIMIT", 1000)
    with pytest.raises(undye.UserError, match="an ONNX file holds 2 GB"):
        export_program(model(TINY), "onnx", tmp_path / "m.onnx")


def test_a_program_is_no_model(tiny):
    for path in (tiny.onnx, tiny.pt2):
        with pytest.raises(undye.UserError):
            undye.load(path)


def test_files_of_others(tmp_path):
    helper = pytest.importorskip("onnx").helper
    graph = helper.make_graph([], "g", [], [])
    (tmp_path / "a.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    torch.export.save(torch.export.export(torch.nn.Linear(1, 1), (torch.ones(1, 1),)), tmp_path / "a.pt2")
    for name in ("a.onnx", "a.pt2"):
        with pytest.raises(undye.UserError, match="no program of undye's making"):
            read_info(tmp_path / name)


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.pop("model"),
        lambda d: d.update(schema_version=2),
        lambda d: d.update(extra=1),
        lambda d: d.update(parameters=True),
        lambda d: d.update(alpha_bar=[1.0]),
        lambda d: d["alpha_bar"].__setitem__(3, float("nan")),
        lambda d: d["alpha_bar"].__setitem__(3, "1"),
        lambda d: d["inputs"][0].update(shape=[None]),
        lambda d: d["inputs"][0].update(name="\ud800"),
        lambda d: d["model"]["schedule"].update(num_steps=10**9),
        lambda d: d["model"]["network"].update(channels=[]),
    ],
)
def test_descriptions_that_make_no_sense(tiny, change):
    data = json.loads(read_info(tiny.onnx).to_json())
    change(data)
    with pytest.raises(undye.UserError) as caught:
        ProgramInfo.from_json(json.dumps(data).encode(), tiny.onnx)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [b"", b"[]", b"null", b"{", b"[" * 100_000, b"\xff", b"9" * 5000])
def test_descriptions_that_are_none(text):
    with pytest.raises(undye.UserError):
        ProgramInfo.from_json(text, Path("m.onnx"))


def damaged(whole: bytes, rng: np.random.Generator, edges: np.ndarray) -> bytes:
    """Cut off, or a byte changed, or some put in or taken out; half of that at the places `edges`."""
    data = bytearray(whole)
    at = int(rng.choice(edges)) if rng.integers(2) else int(rng.integers(len(whole)))
    match rng.integers(4):
        case 0:
            data = data[:at]
        case 1:
            data[at] ^= 1 << int(rng.integers(8))
        case 2:
            data[at:at] = bytes(rng.integers(0, 256, rng.integers(1, 9), dtype=np.uint8))
        case 3:
            del data[at : at + int(rng.integers(1, 100))]
    return bytes(data)


@pytest.mark.parametrize("kind", ["onnx", "pt2"])
def test_info_on_damaged_files(tiny, kind, tmp_path, capsys, ways):
    """One line or a description, never another exception; half of the damage is to what is read."""
    source = tiny.onnx if kind == "onnx" else tiny.pt2
    whole, rng = source.read_bytes(), np.random.default_rng(4)
    start = whole.index(b'{"schema_version"')
    size = len(read_info(source).to_json())
    edges = np.r_[0:100, start - 100 : start + size + 100, len(whole) - 1000 : len(whole)]
    path, messages = tmp_path / f"m.{kind}", []
    for k in range(ways):
        path.write_bytes(damaged(whole, rng, edges[edges < len(whole)]))
        try:
            read_info(path)
        except undye.UserError as error:
            messages.append(str(error))
        if k % 10 == 0:  # the command too; reading its arguments takes longer than all the rest
            code, said = main(["info", str(path)]), capsys.readouterr().err
            assert (code, said.count("\n")) in ((0, 0), (2, 1))
    assert 0.4 * ways < len(messages) < ways
    assert not any("\n" in message for message in messages)


@pytest.mark.slow
@pytest.mark.parametrize("to", ["onnx", "torch"])
@pytest.mark.parametrize("name", MODEL_PRESETS)
def test_presets_at_full_size(name, to, tmp_path):
    path = export_program(model(MODEL_PRESETS[name]), to, tmp_path / f"m{program_info.SUFFIXES[to]}")
    assert read_info(path).model == MODEL_PRESETS[name]
