import torch

from undye import keyed
from undye.keyed import Stream
from undye.samplers import SampleNoise

LIKE = torch.zeros(1, 3, 4, 4)


def test_a_samples_noise_does_not_depend_on_its_batch():
    batch, alone = SampleNoise(7, range(10, 20)), SampleNoise(7, [13])
    for _ in range(3):
        assert torch.equal(batch(LIKE.expand(10, 3, 4, 4))[3:4], alone(LIKE))


def test_draws_samples_and_seeds_differ():
    noise = SampleNoise(7, [0, 1])
    first, second = noise(LIKE.expand(2, 3, 4, 4)), noise(LIKE.expand(2, 3, 4, 4))
    other = SampleNoise(8, [0, 1])(LIKE.expand(2, 3, 4, 4))
    values = torch.cat([first, second, other]).flatten(1)
    assert (torch.cdist(values, values) + 9 * torch.eye(6)).min() > 1


def test_is_the_keyed_draw():
    noise = SampleNoise(7, [5])
    noise(LIKE)
    assert torch.equal(noise(LIKE)[0], keyed.normal((3, 4, 4), 7, Stream.SAMPLE_NOISE, 5, 1))
    assert torch.equal(noise.draw((3, 4, 4), 1)[0], keyed.normal((3, 4, 4), 7, Stream.SAMPLE_NOISE, 5, 1))


def test_takes_the_dtype():
    for dtype in (torch.float64, torch.bfloat16):
        assert SampleNoise(7, [5])(LIKE.to(dtype)).dtype == dtype
    torch.testing.assert_close(SampleNoise(7, [5])(LIKE.double()), SampleNoise(7, [5])(LIKE).double())
