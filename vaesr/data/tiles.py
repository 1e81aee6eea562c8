"""Photos cut into tiles of one size: a bank for models that take small images."""

from __future__ import annotations

import dataclasses

import numpy as np

from vaesr.data.bank import Bank


def tile_photos(bank: Bank, size: int, *, stride: int | None = None) -> Bank:
    """Cut the photos of every split into square tiles of `size` pixels a side: a bank of one size, in memory.

    The tiles of a photo stay in its split and are called "PHOTO@TOP,LEFT"; photos smaller than a tile are
    left out. Training tiles lie `stride` pixels apart (`size` by default; both are at least 1); held-out
    photos are tiled without overlap, so that no pixel counts twice in a measurement. A ValueError if a split
    has no tile.
    """
    stride = size if stride is None else stride
    if size < 1 or stride < 1:
        raise ValueError(f"tile_photos: size and stride must be at least 1, got {size} and {stride}")
    tiles: list[np.ndarray] = []
    names: list[str] = []
    splits: dict[str, np.ndarray] = {}
    for split, members in bank.splits.items():
        first = len(tiles)
        for index in members:
            photo = bank.image(int(index))
            step = stride if split == "train" else size
            for top in range(0, photo.shape[0] - size + 1, step):
                for left in range(0, photo.shape[1] - size + 1, step):
                    tiles.append(photo[top : top + size, left : left + size])
                    names.append(f"{bank.names[index]}@{top},{left}")
        if len(tiles) == first:
            raise ValueError(f"data source {bank.spec!r}: no {split} photo has {size} x {size} pixels")
        splits[split] = np.arange(first, len(tiles), dtype=np.int32)
    rows = np.concatenate(tiles)
    side = np.full(len(tiles), size, np.int32)
    return dataclasses.replace(
        bank, rows=rows, start=np.arange(len(tiles), dtype=np.int32) * size, height=side, width=side,
        splits=splits, labels=None, names=names,
    )  # fmt: skip
