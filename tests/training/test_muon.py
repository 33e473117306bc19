"""Muon: the direction is orthogonal, its length is Adam's, and only inner convolutions get it."""

from dataclasses import replace

import pytest
import torch

from undye.denoiser import Denoiser
from undye.training.muon import Muon, orthogonalise
from undye.training.optimizers import make_optimizers
from undye.training.run import RunConfig, TrainingConfig


@pytest.mark.parametrize("shape", [(16, 16), (8, 90), (90, 8), (1, 5)])
def test_singular_values_come_near_one_and_directions_stay(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, dtype=torch.float64)
    out = orthogonalise(matrix[None])[0]
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    kept = s / s.max() > 0.05  # five iterations lift small ones only so far
    values = torch.diagonal(u.mT @ out @ vh.mT)[kept]
    assert bool(((values > 0.6) & (values < 1.3)).all())
    mixed = u.mT @ out @ vh.mT
    torch.testing.assert_close(mixed, torch.diag(torch.diagonal(mixed)), rtol=0, atol=1e-9)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_step_by_hand(layout: torch.memory_format) -> None:
    weight = torch.randn(6, 5, 3, 3, dtype=torch.float64).to(memory_format=layout).requires_grad_()
    before = weight.detach().clone()
    optimizer = Muon([weight], lr=0.1, momentum=0.9, dtype=torch.float64)
    average = torch.zeros(6, 5, 3, 3, dtype=torch.float64)
    for _ in range(3):
        gradient = torch.randn(6, 5, 3, 3, dtype=torch.float64)
        weight.grad = gradient.clone()
        optimizer.step()
        average = 0.9 * average + 0.1 * gradient
        ahead = 0.1 * gradient + 0.9 * average
        before -= 0.1 * 0.2 * 45**0.5 * orthogonalise(ahead.reshape(1, 6, 45)).reshape(6, 5, 3, 3)
        torch.testing.assert_close(weight.detach(), before)


def test_the_length_of_a_step_is_that_of_adam() -> None:
    weight = torch.zeros(64, 32, 3, 3, requires_grad=True)
    weight.grad = torch.randn(64, 32, 3, 3)
    Muon([weight], lr=1.0).step()
    assert 0.12 < weight.detach().square().mean().sqrt().item() < 0.3


def test_who_optimises_what(quiet: RunConfig) -> None:
    model = replace(quiet.model, image_size=(8, 8), channels=1, num_classes=2)
    denoiser = Denoiser.from_config(model)
    adam, muon = make_optimizers(denoiser, TrainingConfig(optimizer="muon"))
    names = {id(p): n for n, p in denoiser.named_parameters()}
    by_muon = {names[id(p)] for p in muon.param_groups[0]["params"]}
    by_adam = {names[id(p)] for p in adam.param_groups[0]["params"]}
    assert by_muon | by_adam == set(names.values())
    assert not by_muon & by_adam
    assert "network.middle.blocks.0.conv1.weight" in by_muon
    assert {"network.stem.weight", "network.head.weight", "network.middle.blocks.0.conv1.bias"} <= by_adam
    assert len(make_optimizers(denoiser, TrainingConfig())) == 1


def test_the_iteration_is_the_plain_newton_schulz() -> None:
    matrix = torch.randn(12, 40, dtype=torch.float64)
    x = matrix / matrix.norm()
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    torch.testing.assert_close(orthogonalise(matrix[None])[0], x, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rank", [1, 3, 128])
def test_it_stays_bounded_in_every_arithmetic_and_rank(dtype: torch.dtype, rank: int) -> None:
    # gradients are often nearly of low rank, and rounding makes eigenvalues of the Gram matrix negative
    matrix = torch.randn(1, 128, rank) @ torch.randn(1, rank, 1152) + 1e-4 * torch.randn(1, 128, 1152)
    out = orthogonalise(matrix.to(dtype))[0].float()
    assert torch.linalg.matrix_norm(out, ord=2).item() < 1.4
    assert bool(orthogonalise(torch.zeros(1, 8, 20, dtype=dtype)).isfinite().all())
