"""What could not be used of a data set: every file named, and an error above the stated fraction."""

import os
from dataclasses import dataclass
from pathlib import Path

from undye.errors import TooManyBadImages

MAX_BAD_FRACTION = 0.05


def show_path(path: str | os.PathLike[str]) -> str:
    """A path on one printable line: a file name may hold newlines, terminal escapes and bytes that are no text."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in os.fspath(path))


@dataclass(frozen=True)
class BadFile:
    """An image that cannot be used, and why."""

    path: Path
    reason: str
    too_small: bool = False  # readable, and usable with `--upscale`

    def __str__(self) -> str:
        return f"{show_path(self.path)}: {self.reason}"


@dataclass(frozen=True)
class LoadReport:
    """How the loading went.

    Attributes:
        total: images found, the bad ones included.
        bad: those that cannot be used.
    """

    total: int
    bad: tuple[BadFile, ...] = ()

    def lines(self, limit: int | None = 100) -> list[str]:
        """For the log: a heading, then the files by name; the list ends with a count after `limit` (None: never)."""
        if not self.bad:
            return []
        shown = self.bad[:limit]
        lines = [f"skipped {len(self.bad):,} of {self.total:,} images:", *(f"  {bad}" for bad in shown)]
        if len(shown) < len(self.bad):
            lines.append(f"  and {len(self.bad) - len(shown):,} more")
        return lines

    def check(self, max_bad_fraction: float) -> None:
        """Raises unless there are good images and the bad ones are at most `max_bad_fraction` of all.

        Raises:
            TooManyBadImages: names the first few, and `--upscale` where small images are among them.
        """
        if len(self.bad) < self.total and len(self.bad) <= max_bad_fraction * self.total:
            return
        rest = f"; and {len(self.bad) - 3:,} more" if len(self.bad) > 3 else ""
        small = sum(bad.too_small for bad in self.bad)
        advice = f". {small:,} are too small: pass --upscale, or a smaller --image-size" if small else ""
        raise TooManyBadImages(
            f"{len(self.bad):,} of {self.total:,} images cannot be used (allowed: {max_bad_fraction:.0%}): "
            f"{'; '.join(map(str, self.bad[:3]))}{rest}{advice}"
        )
