"""Our U-Net against what OpenAI's own code computed (tests/golden/openai_*.npz), with weights made by a stated rule."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.golden.openai_models import LABELS, MODELS, NUM_CLASSES, TIMES, images, part, weight
from undye.config import UNetConfig
from undye.errors import UserError
from undye.networks.names_openai import FLAGS, from_openai_flags, from_openai_weights, openai_name
from undye.networks.spec import UNetSpec

GOLDEN = Path(__file__).parents[1] / "golden"
every_model = pytest.mark.parametrize("name", MODELS)


@cache
def theirs(name):
    """Their state dict in float64, and what came out, by name."""
    with np.load(GOLDEN / f"openai_{name}.npz") as file:
        lines = file["weights"].tobytes().decode().splitlines()
        expected = {key: torch.from_numpy(file[key]) for key in ("output", "gradient")}
    shapes = {line.split()[0]: tuple(map(int, line.split()[1:])) for line in lines}
    return {key: torch.from_numpy(weight(key, shape)) for key, shape in shapes.items()}, expected


def spec_of(name):
    _, flags, extra, _ = MODELS[name]
    spec = from_openai_flags(flags, NUM_CLASSES)
    if not extra:
        return spec
    # what no flag of theirs says: the first widths of the 512x512 model for fewer levels, and no resampling weights
    first = from_openai_flags(flags, NUM_CLASSES).config
    assert first.stem_width == first.widths[0] == 32
    few = replace(first, channel_mult=first.channel_mult[:3], resample="pool", downsample_padding="right_bottom")
    return replace(spec, config=few)


def run(name, dtype, new_attention_order):
    """Our output and its gradient by the image, for the cotangent of the rule."""
    spec, size = spec_of(name), MODELS[name][3]
    network = spec.build().to(dtype).eval()
    network.load_state_dict(from_openai_weights(theirs(name)[0], spec, new_attention_order))
    x = torch.from_numpy(images(size)).to(dtype).requires_grad_()
    out = network(x, torch.tensor(TIMES), None if spec.num_classes is None else torch.tensor(LABELS))
    out.backward(torch.from_numpy(weight("cotangent", tuple(out.shape))).to(dtype))
    return part(out.detach()), part(x.grad)


@every_model
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-9)], ids=str)
def test_same_outputs_and_gradients(name, dtype, tolerance):
    expected = theirs(name)[1]
    output, gradient = run(name, dtype, MODELS[name][1].get("use_new_attention_order", False))
    assert (output - expected["output"]).abs().max() < tolerance * expected["output"].abs().max()
    assert (gradient - expected["gradient"]).abs().max() < tolerance * expected["gradient"].abs().max()


@pytest.mark.parametrize("name", ["guided_64", "guided_256"])
def test_the_two_orders_of_attention_are_not_the_same(name):
    wrong, _ = run(name, torch.float32, not MODELS[name][1].get("use_new_attention_order", False))
    assert (wrong - theirs(name)[1]["output"]).abs().max() > 1e-2


@every_model
def test_classes_have_no_null_row(name):
    spec = spec_of(name)
    assert spec.null_label == (spec.num_classes is None)
    if spec.num_classes is not None:
        assert theirs(name)[0]["label_emb.weight"].shape[0] == spec.num_classes == NUM_CLASSES


IMPROVED_256 = {"image_size": 256, "num_heads": 1, "use_scale_shift_norm": False, "attention_resolutions": "16"}
GUIDED = {"resblock_updown": True, "attention_resolutions": "32,16,8", "class_cond": True, "num_channels": 256}


@pytest.mark.parametrize(
    ("flags", "count"),
    [
        ({"image_size": 32, "num_res_blocks": 3}, 52_546_438),
        ({"image_size": 64, "num_res_blocks": 3}, 121_063_942),
        ({"image_size": 64, "num_res_blocks": 3, "num_channels": 192, "class_cond": True}, 273_049_350),
        (IMPROVED_256, 113_676_678),
        (
            GUIDED
            | {"image_size": 64, "num_channels": 192, "num_head_channels": 64, "num_res_blocks": 3}
            | {"use_new_attention_order": True},
            295_904_454,
        ),
        (GUIDED | {"image_size": 128, "num_heads": 4}, 421_529_606),
        (GUIDED | {"image_size": 256, "num_head_channels": 64}, 553_838_086),
        (GUIDED | {"image_size": 256, "num_head_channels": 64, "class_cond": False}, 552_814_086),
        (GUIDED | {"image_size": 512, "num_head_channels": 64}, 558_997_638),
    ],
    ids=lambda v: str(v) if isinstance(v, int) else "",
)
def test_parameter_counts_of_their_published_models(flags, count):
    """Counted with their code, from the flags of their READMEs."""
    shapes = from_openai_flags(flags | {"learn_sigma": True}).shapes()
    assert sum(int(np.prod(shape)) for shape in shapes.values()) == count


def test_flags_become_settings():
    spec = from_openai_flags({"use_checkpoint": True, "dropout": 0.1, "num_channels": 64, "channel_mult": "1,3"})
    assert spec == UNetSpec(
        config=UNetConfig(
            base_channels=64,
            channel_mult=(1, 3),
            attention_levels=(),
            num_heads=4,
            scale_shift_norm=True,
            downsample_padding="symmetric",
            time_order="cos_sin",
            time_denominator="half",
            dropout=0.1,
            norm_eps=1e-5,
            init="torch_zero",
            checkpointing=True,
        ),
        image_size=(64, 64),
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"num_head": 4}, "'num_head' is no flag of OpenAI's networks"),
        ({"num_heads_upsample": 2}, "as many heads up as down"),
        ({"image_size": 48}, "image_size = 48 implies no channel_mult"),
        ({"num_channels": 100}, "100 channels does not divide into 32 norm groups"),
    ],
    ids=str,
)
def test_flags_that_cannot_be(flags, message):
    with pytest.raises(UserError, match=message):
        from_openai_flags(flags)


def test_flags_without_effect():
    assert from_openai_flags({"use_fp16": True, "num_heads_upsample": 4}) == from_openai_flags(FLAGS)
    by_width = {"num_head_channels": 32, "num_heads_upsample": 2}
    assert from_openai_flags(by_width) == from_openai_flags({"num_head_channels": 32})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: w.pop("middle_block.1.qkv.weight"), "weight 'middle_block.1.qkv.weight' is missing"),
        (lambda w: w.update(ema=torch.ones(1)), r"weight 'ema' belongs to no part of the model \(1 in all\)"),
        (lambda w: w.update({"out.2.bias": torch.ones(3)}), r"'out.2.bias' has shape \(3,\), the model needs \(6,\)"),
    ],
)
def test_weights_that_do_not_fit(change, message):
    weights = dict(theirs("improved_cifar10")[0])
    change(weights)
    with pytest.raises(UserError, match=message):
        from_openai_weights(weights, spec_of("improved_cifar10"))


@pytest.mark.parametrize(
    ("ours", "theirs_"),
    [
        ("time_mlp.2.bias", "time_embed.2.bias"),
        ("class_embedding.table.weight", "label_emb.weight"),
        ("conv_in.weight", "input_blocks.0.0.weight"),
        ("down.0.blocks.1.emb_proj.weight", "input_blocks.2.0.emb_layers.1.weight"),
        ("down.0.resample.conv.bias", "input_blocks.3.0.op.bias"),
        ("down.1.attentions.0.k.weight", "input_blocks.4.1.qkv.weight"),
        ("down.1.blocks.0.shortcut.weight", "input_blocks.4.0.skip_connection.weight"),
        ("middle_attention.proj_out.bias", "middle_block.1.proj_out.bias"),
        ("up.0.resample.conv.bias", "output_blocks.2.1.conv.bias"),
        ("up.2.resample.conv.bias", "output_blocks.8.2.conv.bias"),
        ("up.3.blocks.2.conv2.bias", "output_blocks.11.0.out_layers.3.bias"),
        ("norm_out.weight", "out.0.weight"),
        ("conv_out.bias", "out.2.bias"),
    ],
)
def test_names(ours, theirs_):
    assert openai_name(ours, UNetConfig()) == theirs_


def test_their_middle_always_attends():
    with pytest.raises(UserError, match="always attend in the middle"):
        openai_name("conv_in.bias", UNetConfig(middle_attention=False))
