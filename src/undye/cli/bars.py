"""Progress of a command that does several things in turn: a bar for each."""

from types import TracebackType

from undye.cli.progress import Progress

UNITS = {"drawing": "samples", "loading": "images", "ode": "images", "comparing": "images", "nll": "network calls",
         "rate-distortion": "network calls"}  # fmt: skip


class Bars:
    """Called with (what is done, done, total)."""

    def __init__(self, quiet: bool = False):
        self.quiet = quiet
        self._bars: dict[str, Progress] = {}

    def __enter__(self) -> "Bars":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Leave the terminal clean."""
        for bar in self._bars.values():
            bar.close()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show that `done` of `total` are done; the same thing may be done again after its end."""
        if what not in self._bars:
            unit = UNITS.get(what, "images" if what.startswith("features") else "parts")
            self._bars[what] = Progress(what, unit, quiet=self.quiet)
        self._bars[what](done, total)
        if done >= total:
            self._bars.pop(what).close()
