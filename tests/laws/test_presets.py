"""What every preset keeps."""

import pytest
import torch

from undye.config import ModelConfig
from undye.denoiser import Denoiser, build_schedule
from undye.errors import UserError
from undye.presets import MODEL_PRESETS, model_preset
from undye.structure import structure, unstructure

every_preset = pytest.mark.parametrize("name", MODEL_PRESETS)


@every_preset
def test_builds_with_and_without_classes(name):
    config = MODEL_PRESETS[name]
    with torch.device("meta"):
        plain, labelled = Denoiser.from_preset(name), Denoiser.from_preset(name, num_classes=10)
    sizes = [sum(p.numel() for p in d.parameters()) for d in (plain, labelled)]
    assert sizes[0] < sizes[1]
    assert plain.config == config
    assert labelled.config.num_classes == 10
    assert plain.schedule.num_steps == build_schedule(config.schedule).num_steps == config.schedule.num_steps


@every_preset
def test_goes_to_plain_data_and_back(name):
    config = MODEL_PRESETS[name]
    assert structure(ModelConfig, unstructure(config), name) == config


@every_preset
def test_takes_the_datas_shape(name):
    config = model_preset(name, image_size=(20, 12), channels=1)
    assert (config.image_size, config.channels, config.num_classes) == ((20, 12), 1, None)
    assert model_preset(name) == MODEL_PRESETS[name]


def test_unknown_name_is_answered_with_a_guess():
    with pytest.raises(UserError, match="did you mean 'ddpm-cifar10'"):
        Denoiser.from_preset("ddpm-cifar")
