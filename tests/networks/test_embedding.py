import math

import pytest
import torch

from undye.networks.embedding import ClassEmbedding, sinusoidal


@pytest.mark.parametrize("dim", [4, 64, 128])
def test_sinusoidal_by_hand(dim):
    times = [0.0, 1.0, 17.5, 999.0]
    got = sinusoidal(torch.tensor(times), dim)
    half = dim // 2
    for row, t in zip(got, times, strict=True):
        for i in range(half):
            angle = t * math.exp(-math.log(1e4) * i / (half - 1))
            assert row[i].item() == pytest.approx(math.sin(angle), abs=2e-4)
            assert row[half + i].item() == pytest.approx(math.cos(angle), abs=2e-4)
    assert got[0].tolist() == [0.0] * half + [1.0] * half


def test_frequencies_run_from_1_to_1e_minus_4():
    got = sinusoidal(torch.tensor([1.0]), 8)[0]
    assert got[0].item() == pytest.approx(math.sin(1))
    assert got[3].item() == pytest.approx(1e-4, rel=1e-4)


def test_no_two_timesteps_look_alike():
    rows = sinusoidal(torch.arange(1000.0), 64)
    assert (torch.cdist(rows, rows) + 9 * torch.eye(1000)).min() > 0.1


def test_class_embedding_has_a_row_for_none():
    table = ClassEmbedding(3, 5)
    assert table.table.weight.shape == (4, 5)
    assert torch.equal(table(None, 2), table.table.weight[[3, 3]])
    assert torch.equal(table(torch.tensor([2, 0]), 2), table.table.weight[[2, 0]])
