import numpy as np
import pytest
import torch

from undye.data import to_signed, to_uint8
from undye.errors import UserError

LEVELS = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)


def test_every_level_comes_back():
    assert np.array_equal(to_uint8(to_signed(LEVELS)), LEVELS)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_every_level_comes_back_through_other_floats(dtype):
    assert np.array_equal(to_uint8(to_signed(LEVELS).to(dtype)), LEVELS)


def test_ends_and_layout():
    images = np.zeros((2, 3, 4, 3), dtype=np.uint8)
    images[1, 2, 3] = (255, 0, 51)
    x = to_signed(images)
    assert x.shape == (2, 3, 3, 4)
    assert x.dtype == torch.float32
    assert x.is_contiguous()
    torch.testing.assert_close(x[1, :, 2, 3], torch.tensor([1.0, -1.0, -0.6]))
    assert torch.equal(to_signed(torch.from_numpy(images)), x)


def test_rounds_to_nearest_and_clamps():
    levels = torch.tensor([-9.0, 0.4, 0.6, 99.4, 99.6, 254.4, 254.6, 400.0])
    x = (levels / 127.5 - 1).reshape(1, 1, 1, -1)
    assert to_uint8(x).ravel().tolist() == [0, 0, 1, 99, 100, 254, 255, 255]


def test_inputs_stay_and_may_be_read_only():
    images = LEVELS.copy()
    images.flags.writeable = False
    to_signed(images).zero_()
    flipped = to_signed(images[:, :, ::-1])
    assert np.array_equal(images, LEVELS)
    assert np.array_equal(to_uint8(flipped), LEVELS[:, :, ::-1])
    tensor = torch.from_numpy(LEVELS.copy())
    to_signed(tensor).zero_()
    assert np.array_equal(tensor.numpy(), LEVELS)


def test_nan_is_an_error():
    with pytest.raises(UserError, match="NaN"):
        to_uint8(torch.full((1, 1, 2, 2), float("nan")))
