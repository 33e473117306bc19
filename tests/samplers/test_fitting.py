"""Batches by the memory that is free: as large as pays where there is plenty, smaller where a network needs more."""

import numpy as np
import psutil
import pytest
import torch

import undye
from tests.edit.models import LABELLED, images, near
from undye.config import ModelConfig, UNetConfig
from undye.denoiser import Denoiser
from undye.device import default_batch
from undye.metrics.inputs import check_inputs
from undye.samplers import fitting
from undye.samplers.fitting import features_of_one, fitting_batch, free_memory

CPU = torch.device("cpu")


def network(base: int = 32, **options) -> Denoiser:
    config = UNetConfig(base_channels=base, channel_mult=(1, 2), num_res_blocks=1, attention_levels=(), norm_groups=8)
    return Denoiser.from_config(ModelConfig(network=config, image_size=(32, 32), channels=3, **options))


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch):
    """Sets the memory that is free."""

    def set_to(size: int) -> None:
        monkeypatch.setattr(fitting, "free_memory", lambda device: size)

    return set_to


def test_where_there_is_plenty_nothing_is_computed(free, monkeypatch):
    made = network()
    monkeypatch.setattr(type(made.network), "forward", lambda *_: pytest.fail("asked the network"))
    free(2**40)
    assert fitting_batch(made) == default_batch(32, 32) == 256


@pytest.mark.parametrize("options", [{}, {"num_classes": 3}, {"num_classes": 3, "null_label": False}])
def test_half_of_what_is_free_holds_a_batch(free, options):
    made = network(**options).train()
    each = features_of_one(made)
    # 22 layers or so of 32 to 64 channels at 32x32 and 16x16, in float32
    assert 1e6 < each < 2e7
    assert features_of_one(network(base=64, **options)) == pytest.approx(2 * each, rel=0.05)
    free(20 * each)
    assert fitting_batch(made) == 10
    free(3 * each)
    assert fitting_batch(made) == 1
    free(0)
    assert fitting_batch(made) == 1
    assert made.training


def test_what_was_measured_is_of_that_size_and_type(free):
    made = network()
    small = Denoiser(made.network, ModelConfig(network=made.config.network, image_size=(8, 8), channels=3))
    each = features_of_one(small)
    assert features_of_one(made) == pytest.approx(16 * each, rel=0.02)
    assert features_of_one(small) == each
    made.double()
    assert features_of_one(small) == pytest.approx(2 * each, rel=0.02)


def test_one_image_is_not_measured(free, monkeypatch):
    made = network()
    free(0)
    monkeypatch.setattr(type(made.network), "forward", lambda *_: pytest.fail("asked the network"))
    assert fitting_batch(made, 1) == 256
    with pytest.raises(undye.UserError, match="steps"):  # what is wrong is said first
        undye.sample(made, 4, steps=-1)


def test_more_memory_never_means_a_smaller_batch(free):
    made, sizes = network(), []
    for size in range(16, 40):
        free(2**size)
        sizes.append(fitting_batch(made))
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[-1]) == (1, 256)


def test_what_is_made_does_not_depend_on_it(free):
    x = images(4, 1)

    def results() -> list[np.ndarray]:
        return [
            undye.sample(LABELLED, 5, steps=3, label=1),
            undye.img2img(LABELLED, x, steps=3, label=1),
            np.stack(undye.progressive(LABELLED, 3, 3, steps=3, label=1)),
        ]

    whole = results()
    free(8 * features_of_one(LABELLED))
    for a, b in zip(whole, results(), strict=True):
        assert near(a, b)
    inputs = check_inputs(LABELLED, x, 1)
    assert inputs.batch_size(LABELLED, None) == 4
    assert inputs.batch_size(LABELLED, 7) == 7


def test_a_network_that_cannot_draw_one(free, monkeypatch):
    made = network()

    def full(*_):
        raise MemoryError

    monkeypatch.setattr(type(made.network), "forward", full)
    free(2**20)
    assert fitting_batch(made) == 1
    with pytest.raises(undye.UserError, match="not enough memory for a single image"):
        undye.sample(made, 2, steps=2)


def test_a_network_in_several_processes_has_one_size_everywhere(free):
    made = network()
    made.network.reshard = lambda: None  # what FSDP2 adds
    free(0)
    assert fitting_batch(made) == 256


def test_a_container_has_less_than_the_machine(monkeypatch, tmp_path):
    monkeypatch.setattr(fitting, "_CGROUP", tmp_path)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)

    class Memory:
        available = 8_000

    monkeypatch.setattr(psutil, "virtual_memory", Memory)
    assert free_memory(CPU) == 8_000
    (tmp_path / "memory.current").write_text("1000\n")
    (tmp_path / "memory.stat").write_text("anon 300\nfile 700\ninactive_file 100\nactive_file 50\n")
    for limit, expected in (("max", 8_000), ("5000", 4_150), ("500", 0), ("no number", 8_000)):
        (tmp_path / "memory.max").write_text(limit + "\n")
        assert free_memory(CPU) == expected
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert free_memory(CPU) == 2_000
