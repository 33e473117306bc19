"""Files of denoising-diffusion-pytorch, written with its own objects: what they hold is read, the rest is noted."""

import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import denoising_diffusion_pytorch as lucidrains
    from denoising_diffusion_pytorch import WeightedObjectiveGaussianDiffusion
    from denoising_diffusion_pytorch import classifier_free_guidance as guidance
    from denoising_diffusion_pytorch.guided_diffusion import Unet as GuidedUnet
    from ema_pytorch import EMA

import undye
from undye.checkpoint import native
from undye.checkpoint.imported import Settings
from undye.checkpoint.load import read_foreign
from undye.networks import build_network
from undye.networks.lucidrains import LucidrainsUNet

CLASSES = 5
OBJECTIVES = {"pred_noise": "eps", "pred_x0": "x_0", "pred_v": "v"}


def unet(**options):
    torch.manual_seed(0)
    return lucidrains.Unet(8, **{"dim_mults": (1, 2), "channels": 1, "attn_dim_head": 4} | options)


def diffusion(network=None, **options):
    network = unet() if network is None else network
    return lucidrains.GaussianDiffusion(network, **{"image_size": 8, "timesteps": 30} | options)


def class_diffusion(dim_mults=(1, 2), **options):
    torch.manual_seed(0)
    network = guidance.Unet(8, CLASSES, dim_mults=dim_mults, channels=1, attn_heads=2)
    return guidance.GaussianDiffusion(network, **{"image_size": 8, "timesteps": 30} | options)


def trainer_file(path: Path, model, steps: int = 0) -> EMA:
    """What their Trainer.save writes, after some steps that are nothing but noise."""
    ema = EMA(model, beta=0.5, update_every=1, update_after_step=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, betas=(0.9, 0.99))
    for _ in range(steps):
        for parameter in model.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn_like(parameter)
        ema.update()
    content = {"step": steps, "model": model.state_dict(), "opt": optimizer.state_dict(), "ema": ema.state_dict()}
    torch.save(content | {"scaler": None, "version": lucidrains.denoising_diffusion_pytorch.__version__}, path)
    return ema


def state_file(path: Path, module) -> Path:
    torch.save(module.state_dict(), path)
    return path


def read(path, **settings):
    return read_foreign(path, Settings.of({"image_size": 8} | settings))


def agree(denoiser, network, label=None):
    """The network of the file and that of undye say the same; t is one more than their times."""
    torch.manual_seed(1)
    channels, t = denoiser.config.channels, torch.tensor([1, 30])
    x = torch.randn(2, channels, 8, 8)
    with torch.no_grad():
        expected = network(x, t - 1) if label is None else network(x, t - 1, label, cond_drop_prob=0.0)
        value, learned = denoiser.predict(x, t, label)
    out = value if learned is None else torch.cat([value, 2 * learned - 1], dim=1)
    return (out - expected).abs().max() < 1e-5 * expected.abs().max()


def test_a_trainers_file_holds_two_models(tmp_path):
    model = diffusion()
    ema = trainer_file(tmp_path / "model-1.pt", model, steps=4)
    averaged = read(tmp_path / "model-1.pt")
    assert "weights: the averaged ones (ema) are taken" in "\n".join(averaged.notes)
    trained = read(tmp_path / "model-1.pt", weights="model")
    assert not any("weights" in note for note in trained.notes)
    assert agree(averaged.denoiser, ema.ema_model.model)
    assert agree(trained.denoiser, model.model)
    assert not agree(averaged.denoiser, model.model)
    config = trained.denoiser.config
    assert (averaged.kind, config.image_size, config.channels) == ("lucidrains", (8, 8), 1)
    assert (config.prediction, config.variance, config.clip_x_0, config.time_input) == (
        "v", "fixed_small", True, "zero_based",
    )  # fmt: skip
    assert (config.schedule.name, config.schedule.num_steps) == ("sigmoid_alpha_bar", 30)
    images = undye.sample(averaged.denoiser, 2, steps=2)
    assert images.shape == (2, 8, 8, 1)


def test_it_becomes_a_checkpoint_of_undyes_own(tmp_path):
    model = diffusion(objective="pred_noise")
    trainer_file(tmp_path / "model-1.pt", model)
    native.save(tmp_path / "own", read(tmp_path / "model-1.pt").denoiser)
    assert agree(undye.load(tmp_path / "own"), model.model)


def test_an_average_that_never_began_is_noted(tmp_path):
    trainer_file(tmp_path / "m.pt", diffusion())
    assert any("too short to average" in note for note in read(tmp_path / "m.pt").notes)
    trainer_file(tmp_path / "m.pt", diffusion(), steps=4)
    assert not any("too short to average" in note for note in read(tmp_path / "m.pt").notes)


def test_ema_without_the_model_beside_it(tmp_path):
    """Some save ema.state_dict() alone, or leave the trained model out of it."""
    model = diffusion()
    state = EMA(model, include_online_model=False).state_dict()
    torch.save(state, tmp_path / "m.pt")
    assert agree(read(tmp_path / "m.pt").denoiser, model.model)
    with pytest.raises(undye.UserError, match="no weights but the averaged"):
        read(tmp_path / "m.pt", weights="model")
    torch.save(EMA(model).state_dict(), tmp_path / "m.pt")
    assert agree(read(tmp_path / "m.pt", weights="model").denoiser, model.model)


@pytest.mark.parametrize("min_snr", [False, True])
@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize(("schedule", "num_steps"), [("sigmoid", 30), ("linear", 1000), ("linear", 30), ("cosine", 7)])
def test_schedule_and_objective_are_read_off_the_tables(tmp_path, schedule, num_steps, objective, min_snr):
    path, options = tmp_path / "m.pt", {"timesteps": num_steps, "objective": objective, "beta_schedule": schedule}
    state_file(path, diffusion(min_snr_loss_weight=min_snr, min_snr_gamma=3, **options))
    found = read(path)
    config = found.denoiser.config
    assert config.prediction == OBJECTIVES[objective]
    assert config.schedule.name == {"sigmoid": "sigmoid_alpha_bar"}.get(schedule, schedule)
    assert config.schedule.rescale_betas == (schedule == "linear" and num_steps == 30)
    assert config.schedule.num_steps == num_steps
    assert [note.split(":")[0] for note in found.notes] == ["sinusoidal_pos_emb_theta"]


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_classes(tmp_path, schedule, objective):
    model = class_diffusion(beta_schedule=schedule, objective=objective, min_snr_loss_weight=True)
    denoiser = read(state_file(tmp_path / "m.pt", model), attn_heads=2).denoiser
    config = denoiser.config
    assert (config.num_classes, config.null_label, config.prediction) == (CLASSES, True, OBJECTIVES[objective])
    assert config.schedule.name == schedule
    assert agree(denoiser, model.model, torch.tensor([0, 4]))
    undye.sample(denoiser, 1, steps=1, label=3, guidance=1.5)


def test_heads_of_the_class_network_are_asked_for(tmp_path):
    path = state_file(tmp_path / "m.pt", class_diffusion())
    assert any("attn_heads: the file does not say, 4" in note for note in read(path).notes)
    with pytest.raises(undye.UserError, match="not to be divided into 5 heads"):
        read(path, attn_heads=5)


def test_a_network_alone_takes_their_defaults(tmp_path):
    network = unet()
    found = read(state_file(tmp_path / "m.pt", network), timesteps=100)
    notes = "\n".join(found.notes)
    assert "objective: the file does not say, pred_v is lucidrains's default (--set objective=...)" in notes
    assert "beta_schedule: the file does not say, sigmoid" in notes
    assert "timesteps" not in notes
    config = found.denoiser.config
    assert (config.prediction, config.schedule.name, config.schedule.num_steps) == ("v", "sigmoid_alpha_bar", 100)
    assert agree(found.denoiser, network)
    classes = read(state_file(tmp_path / "m.pt", class_diffusion().model)).denoiser.config
    assert (classes.prediction, classes.schedule.name, classes.schedule.num_steps) == ("eps", "cosine", 1000)


@pytest.mark.parametrize(
    "options",
    [
        {"dim_mults": (1,)},
        {"dim_mults": (2, 1, 3), "init_dim": 6},
        {"full_attn": (True, False), "attn_heads": (1, 3), "attn_dim_head": (4, 8)},
        {"full_attn": (True, True), "channels": 3},
        {"self_condition": True},
        {"sinusoidal_pos_emb_theta": 500},
    ],
    ids=str,
)
def test_shapes_are_read_off_the_weights(tmp_path, options):
    network = unet(**options).eval()
    theta = options.get("sinusoidal_pos_emb_theta", 10000)
    found = read(state_file(tmp_path / "m.pt", network), sinusoidal_pos_emb_theta=theta)
    assert agree(found.denoiser, network)
    assert any("self_condition" in note for note in found.notes) == ("self_condition" in options)


def test_learned_variance_predicts_eps_whatever_its_objective(tmp_path):
    model = lucidrains.LearnedGaussianDiffusion(unet(learned_variance=True), image_size=8, timesteps=30)
    assert model.objective == "pred_v"
    found = read(state_file(tmp_path / "m.pt", model))
    assert (found.denoiser.config.prediction, found.denoiser.config.variance) == ("eps", "learned_range")
    assert agree(found.denoiser, model.model)
    assert any(note.startswith("objective: pred_noise") for note in found.notes)
    assert read(tmp_path / "m.pt", objective="pred_v").denoiser.config.prediction == "v"


@pytest.fixture(scope="module")
def state():
    return diffusion().state_dict()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: s.pop("model.final_conv.weight"), "'final_conv.weight' is missing"),
        (lambda s: s.pop("model.mid_attn.to_qkv.weight"), "'mid_attn.to_qkv.weight' is missing"),
        (lambda s: s.pop("model.downs.1.2.mem_kv"), "'downs.1.2.mem_kv' is missing"),
        (lambda s: s.update({"model.extra": torch.zeros(1)}), "'extra' belongs to no part"),
        (lambda s: s.update(extra=torch.zeros(1)), "'extra' belongs to no part"),
        (lambda s: s.update({"model.time_mlp.3.bias": torch.zeros(3)}), "'time_mlp.3.bias' has shape"),
        (lambda s: s.update({"model.final_conv.bias": torch.zeros(1, dtype=torch.long)}), "not real numbers"),
        (lambda s: s.update({"model.init_conv.weight": torch.zeros(8, 4, 7, 7)}), "4 inputs and 1 outputs"),
        (lambda s: s.update({"model.final_conv.weight": torch.zeros(4, 8, 1, 1)}), "WeightedObjective"),
        (lambda s: s.update(betas=s["betas"] * 1.01), "30 betas, .* are none of undye's schedules"),
        (lambda s: s.update(betas=s["betas"] * float("nan")), "'betas' is not finite"),
        (lambda s: s.update(alphas_cumprod=s["alphas_cumprod"] / 0), "'alphas_cumprod' is not finite"),
        (lambda s: s.update(loss_weight=s["loss_weight"] * float("nan")), "'loss_weight' is not finite"),
        (lambda s: s.pop("betas"), "'betas' is missing: give --set beta_schedule=..."),
        (lambda s: s.pop("loss_weight"), "'loss_weight' is missing: give --set objective=..."),
        (lambda s: s.update(betas=s["betas"][:0]), "it is no noise schedule"),
        (lambda s: s.update(betas=torch.arange(30)), "it is no noise schedule"),
        (lambda s: s.update(loss_weight=s["loss_weight"].flip(0)), "'loss_weight' is of no known objective"),
        (lambda s: s.update(loss_weight=s["loss_weight"][1:]), "'loss_weight' is of no known objective"),
        (
            lambda s: s.update({"model.time_mlp.0.weights": torch.zeros(8)}),
            "'time_mlp.0.weights' has random or learned",
        ),
        (lambda s: s.update({"model.downs.0.0.block1.norm.weight": torch.zeros(8)}), "before 2.0"),
        (lambda s: s.update({"model.init_conv.weight": torch.zeros(8, 1, 7)}), "'init_conv.weight' is not for images"),
        (lambda s: s.update(model={}), "'model' is of type dict"),
    ],
)
def test_wrong_keys_and_shapes_are_named(state, tmp_path, change, says):
    state = dict(state)
    change(state)
    torch.save(state, tmp_path / "m.pt")
    with pytest.raises(undye.UserError, match=says):
        read(tmp_path / "m.pt")


def test_the_objective_can_be_said_where_the_table_is_unknown(state, tmp_path):
    torch.save({**state, "loss_weight": state["loss_weight"].flip(0)}, tmp_path / "m.pt")
    assert read(tmp_path / "m.pt", objective="pred_x0").denoiser.config.prediction == "x_0"


def test_tables_that_are_not_needed_may_be_missing_or_damaged(state, tmp_path):
    def model(change, **settings):
        torch.save({k: v for k, v in {**state, **change}.items() if v is not None}, tmp_path / "m.pt")
        return read(tmp_path / "m.pt", **settings).denoiser.config

    assert model({"loss_weight": None}, objective="pred_x0").prediction == "x_0"
    assert model({"loss_weight": state["loss_weight"] / 0}, objective="pred_x0").prediction == "x_0"
    assert model({"alphas_cumprod": None}).schedule.num_steps == 30
    config = model({"betas": None}, beta_schedule="sigmoid", timesteps=30)
    assert (config.schedule.name, config.prediction) == ("sigmoid_alpha_bar", "v")
    learned = lucidrains.LearnedGaussianDiffusion(unet(learned_variance=True), image_size=8, timesteps=30).state_dict()
    del learned["loss_weight"]
    torch.save(learned, tmp_path / "m.pt")
    assert read(tmp_path / "m.pt").denoiser.config.variance == "learned_range"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: GuidedUnet(8, dim_mults=(1, 2)), "guided_diffusion.py"),
        (lambda: lucidrains.Unet(8, learned_sinusoidal_cond=True), "Fourier features"),
        (
            lambda: lucidrains.ContinuousTimeGaussianDiffusion(unet(learned_sinusoidal_cond=True), image_size=8),
            "continuous-time",
        ),
        (lambda: lucidrains.ElucidatedDiffusion(unet(random_fourier_features=True), image_size=8), "Elucidated"),
        (lambda: lucidrains.Unet1D(8, dim_mults=(1, 2)), "1 or 3 dimensions"),
        (lambda: lucidrains.KarrasUnet(image_size=8, dim=8, dim_max=8, num_downsamples=1), "KarrasUnet"),
        (lambda: WeightedObjectiveGaussianDiffusion(unet(out_dim=4), image_size=8), "WeightedObjective"),
    ],
    ids=["guided", "fourier", "continuous", "elucidated", "1d", "karras", "weighted"],
)
def test_their_other_models_are_refused_by_name(tmp_path, make, says):
    with pytest.raises(undye.UserError, match=says):
        read(state_file(tmp_path / "m.pt", make()))


def test_the_version_is_named(tmp_path):
    path = tmp_path / "m.pt"
    trainer_file(path, diffusion())
    content = torch.load(path, weights_only=True)
    content["ema"]["ema_model.model.downs.0.0.block1.norm.weight"] = torch.zeros(8)
    content["version"] = "1.9.4"
    torch.save(content, path)
    with pytest.raises(undye.UserError, match=r"a file of version '1.9.4'.*'downs.0.0.block1.norm.weight'"):
        read(path)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({}, "does not say the size of its images"),
        ({"image_size": "0"}, "image_size|size"),
        ({"weights": "best"}, "weights=best: the file has ema and model"),
        ({"objective": "pred_score"}, "objective=pred_score: theirs are pred_noise, pred_x0, pred_v"),
        ({"variance": "learned_range"}, "variance=learned_range"),
        ({"sinusoidal_pos_emb_theta": "nan"}, "max_period"),
        ({"beta_schedule": "linear"}, "no such setting"),
        ({"num_classes": "3"}, "no such setting"),
        ({"schedule.num_steps": "0"}, "at least 1 step"),
    ],
    ids=str,
)
def test_settings_that_make_no_sense(tmp_path, settings, says):
    trainer_file(tmp_path / "m.pt", diffusion())
    sized = {"image_size": "8"} if settings else {}
    with pytest.raises(undye.UserError, match=says):
        undye.load(tmp_path / "m.pt", settings={**sized, **settings})


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"beta_schedule": "cubic"}, "has no schedule 'cubic'"),
        ({"beta_schedule": "linear", "timesteps": 3}, "use at least 21 steps"),
        ({"timesteps": 0}, "at least 1 step"),
        ({"timesteps": 10**9}, "at most 1,000,000 steps"),
        ({"objective": "eps"}, "theirs are"),
    ],
    ids=str,
)
def test_settings_of_a_network_alone(tmp_path, settings, says):
    with pytest.raises(undye.UserError, match=says):
        read(state_file(tmp_path / "m.pt", unet()), **settings)


def test_other_settings_go_over_the_file(tmp_path):
    path = state_file(tmp_path / "m.pt", diffusion())
    config = read(path, prediction="eps", variance="fixed_large", clip_x_0=False).denoiser.config
    assert (config.prediction, config.variance, config.clip_x_0) == ("eps", "fixed_large", False)


def test_a_file_without_averages(tmp_path):
    model = diffusion()
    torch.save({"model": model.state_dict()}, tmp_path / "m.pt")
    found = read(tmp_path / "m.pt")
    assert agree(found.denoiser, model.model)
    assert any(note.startswith("weights: read from 'model'") for note in found.notes)
    assert agree(read(tmp_path / "m.pt", weights="model").denoiser, model.model)
    with pytest.raises(undye.UserError, match="weights"):
        read(tmp_path / "m.pt", weights="ema")


def test_wrapped_in_a_trainers_file(tmp_path):
    """DataParallel and torch.compile around the whole, or around the network alone."""
    model = diffusion()
    ema = trainer_file(tmp_path / "m.pt", model, steps=2)
    content = torch.load(tmp_path / "m.pt", weights_only=True)
    content["model"] = {f"module._orig_mod.{k}": v for k, v in content["model"].items()}
    content["ema"] = {k.replace("_model.model.", "_model.model._orig_mod."): v for k, v in content["ema"].items()}
    torch.save(content, tmp_path / "m.pt")
    assert agree(read(tmp_path / "m.pt").denoiser, ema.ema_model.model)
    assert agree(read(tmp_path / "m.pt", weights="model").denoiser, model.model)


def damaged(state, rng):
    """A state dict with one thing wrong: a key, a shape, a type, or a value."""
    state = dict(state)
    key = list(state)[rng.integers(len(state))]
    tensor = state[key]
    other = [
        lambda: tensor[:0],
        lambda: tensor[None],
        lambda: tensor.flatten(),
        lambda: tensor.flatten()[0],
        lambda: tensor.transpose(0, -1) if tensor.ndim > 1 else tensor,
        lambda: torch.zeros(tuple(rng.integers(0, 7, rng.integers(0, 6)))),
        lambda: torch.zeros(()).expand(10**9),
        lambda: tensor.long(),
        lambda: tensor > 0,
        lambda: tensor.to(torch.complex64),
        lambda: tensor.half(),
        lambda: tensor * float("nan"),
        lambda: tensor * float("inf"),
        lambda: -tensor,
        lambda: tensor.to_sparse(),
        lambda: torch.cat([tensor.reshape(-1)] * 2),
        lambda: "text",
        lambda: None,
        lambda: 7,
        lambda: {},
    ]
    match rng.integers(4):
        case 0:
            del state[key]
        case 1:
            state[key.replace("0", "1") if rng.integers(2) else key[: rng.integers(1, len(key))]] = state.pop(key)
        case 2:
            state[list(state)[rng.integers(len(state))]] = tensor
        case 3:
            state[key] = other[rng.integers(len(other))]()
    return state


def test_damaged_contents(monkeypatch, ways):
    """Keys, shapes, types and values changed, as torch.load would give them: a clear error or a model."""
    # networks are built on the meta device, for their shapes: once for each configuration is enough
    monkeypatch.setattr("undye.checkpoint.lucidrains.LucidrainsUNet", cache(LucidrainsUNet))
    monkeypatch.setattr("undye.denoiser.build_network", cache(build_network))
    model, classes = diffusion(unet(dim_mults=(1,))), class_diffusion(dim_mults=(1,))
    ema = EMA(model).state_dict()
    wholes = [model.state_dict(), classes.state_dict(), ema, model.model.state_dict()]
    rng, messages, content = np.random.default_rng(8), [], {}
    monkeypatch.setattr("undye.checkpoint.content.read_pickle", lambda path: content)
    for k in range(ways):
        content = damaged(wholes[k % 4], rng)
        if rng.integers(2):
            content = damaged(content, rng) if all(isinstance(v, torch.Tensor) for v in content.values()) else content
        if k % 4 == 2:
            content = {"model": wholes[0], "ema": content, "version": [None, 3, "x" * 99][rng.integers(3)]}
        try:
            read(Path(__file__))
        except undye.UserError as error:
            messages.append(str(error))
    assert len(messages) > 0.6 * ways
    assert not any("\n" in message for message in messages)


def test_damaged_files(tmp_path, ways):
    """Bytes changed, cut off, put in, left out."""
    state_file(tmp_path / "whole.pt", diffusion(unet(dim_mults=(1,))))
    whole, rng, messages = (tmp_path / "whole.pt").read_bytes(), np.random.default_rng(8), []
    edges = np.r_[0:4000, len(whole) - 4000 : len(whole)]
    for k in range(ways // 4):
        data = bytearray(whole)
        at = int(rng.choice(edges)) if k % 2 else int(rng.integers(len(whole)))
        match rng.integers(4):
            case 0:
                data = data[:at]
            case 1:
                data[at] = rng.integers(256)
            case 2:
                data[at:at] = bytes(rng.integers(0, 256, rng.integers(1, 9), dtype=np.uint8))
            case 3:
                del data[at : at + int(rng.integers(1, 100))]
        (tmp_path / "m.pt").write_bytes(bytes(data))
        try:
            read(tmp_path / "m.pt")
        except undye.UserError as error:
            messages.append(str(error))
    assert len(messages) > ways / 20
    assert not any("\n" in message for message in messages)
