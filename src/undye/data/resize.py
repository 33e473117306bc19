"""Resize + crop: the picture is scaled to just cover the asked size, and a part of it is cut out. No squash."""

from PIL import Image

from undye.data.colour import TooSmallError
from undye.data.names import show_size

CENTRE = (0.5, 0.5)


def crop_box(
    size: tuple[int, int], target: tuple[int, int], at: tuple[float, float] = CENTRE
) -> tuple[float, float, float, float]:
    """The largest box (left, top, right, bottom) inside `size` with the aspect of `target`.

    Both sizes are (height, width). `at`, two numbers in [0, 1), is where among its places it lies, down and across:
    in the middle unless told otherwise. The corner is a whole pixel, so that a crop without scaling copies pixels and
    does not blur them by half of one.
    """
    height, width = size
    target_height, target_width = target
    if width * target_height >= height * target_width:
        box_height, box_width = float(height), height * target_width / target_height
    else:
        box_height, box_width = width * target_height / target_width, float(width)
    down, across = at
    left, top = _corner(width - box_width, across), _corner(height - box_height, down)
    return left, top, left + box_width, top + box_height


def _corner(room: float, at: float) -> float:
    """One of the whole pixels 0, 1, ..., floor(room), all as likely for a uniform `at`; of two middles the first."""
    return float(room // 2) if at == 0.5 else float(min(int(at * (int(room) + 1)), int(room)))


def check_large_enough(size: tuple[int, int], target: tuple[int, int], upscale: bool) -> None:
    """Raises unless both sides of `size` reach those of `target`, or enlarging was asked for.

    Raises:
        TooSmallError: says by how much.
    """
    if not upscale and (size[0] < target[0] or size[1] < target[1]):
        raise TooSmallError(f"{show_size(size)} is smaller than {show_size(target)} (height x width)")


def fit(image: Image.Image, target: tuple[int, int], at: tuple[float, float] = CENTRE) -> Image.Image:
    """Resizes (antialiased, Lanczos) and crops an L or RGB `image` to exactly `target`, (height, width)."""
    box = crop_box((image.height, image.width), target, at)
    return image.resize((target[1], target[0]), Image.Resampling.LANCZOS, box=box)
