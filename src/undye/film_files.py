"""A process as a film: GIF, APNG and MP4 play it, a PNG shows it as a strip."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from undye.errors import UserError
from undye.files import atomic_path
from undye.pictures import check_place, enlarge, make_grid, save_png, to_pil
from undye.provenance import Provenance, text_chunks

FILMS = (".gif", ".apng", ".mp4", ".png")
_RATE = 25
"""Pictures a second of an MP4; each state is shown for several of them."""


def check_film(out: Path) -> None:
    """Catch an unusable film name before the sampling.

    Raises:
        UserError: for another ending, or a place that cannot be written to; for .mp4 where PyAV is not installed.
    """
    if out.suffix.lower() not in FILMS or out.is_dir():
        endings = ", ".join(FILMS[:-1]) + f" or {FILMS[-1]}"
        raise UserError(f"cannot write the film {out}: its name must end in {endings}, and no folder may have it")
    if out.suffix.lower() == ".mp4":
        _av()
    check_place(out)


def save_film(
    frames: Sequence[UInt8[np.ndarray, "n h w c"]],
    out: Path,
    seconds: float = 4.0,
    last_seconds: float = 2.0,
    provenance: Provenance | None = None,
) -> None:
    """Write the states of a process.

    .gif, .apng and .mp4 play them as grids; .png shows them as a strip, a row per image, the start on the left.

    Args:
        frames: the states, each of the same images.
        out: the file.
        seconds: how long it plays.
        last_seconds: how long the last state, where it ends, stays on.
        provenance: kept in a .png or .apng.

    Raises:
        UserError: see `check_film`.
    """
    check_film(out)
    kind = out.suffix.lower()
    if kind == ".png":
        strip = np.stack(frames, axis=1)
        sheet = make_grid(strip.reshape(-1, *strip.shape[2:]), columns=len(frames))
        save_png(enlarge(sheet, 256), out, provenance)
        return
    pages = [enlarge(make_grid(frame), 256) for frame in frames]
    durations = [seconds / len(pages)] * (len(pages) - 1) + [last_seconds]
    with atomic_path(out) as temporary:
        if kind == ".mp4":
            _write_mp4(pages, durations, temporary)
            return
        first, *rest = (to_pil(page) for page in pages)
        times = [round(1000 * d) for d in durations]
        more = {"pnginfo": text_chunks(provenance)} if kind == ".apng" else {}
        first.save(
            temporary, format="GIF" if kind == ".gif" else "PNG", save_all=True, append_images=rest, duration=times,
            loop=0, **more,
        )  # fmt: skip


def _write_mp4(pages: Sequence[UInt8[np.ndarray, "h w c"]], durations: Sequence[float], out: Path) -> None:
    """H.264 with 4:2:0 colours: what every browser and telephone plays. Its sides must be even."""
    av = _av()
    with av.open(str(out), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=_RATE, options={"crf": "16"})
        height, width = (n + n % 2 for n in pages[0].shape[:2])
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for page, duration in zip(pages, durations, strict=True):
            colour = np.broadcast_to(page, (*page.shape[:2], 3))
            even = np.pad(colour, ((0, height - page.shape[0]), (0, width - page.shape[1]), (0, 0)), mode="edge")
            for _ in range(max(1, round(_RATE * duration))):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")))
        container.mux(stream.encode())


def _av() -> Any:
    try:
        import av
    except ImportError:
        raise UserError("an .mp4 needs the package av: pip install 'undye[video]', or write a .gif or .apng") from None
    return av
