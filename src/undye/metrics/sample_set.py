"""The samples that a model is measured on: drawn once, kept in a folder, gone on with after an interruption.

A folder holds chunks of images, `0000000-0000256-HASH.npy`, and manifest.json, the recipe. The hash is of the recipe's
and of the file's bytes: a chunk that is damaged, or of another recipe, is found out and drawn again. Sample i is a
function of the recipe and i, so a larger set begins with a smaller one, and the metrics of a later day find their
samples there.
"""

import hashlib
import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Int64, UInt8

from undye.data.report import LoadReport
from undye.data.source import ImageSource, Indices
from undye.denoiser import Denoiser
from undye.errors import UserError
from undye.files import atomic_path, write_text
from undye.metrics.recipe import Recipe, balanced_labels
from undye.metrics.versions import versions
from undye.sampling import SampleRequest, batches, sample
from undye.world import World

MANIFEST = "manifest.json"
_NAME = re.compile(r"(\d{7,})-(\d{7,})-([0-9a-f]{64})\.npy")


def chunk_size(height: int, width: int) -> int:
    """Images in a chunk, which is what an interruption may lose: 256 small ones, fewer large ones."""
    return min(256, max(16, 2**22 // (height * width)))


@dataclass(frozen=True)
class Chunk:
    """Samples `start` to `stop` in the file `path`, whose name ends in `hash`."""

    start: int
    stop: int
    path: Path
    hash: str

    @classmethod
    def of(cls, path: Path) -> "Chunk | None":
        """The chunk that a file's name says it is."""
        match = _NAME.fullmatch(path.name)
        return None if match is None else cls(int(match[1]), int(match[2]), path, match[3])


class SampleSet(ImageSource):
    """Samples 0 to n-1 of a recipe, as a source of images.

    Attributes:
        folder: where they are kept.
        recipe: what they are.
        kept: how many of them were there already.
        damaged: how many files were not what had been written, and were removed.
    """

    def __init__(self, folder: Path, recipe: Recipe, n: int, shape: tuple[int, int, int], labels: np.ndarray | None):
        """Of what is in a folder already.

        Args:
            folder: made if it is not there.
            recipe: of the samples.
            n: how many are wanted; `missing` says which of them are not there yet.
            shape: of an image, (H, W, C).
            labels: (n,) or None.
        """
        self.name, self.folder, self.recipe, self._n, self._labels = "samples", folder, recipe, n, labels
        self.image_size, self.channels, self.class_names = (shape[0], shape[1]), shape[2], None
        if labels is not None:
            self.class_names = tuple(str(k) for k in range(labels.max() + 1))
        self._shape, self._open = shape, (-1, np.empty(0, np.uint8))
        folder.mkdir(parents=True, exist_ok=True)
        manifest = {"recipe": recipe.as_json(), "hash": recipe.hash, "written_by": versions()}
        write_text(folder / MANIFEST, json.dumps(manifest, indent=2) + "\n")
        self._chunks, self.damaged = self._found()
        self.kept = n - sum(stop - start for start, stop in self.missing())

    @property
    def report(self) -> LoadReport:
        """All of them are good."""
        return LoadReport(total=self._n)

    def __len__(self) -> int:
        return self._n

    def images(self, indices: Indices) -> UInt8[np.ndarray, "n h w c"]:
        """The samples at `indices`, a new array.

        Raises:
            UserError: a file has been damaged since it was checked.
        """
        out = np.empty((len(indices), *self._shape), np.uint8)
        of = np.searchsorted([chunk.start for chunk in self._chunks], indices, side="right") - 1
        for k in np.unique(of):
            out[of == k] = self._content(int(k))[np.asarray(indices)[of == k] - self._chunks[k].start]
        return out

    def labels(self, indices: Indices) -> Int64[np.ndarray, " n"] | None:
        """The classes that they were drawn with; None of a model without."""
        return None if self._labels is None else self._labels[indices]

    def names(self, indices: Indices) -> list[str]:
        """Their numbers."""
        return [f"sample {i}" for i in indices]

    def missing(self) -> list[tuple[int, int]]:
        """Stretches (start, stop) that are not there, cut where chunks meet."""
        gaps, at = [], 0
        for chunk in self._chunks:
            gaps += self._pieces(at, chunk.start)
            at = chunk.stop
        return gaps + self._pieces(at, self._n)

    def add(self, start: int, images: UInt8[np.ndarray, "n h w c"]) -> None:
        """Write samples that were drawn, whole or not at all."""
        buffer = io.BytesIO()
        np.save(buffer, images, allow_pickle=False)
        data, stop = buffer.getvalue(), start + len(images)
        digest = self._hash(data)
        path = self.folder / f"{start:07d}-{stop:07d}-{digest}.npy"
        with atomic_path(path) as temporary:
            temporary.write_bytes(data)
        self._chunks = sorted([*self._chunks, Chunk(start, stop, path, digest)], key=lambda c: c.start)

    def _pieces(self, start: int, stop: int) -> list[tuple[int, int]]:
        """A gap in pieces that end where chunks do, so that whatever was there before, the same batches are drawn."""
        size = chunk_size(*self.image_size)
        cuts = range((start // size + 1) * size, stop, size)
        return list(pairwise([start, *cuts, stop])) if start < stop else []

    def _found(self) -> tuple[list[Chunk], int]:
        """The good chunks of the first n samples; and how many were not good, which are removed."""
        there = [chunk for path in self.folder.iterdir() if (chunk := Chunk.of(path)) is not None]
        chunks, damaged, at = list[Chunk](), 0, 0
        for chunk in sorted(there, key=lambda c: (c.start, -c.stop)):
            # two evaluations at a time, of other sizes, may have drawn the same samples in chunks that overlap
            if chunk.start >= self._n or chunk.start < at:
                continue
            if self._read(chunk) is None:
                chunk.path.unlink(missing_ok=True)
                damaged += 1
            else:
                chunks.append(chunk)
                at = chunk.stop
        return chunks, damaged

    def _content(self, k: int) -> np.ndarray:
        """The images of chunk number k; the last one stays in memory."""
        if self._open[0] != k:
            images = self._read(self._chunks[k])
            if images is None:
                raise UserError(f"{self._chunks[k].path} has been damaged meanwhile: start again, it is drawn anew")
            self._open = (k, images)
        return self._open[1]

    def _read(self, chunk: Chunk) -> np.ndarray | None:
        try:
            data = chunk.path.read_bytes()
            if self._hash(data) != chunk.hash:
                return None
            images = np.load(io.BytesIO(data), allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None
        fits = images.dtype == np.uint8 and images.shape == (chunk.stop - chunk.start, *self._shape)
        return images if fits else None

    def _hash(self, data: bytes) -> str:
        return hashlib.sha256(self.recipe.hash.encode() + data).hexdigest()


def draw(
    denoiser: Denoiser,
    request: SampleRequest,
    folder: Path,
    *,
    weights: str | None = None,
    world: World | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> SampleSet | None:
    """The samples 0 to n-1 of a request: those that a folder has, and the others drawn into it.

    Args:
        denoiser: the model.
        request: how; a model with classes draws sample i of class i mod K, whatever `request.label`.
        folder: holds sets of samples, each in a folder named by its recipe.
        weights: which of a checkpoint's the model has, for the recipe.
        world: the processes that share the work; None: this one does it alone. The main one has the folder.
        progress: called with (samples that are there, n).

    Returns:
        The set in the main process, None in the others.

    Raises:
        UserError: for a sampler, steps or a grid that the model cannot use; or a folder that cannot be written to.
    """
    world = world or World.alone()
    for x_T, _ in batches(denoiser, replace(request, n=1, label=balanced_labels(denoiser, 0, 1))):
        shape = (x_T.shape[2], x_T.shape[3], x_T.shape[1])  # nothing is drawn: the settings were all checked
        break

    def begin() -> tuple[SampleSet, list[tuple[int, int]]]:
        recipe = Recipe.of(denoiser, request, weights)
        labels = balanced_labels(denoiser, 0, request.n)
        try:
            found = SampleSet(folder / recipe.hash[:16], recipe, request.n, shape, labels)
        except OSError as error:
            raise UserError(f"cannot keep samples in {folder}: {error.strerror}") from None
        return found, found.missing()

    there = begin() if world.is_main else None
    missing = world.broadcast(None if there is None else there[1])
    assert missing is not None
    total, done = sum(stop - start for start, stop in missing), 0
    for first in range(0, len(missing), world.size):
        turn = missing[first : first + world.size]
        images = None
        if world.rank < len(turn):
            start, stop = turn[world.rank]
            share = sum(b - a for a, b in turn)

            def tick(calls: int, of: int, share: int = share, before: int = request.n - total + done) -> None:
                if progress is not None:
                    progress(before + share * calls // of, request.n)

            label = balanced_labels(denoiser, start, stop)
            part = replace(request, n=stop - start, first_index=start, label=label)
            images = sample(denoiser, **vars(part), progress=tick)
        parts = world.collect(images)
        done += sum(b - a for a, b in turn)
        if there is not None and parts is not None:
            for (start, _), drawn in zip(turn, parts, strict=False):
                assert drawn is not None
                there[0].add(start, drawn)
    if there is None:
        return None
    if progress is not None:
        progress(request.n, request.n)
    return there[0]
