"""Folders of diffusers: theirs load here, ours load there, and both draw the same images."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel

import undye
from undye.checkpoint.diffusers import export_diffusers
from undye.checkpoint.imported import ImportNote, Settings
from undye.checkpoint.load import read_foreign
from undye.config import ModelConfig, ScheduleConfig, UNetConfig
from undye.denoiser import Denoiser
from undye.samplers import DDIM, final

UNET, SCHEDULER = "unet/config.json", "scheduler/scheduler_config.json"
NETWORK = UNetConfig(base_channels=8, channel_mult=(1, 2), num_res_blocks=1, norm_groups=4, dropout=0.0)


def model(**options) -> Denoiser:
    torch.manual_seed(3)
    denoiser = Denoiser.from_config(ModelConfig(**{"network": NETWORK, "image_size": (16, 16), **options}))
    for p in denoiser.parameters():
        p.data += 0.1 * torch.randn_like(p)
    return denoiser.eval()


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


VARIETY = [
    {},
    {"channels": 1, "image_size": (16, 24)},
    {"prediction": "v", "schedule": ScheduleConfig(name="cosine", num_steps=500), "variance": "fixed_small"},
    {"prediction": "x_0", "schedule": ScheduleConfig(name="scaled_linear", beta_start=0.00085, beta_end=0.012)},
    {"schedule": ScheduleConfig(rescale_betas=True, num_steps=250), "clip_x_0": False},
    {"schedule": ScheduleConfig(name="sqrt", num_steps=100)},
    {"schedule": ScheduleConfig(name="sqrt", num_steps=100, beta_start=1e-3, beta_end=0.04)},
    {"prediction": "v", "schedule": ScheduleConfig(zero_terminal_snr=True)},
    {"schedule": ScheduleConfig(name="sigmoid")},
    {"schedule": ScheduleConfig(name="sigmoid", num_steps=100, beta_start=1e-3, beta_end=0.04)},
    {"schedule": ScheduleConfig(name="sigmoid", num_steps=250, rescale_betas=True)},
    {"schedule": ScheduleConfig(name="sigmoid", zero_terminal_snr=True), "prediction": "v"},
    {"schedule": ScheduleConfig(name="sigmoid_alpha_bar", num_steps=200)},
]


@pytest.mark.parametrize("options", VARIETY, ids=range(len(VARIETY)))
def test_there_and_back_again_byte_for_byte(options, tmp_path):
    """Exported, imported and exported again: the same files, and in between the same model."""
    ours = model(**options)
    export_diffusers(ours, tmp_path / "a")
    found = read_foreign(tmp_path / "a", Settings())
    export_diffusers(found.denoiser, tmp_path / "b")
    assert files(tmp_path / "a") == files(tmp_path / "b")
    x, t = torch.randn(2, found.denoiser.config.channels, *found.denoiser.config.image_size), torch.tensor([3, 80])
    with torch.no_grad():
        a, b = ours(x, t), found.denoiser(x, t)
    torch.testing.assert_close(a.eps, b.eps, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(found.denoiser.schedule.beta, ours.schedule.beta, rtol=1e-9, atol=1e-14)
    for name in ("prediction", "variance", "clip_x_0", "image_size", "channels", "time_input"):
        assert getattr(found.denoiser.config, name) == getattr(ours.config, name)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"clip_x_0": False},
        {"prediction": "v"},
        {"channels": 1, "image_size": (16, 24)},
        {"schedule": ScheduleConfig(name="sigmoid")},
        {"schedule": ScheduleConfig(name="sqrt"), "prediction": "x_0"},
    ],
)
def test_their_pipelines_draw_our_images(options, tmp_path):
    """DDIMPipeline.from_pretrained, none of our code, the same x_T: the images of undye's DDIM to 1e-4."""
    ours = model(**options)
    folder = export_diffusers(ours, tmp_path / "m")
    pipeline = DDIMPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    steps, shape = 20, (2, ours.config.channels, *ours.config.image_size)
    theirs = pipeline(
        batch_size=2, num_inference_steps=steps, generator=torch.Generator().manual_seed(5), output_type="np",
        use_clipped_model_output=ours.config.clip_x_0,
    ).images  # fmt: skip
    x_T = torch.randn(shape, generator=torch.Generator().manual_seed(5))
    x = final(DDIM().steps(ours, x_T, torch.arange(1000, -1, -1000 // steps), torch.randn_like))
    expected = (x / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(np.asarray(theirs).reshape(expected.shape), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("schedule", ["linear", "sigmoid"])
def test_their_ancestral_pipeline_loads_too(schedule, tmp_path):
    ours = model(schedule=ScheduleConfig(name=schedule))
    pipeline = DDPMPipeline.from_pretrained(export_diffusers(ours, tmp_path / "m"))
    torch.testing.assert_close(pipeline.scheduler.betas.double(), ours.schedule.beta[1:], rtol=1e-5, atol=1e-8)
    pipeline.set_progress_bar_config(disable=True)
    assert isinstance(pipeline.scheduler, DDPMScheduler)
    assert pipeline.scheduler.config.variance_type == "fixed_large"
    images = pipeline(batch_size=1, num_inference_steps=3, output_type="np").images
    assert np.asarray(images).shape == (1, 16, 16, 3)


def theirs(**options) -> UNet2DModel:
    torch.manual_seed(4)
    return UNet2DModel(
        **{
            "sample_size": 16, "block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8,
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
            **options,
        }
    ).eval()  # fmt: skip


def same(denoiser: Denoiser, network: UNet2DModel, label: int | None = None) -> None:
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([1, 900])
    classes = None if label is None else torch.tensor([label, 0])
    with torch.no_grad():
        value, _ = denoiser.predict(x, t, classes)
        expected = network(x, t - 1, class_labels=classes).sample
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("scheduler", "expected"),
    [
        (DDPMScheduler(), {"variance": "fixed_small", "prediction": "eps", "clip_x_0": True}),
        (DDPMScheduler(variance_type="fixed_large", clip_sample=False), {"variance": "fixed_large", "clip_x_0": False}),
        (DDIMScheduler(prediction_type="v_prediction", beta_schedule="squaredcos_cap_v2"), {"prediction": "v"}),
    ],
)
def test_what_their_library_saves_loads_here(scheduler, expected, tmp_path):
    network = theirs()
    DDPMPipeline(network, scheduler).save_pretrained(tmp_path / "m")
    denoiser = undye.load(tmp_path / "m")
    same(denoiser, network)
    for key, value in expected.items():
        assert getattr(denoiser.config, key) == value
    betas = scheduler.betas.double()
    torch.testing.assert_close(denoiser.schedule.beta[1:], betas, rtol=1e-5, atol=1e-8)


def test_a_learned_variance_is_read_though_not_written(tmp_path):
    network = theirs(out_channels=6)
    DDPMPipeline(network, DDPMScheduler(variance_type="learned_range")).save_pretrained(tmp_path / "m")
    denoiser = undye.load(tmp_path / "m")
    assert denoiser.config.variance == "learned_range"
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([1, 900])
    with torch.no_grad():
        value, learned = denoiser.predict(x, t)
        expected = network(x, t - 1).sample
    torch.testing.assert_close(torch.cat([value, 2 * learned - 1], dim=1), expected, rtol=1e-4, atol=1e-5)


def test_steps_that_undye_does_not_take_are_noted(tmp_path):
    scheduler = DDIMScheduler(set_alpha_to_one=False, steps_offset=1, timestep_spacing="trailing")
    DDPMPipeline(theirs(), DDPMScheduler()).save_pretrained(tmp_path / "m")
    scheduler.save_config(tmp_path / "m" / "scheduler")
    (note,) = [n for n in read_foreign(tmp_path / "m", Settings()).notes if "steps" in n]
    assert note == "steps_offset '1', set_alpha_to_one 'False': ignored, undye's samplers choose their steps themselves"
    DDIMScheduler(timestep_spacing="trailing").save_config(tmp_path / "m" / "scheduler")
    assert not any("steps" in n for n in read_foreign(tmp_path / "m", Settings()).notes)


@pytest.mark.parametrize("suffix", [".fp16.safetensors", ".non_ema.bin"])
def test_a_variant_alone_is_read(suffix, tmp_path):
    network = theirs()
    variant, safe = suffix[1:].split(".")[0], suffix.endswith("safetensors")
    network.save_pretrained(tmp_path / "m", variant=variant, safe_serialization=safe)
    (path,) = (tmp_path / "m").glob(f"*{suffix}")
    same(undye.load(tmp_path / "m"), network)
    shutil.copy(path, tmp_path / "m" / "diffusion_pytorch_model.other.safetensors")
    with pytest.raises(undye.UserError, match=r"no diffusion_pytorch_model.bin, but .*other.*: rename the one to read"):
        undye.load(tmp_path / "m")
    for file in (tmp_path / "m").glob("diffusion*"):
        file.unlink()
    with pytest.raises(undye.UserError, match=r"no diffusion_pytorch_model.bin, nor a variant"):
        undye.load(tmp_path / "m")


@pytest.mark.parametrize("safe", [True, False])
def test_shards_are_read_together(safe, tmp_path):
    network = theirs()
    network.save_pretrained(tmp_path / "m", max_shard_size="200KB", safe_serialization=safe)
    assert len(list((tmp_path / "m").glob("*-of-*"))) > 1
    same(undye.load(tmp_path / "m"), network)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d.pop("weight_map"), "has no weight_map"),
        (lambda d: d.update(weight_map={}), "has no weight_map"),
        (lambda d: d.update(weight_map={"a": 3}), "has no weight_map"),
        (lambda d: d.update(weight_map={"a": "../m/config.json"}), "no name of a file beside it"),
        (lambda d: d.update(weight_map={"a": "\0"}), "no name of a file beside it"),
        (lambda d: d.update(weight_map={"a": ".."}), "which is missing"),
        (lambda d: d.update(weight_map={"a": "none.safetensors"}), "'none.safetensors', which is missing"),
        (lambda d: d.update(weight_map=dict(list(d["weight_map"].items())[:1])), "weight '.*' is missing"),
    ],
)
def test_an_index_that_is_wrong(change, says, tmp_path):
    theirs().save_pretrained(tmp_path / "m", max_shard_size="200KB")
    (path,) = (tmp_path / "m").glob("*.index.json")
    index = json.loads(path.read_text())
    change(index)
    path.write_text(json.dumps(index))
    with pytest.raises(undye.UserError, match=says):
        undye.load(tmp_path / "m")


def test_a_damaged_folder_of_theirs_is_not_spoken_of_as_our_checkpoint(good, tmp_path):
    for file in (UNET, SCHEDULER, "unet/diffusion_pytorch_model.safetensors"):
        shutil.copytree(good, tmp_path / "m")
        for content in ("version https://git-lfs.github.com/spec/v1\n", "{"):
            (tmp_path / "m" / file).write_text(content)
            with pytest.raises(undye.UserError, match=r"git-lfs|damaged|a text file") as error:
                undye.load(tmp_path / "m")
            assert "checkpoint" not in str(error.value)
        shutil.rmtree(tmp_path / "m")


def test_the_licence_goes_round(tmp_path):
    """What the card of their folder says is said by what is exported from it, letter for letter."""
    license = 'My "own" licence é\u2028\\n'
    export_diffusers(model(), tmp_path / "a", license)
    assert read_foreign(tmp_path / "a", Settings()).license == license
    undye.export(tmp_path / "a", "diffusers", tmp_path / "b")
    assert files(tmp_path / "a") == files(tmp_path / "b")


@pytest.mark.parametrize("safe", [True, False])
def test_the_older_layout(safe, tmp_path):
    """The network's files and the scheduler's side by side, as in google/ddpm-cifar10-32; also as a pickle."""
    network = theirs()
    network.save_pretrained(tmp_path / "m", safe_serialization=safe)
    DDPMScheduler().save_config(tmp_path / "m")
    same(undye.load(tmp_path / "m"), network)


def test_a_network_alone_has_its_defaults_noted(tmp_path):
    theirs().save_pretrained(tmp_path / "m")
    found = read_foreign(tmp_path / "m", Settings())
    assert any("linear, T = 1000" in note for note in found.notes)
    with pytest.warns(ImportNote, match="linear, T = 1000"):
        undye.load(tmp_path / "m")
    # the folder of the network inside a pipeline's finds the scheduler beside it
    DDPMPipeline(theirs(), DDPMScheduler(variance_type="fixed_large")).save_pretrained(tmp_path / "p")
    assert undye.load(tmp_path / "p" / "unet").config.variance == "fixed_large"


def test_settings_may_be_pythons_own_values(tmp_path):
    theirs(num_class_embeds=5).save_pretrained(tmp_path / "m")
    settings = {"image_size": (16, 24), "null_label": True, "clip_x_0": False, "schedule.num_steps": 40}
    config = undye.load(tmp_path / "m", settings=settings).config
    assert (config.image_size, config.null_label, config.clip_x_0) == ((16, 24), True, False)
    assert config.schedule.num_steps == 40


def test_betas_that_have_no_name_there_come_back(tmp_path):
    ours = model(schedule=ScheduleConfig(name="sqrt", num_steps=50, beta_start=1e-3, beta_end=0.04))
    found = read_foreign(export_diffusers(ours, tmp_path / "m"), Settings())
    torch.testing.assert_close(found.denoiser.schedule.beta, ours.schedule.beta, rtol=1e-6, atol=0)


@pytest.mark.parametrize("text", ["[" * 200_000, "1" * 5000, "\xff", "[1]", "3"])
def test_json_that_is_none(good, tmp_path, text):
    shutil.copytree(good, tmp_path / "m")
    for file in (UNET, SCHEDULER):
        (tmp_path / "m" / file).write_text(text, encoding="utf-8")
    with pytest.raises(undye.UserError):
        undye.load(tmp_path / "m")


@pytest.mark.parametrize(
    "odd",
    [
        torch.zeros(4).expand(4) * 0 + torch.zeros(1).expand(10**10)[:4],
        torch.zeros(1).expand(10**10),
        torch.zeros(4, dtype=torch.int64),
        torch.zeros(4, dtype=torch.complex64),
        torch.zeros(4).to_sparse(),
        torch.zeros(4, device="meta"),
    ],
    ids=["plain", "blown up", "whole", "complex", "sparse", "meta"],
)
def test_odd_tensors_in_a_pickle(good, tmp_path, odd):
    from safetensors.torch import load_file

    shutil.copytree(good, tmp_path / "m")
    path = tmp_path / "m" / "unet" / "diffusion_pytorch_model.safetensors"
    weights = {**load_file(path), "conv_in.bias": odd}
    path.unlink()
    torch.save(weights, path.with_suffix(".bin"))
    if odd.dtype == torch.float32 and odd.shape == (4,) and odd.layout == torch.strided and odd.device.type == "cpu":
        undye.load(tmp_path / "m")
        return
    with pytest.raises(undye.UserError, match=r"weight .conv_in"):
        undye.load(tmp_path / "m")


def test_class_conditional_ones(tmp_path):
    """Their table has no null row: labels are needed, guidance is an error; unless the user knows better."""
    network = theirs(num_class_embeds=5)
    DDPMPipeline(network, DDPMScheduler()).save_pretrained(tmp_path / "m")
    denoiser = undye.load(tmp_path / "m")
    assert (denoiser.config.num_classes, denoiser.config.null_label) == (5, False)
    same(denoiser, network, label=4)
    with pytest.raises(undye.UserError, match="class"):
        undye.sample(denoiser, 1, steps=1)
    with pytest.raises(undye.UserError, match="guid"):
        undye.sample(denoiser, 1, steps=1, label=1, guidance=2.0)
    with_null = undye.load(tmp_path / "m", settings={"null_label": "true"})
    assert (with_null.config.num_classes, with_null.config.null_label) == (4, True)
    with pytest.raises(undye.UserError, match="class"):
        export_diffusers(denoiser, tmp_path / "no")


def test_settings_of_the_user(tmp_path):
    theirs(sample_size=None).save_pretrained(tmp_path / "m")
    with pytest.raises(undye.UserError, match="image_size"):
        undye.load(tmp_path / "m")
    given = {"image_size": "16x24", "prediction": "v", "schedule.num_steps": "400", "schedule.name": "cosine"}
    config = undye.load(tmp_path / "m", settings=given).config
    assert (config.image_size, config.prediction) == ((16, 24), "v")
    assert (config.schedule.name, config.schedule.num_steps) == ("cosine", 400)
    for wrong, says in [
        ({"sise": "3"}, "sise"),
        ({"clip_x_0": "maybe"}, "true or false"),
        ({"schedule.steps": "3"}, "num_steps"),
        ({"schedule.name": "cubic"}, "cubic"),
        ({"prediction": "noise"}, "noise"),
        ({"image_size": "0"}, "HxW"),
        ({"schedule.beta_end": "2"}, "beta"),
        ({"schedule.num_steps": "1000000000"}, "at most 1,000,000"),
        ({"variance": "learned_range"}, "out_channels"),
    ]:
        with pytest.raises(undye.UserError, match=says):
            undye.load(tmp_path / "m", settings={"image_size": "16", **wrong})


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"network": undye.CompactConfig(channels=(8,), blocks=(1,))}, "no network like"),
        ({"time_input": "per_mille"}, "t - 1"),
        ({"num_classes": 3}, "class"),
        ({"prediction": "mu"}, "predicts mu"),
        ({"image_size": (15, 16), "network": replace(NETWORK)}, "no multiple of 2"),
        ({"variance": "learned"}, "DDIMPipeline cannot sample a model with a learned variance"),
        ({"variance": "learned_range"}, "DDIMPipeline cannot sample a model with a learned variance"),
    ],
)
def test_what_they_cannot_express_is_an_error_and_nothing_is_written(options, says, tmp_path):
    with pytest.raises(undye.UserError, match=says):
        export_diffusers(Denoiser.from_config(ModelConfig(**{"network": NETWORK, **options})), tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    small = UNetConfig(base_channels=4, channel_mult=(1,), num_res_blocks=1, norm_groups=2, attention_levels=())
    denoiser = Denoiser.from_config(ModelConfig(network=small, image_size=(4, 4), channels=1))
    return export_diffusers(denoiser, tmp_path_factory.mktemp("good") / "m")


def changed(good: Path, to: Path, file: str, **changes) -> Path:
    shutil.copytree(good, to)
    data = json.loads((to / file).read_text())
    for key, value in changes.items():
        data[key] = value
    (to / file).write_text(json.dumps(data))
    return to


@pytest.mark.parametrize(
    ("file", "changes", "says"),
    [
        (UNET, {"_class_name": "UNet2DConditionModel"}, "UNet2DConditionModel"),
        (UNET, {"act_fn": "gelu"}, "act_fn"),
        (UNET, {"block_out_channels": [4, 8]}, "down_block_types"),
        (UNET, {"block_out_channels": [8]}, "shape"),
        (UNET, {"layers_per_block": 2}, "missing"),
        (UNET, {"layers_per_block": -1}, "layers_per_block"),
        (UNET, {"in_channels": 4, "out_channels": 4}, "channels"),
        (UNET, {"out_channels": 5}, "out_channels"),
        (UNET, {"norm_eps": "x"}, "norm_eps|could not|number"),
        (SCHEDULER, {"_class_name": "PNDMScheduler"}, "PNDMScheduler"),
        (SCHEDULER, {"beta_schedule": "laplace"}, "laplace"),
        (SCHEDULER, {"beta_end": 2.0}, "beta"),
        (SCHEDULER, {"beta_end": "high"}, "not a number"),
        (SCHEDULER, {"trained_betas": [0.1] * 1000}, "trained_betas"),
        (SCHEDULER, {"trained_betas": [0.1]}, "1000"),
        (SCHEDULER, {"num_train_timesteps": 0}, "timesteps"),
        (SCHEDULER, {"thresholding": True}, "thresholding"),
        (SCHEDULER, {"clip_sample_range": 2.0}, "clip_sample_range"),
        (SCHEDULER, {"prediction_type": "flow"}, "flow"),
        (SCHEDULER, {"variance_type": "learned"}, "learned"),
        (SCHEDULER, {"variance_type": []}, "variance_type"),
        (SCHEDULER, {"prediction_type": {}}, "prediction_type"),
        (SCHEDULER, {"beta_schedule": []}, "no schedule"),
        (SCHEDULER, {"beta_start": 10**400}, "beta_start"),
        (SCHEDULER, {"trained_betas": [10**400] * 1000}, "trained_betas"),
        (SCHEDULER, {"num_train_timesteps": 10**9}, "timesteps"),
        (SCHEDULER, {"clip_sample": "false"}, "neither true nor false"),
        (UNET, {"norm_eps": 10**400}, "norm_eps"),
        (UNET, {"block_out_channels": [10**12]}, "block_out_channels"),
        (UNET, {"num_class_embeds": 10**18}, "num_class_embeds"),
        (UNET, {"layers_per_block": 20_000}, "layers_per_block"),
        (UNET, {"sample_size": True}, "sample_size"),
        (UNET, {"sample_size": 0}, "sample_size"),
        (UNET, {"sample_size": [8, 10**12]}, "sample_size"),
    ],
)
def test_what_they_say_that_undye_cannot_do(good, tmp_path, file, changes, says):
    with pytest.raises(undye.UserError, match=says) as error:
        undye.load(changed(good, tmp_path / "m", file, **changes))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("victim", [UNET, SCHEDULER, "unet/diffusion_pytorch_model.safetensors"])
def test_damaged_files(good, tmp_path, victim, ways):
    """Bytes changed, cut off, doubled, put in: a clear error or a model, never another exception."""
    folder = tmp_path / "m"
    shutil.copytree(good, folder)
    whole, rng, messages = (good / victim).read_bytes(), np.random.default_rng(7), []
    head = min(len(whole), 3000)  # where a file says what it is
    for _ in range(ways):
        data = bytearray(whole)
        match rng.integers(5):
            case 0:
                data = data[: rng.integers(len(data))]
            case 1:
                for _ in range(rng.integers(1, 4)):
                    data[rng.integers(head)] = rng.integers(256)
            case 2:
                at = rng.integers(head)
                data[at:at] = bytes(rng.integers(0, 256, rng.integers(1, 9), dtype=np.uint8))
            case 3:
                a, b = sorted(rng.integers(0, len(data), 2))
                data = data[:a] + data[b:]
            case 4:
                at = rng.integers(head)
                data[at : at + 1] = bytes(rng.choice([b"9", b"-", b'"', b"[", b"null", b"1e999", b"\x00", b"{}"]))
        (folder / victim).write_bytes(bytes(data))
        try:
            undye.load(folder)
        except undye.UserError as error:
            messages.append(str(error))
    assert len(messages) > ways / 4
    assert not any("\n" in message for message in messages)


def test_a_file_that_claims_a_hundred_gigabytes(good, tmp_path):
    shutil.copytree(good, tmp_path / "m")
    path = tmp_path / "m" / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes((100 * 2**30).to_bytes(8, "little") + b"{}")
    with pytest.raises(undye.UserError, match="damaged"):
        undye.load(tmp_path / "m")
    header = json.dumps({"x": {"dtype": "F32", "shape": [25 * 2**30], "data_offsets": [0, 100 * 2**30]}}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(undye.UserError, match="damaged"):
        undye.load(tmp_path / "m")


def test_a_pickle_with_code_in_it_is_not_run(good, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    folder = tmp_path / "m"
    shutil.copytree(good, folder)
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    torch.save({"conv_in.weight": Bomb()}, folder / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(undye.UserError, match="more than tensors"):
        undye.load(folder)
    assert not (tmp_path / "ran").exists()
