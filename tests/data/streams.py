"""Streams to be read in tests: shards on the disk, as the hub has them."""

import io
from pathlib import Path

import numpy as np
from PIL import Image


def png(value: int, shape: tuple[int, ...] = (8, 8)) -> bytes:
    """An image of one value, its left half dark."""
    pixels = np.full(shape, value, dtype=np.uint8)
    pixels[:, : shape[1] // 2] = 0
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def write_shards(folder: Path, *counts: int, bad: tuple[int, ...] = (), labels: bool = True) -> Path:
    """Parquet files of so many rows each: row number k of all shows 10 + 2 k, in class k % 2; `bad` ones are cut."""
    import datasets

    folder.mkdir(parents=True, exist_ok=True)
    kinds = {"image": datasets.Image()} | ({"label": datasets.ClassLabel(names=["cat", "dog"])} if labels else {})
    start = 0
    for shard, count in enumerate(counts):
        numbers = range(start, start + count)
        pictures = [{"bytes": png(10 + 2 * k)[: 40 if k in bad else None], "path": None} for k in numbers]
        columns = {"image": pictures} | ({"label": [k % 2 for k in numbers]} if labels else {})
        table = datasets.Dataset.from_dict(columns, features=datasets.Features(kinds))
        table.to_parquet(folder / f"train-{shard:05d}-of-{len(counts):05d}.parquet")
        start += count
    return folder
