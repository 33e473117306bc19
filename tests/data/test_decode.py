import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from undye.data import decode
from undye.data.colour import BadImageError
from undye.data.decode import read_header, read_pixels
from undye.data.workers import quiet_pillow


def png_16_bit(colour_type: int, samples: bytes, width: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, 1, 16, colour_type, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" + samples)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(
    ("suffix", "options"),
    [("png", {}), ("bmp", {}), ("tiff", {}), ("webp", {"lossless": True}), ("gif", {}), ("jpg", {"quality": 95})],
)
@pytest.mark.parametrize("size", [(8, 8), (6, 10)])
def test_every_format(save, suffix, options, size):
    pixels = np.full((*size, 3), (0, 128, 255), dtype=np.uint8)
    path = save(f"a.{suffix}", pixels, **options)
    got = read_pixels(path, size)
    assert read_header(path).size == size
    assert np.abs(got.astype(int) - pixels).max() <= (4 if suffix == "jpg" else 0)


def test_16_bit_png(save):
    values = [0, 128, 129, 256, 385, 386, 65535]
    grey = save("g.png", png_16_bit(0, struct.pack(">7H", *values), 7))
    assert read_header(grey).grey
    assert read_pixels(grey, (1, 7)).ravel().tolist() == [0, 0, 1, 1, 1, 2, 255]
    colour = save("c.png", png_16_bit(2, struct.pack(">21H", *(v for v in values for _ in range(3))), 7))
    assert read_pixels(colour, (1, 7))[0, :, 0].tolist() == [0, 0, 0, 1, 1, 1, 255]  # Pillow keeps the high byte


def test_the_content_counts_not_the_name(save):
    path = save("a.png")
    assert np.array_equal(
        read_pixels(path.rename(path.with_suffix(".jpg")), (8, 8)), read_pixels(save("a.png"), (8, 8))
    )


@pytest.mark.parametrize("suffix", ["gif", "tiff"])
def test_first_frame(save, suffix):
    frames = [Image.new("L", (4, 4), v) for v in (10, 200)]
    path = save(f"a.{suffix}", frames[0], save_all=True, append_images=frames[1:])
    assert (read_pixels(path, (4, 4)) == 10).all()


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_orientation_is_applied(save, suffix, orientation):
    upright = np.zeros((16, 32), dtype=np.uint8)
    upright[:, :8] = 255  # the left end is white
    exif = Image.Exif()
    exif[0x0112] = orientation
    turns = {1: 0, 3: 2, 6: 1, 8: 3}[orientation]
    path = save(f"a.{suffix}", np.rot90(upright, turns).copy(), exif=exif)
    assert read_header(path).size == (16, 32)
    got = read_pixels(path, (16, 32))
    assert got[:, :6].min() > 240
    assert got[:, 10:].max() < 15


def test_unreadable_exif_is_ignored(save):
    path = save("a.png", exif=b"Exif\0\0garbage")
    assert read_header(path).size == (8, 8)
    assert read_pixels(path, (8, 8)).shape == (8, 8, 3)


def test_large_jpegs_keep_their_quality(save):
    y, x = np.mgrid[:640, :960]
    pixels = ((np.sin(y / 6) * np.cos(x / 9) + 1) * 127).astype(np.uint8)
    path = save("a.jpg", pixels, quality=95)
    reference = Image.fromarray(pixels[:, 160:800]).resize((160, 160), Image.Resampling.LANCZOS)
    assert np.abs(read_pixels(path, (160, 160))[..., 0].astype(int) - np.asarray(reference)).max() <= 3


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp", "gif", "tiff"])
def test_cut_short(save, suffix):
    path = save(f"a.{suffix}", size=(64, 64))
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(BadImageError):
        read_pixels(path, (64, 64))


@pytest.mark.parametrize(("content", "reason"), [(b"", "empty"), (b"<html>no such picture</html>", "not an image")])
def test_no_image(save, content, reason):
    with pytest.raises(BadImageError, match=reason):
        read_header(save("a.jpg", content))


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp", "gif", "tiff"])
@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30, deadline=None)
def test_damage_anywhere_is_a_bad_image_or_none(save, suffix, data):
    path = save(f"a.{suffix}", size=(24, 24))
    content = bytearray(path.read_bytes())
    for _ in range(3):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with contextlib.suppress(BadImageError), quiet_pillow():
        read_header(path)
        assert read_pixels(path, (5, 7)).shape[:2] == (5, 7)


def test_missing_file(tmp_path):
    with pytest.raises(BadImageError, match=r"^No such file"):
        read_header(tmp_path / "gone.png")


def test_other_formats_are_not_tried(save):
    buffer = io.BytesIO()
    Image.new("L", (4, 4)).save(buffer, "PPM")
    with pytest.raises(BadImageError, match="not an image"):
        read_header(save("a.png", buffer.getvalue()))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [9_500, 20_000])  # Pillow warns of the first and refuses the second
def test_decompression_bomb(save, side):
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    bomb = save("a.png", b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + b"\0\0\0\0")
    before = Image.MAX_IMAGE_PIXELS
    with pytest.raises(BadImageError, match="decompression bomb") as error:
        read_header(bomb)
    assert str(side**2) in str(error.value).replace(",", "")
    assert Image.MAX_IMAGE_PIXELS == before == decode.MAX_PIXELS
