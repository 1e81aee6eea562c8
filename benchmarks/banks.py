"""Synthetic banks on disk, memory-mapped like real ones. What they show does not matter, only its size."""

import pathlib

import numpy as np

from vaesr.data.bank import Bank


def make_bank(folder: pathlib.Path, sizes: list[tuple[int, int]], channels: int, *, classes: int = 0) -> Bank:
    """Write random images and map them, all of them in the "train" split.

    `sizes` are `(height, width)` of each image; random labels are drawn from `classes`, 0 for none.
    """
    height, width = (np.array(side, np.int32) for side in zip(*sizes, strict=True))
    shape = (int(height.sum()), int(width.max()), channels)
    path = folder / f"pixels-{'x'.join(map(str, shape))}.bin"
    rng = np.random.default_rng(0)
    rows = np.memmap(path, np.uint8, "w+", shape=shape)
    for start in range(0, shape[0], 4096):
        part = rows[start : start + 4096]
        part[:] = rng.integers(0, 256, part.shape, np.uint8)
    rows.flush()
    return Bank(
        rows=np.memmap(path, np.uint8, "r", shape=shape),
        start=np.concatenate([[0], np.cumsum(height)[:-1]]).astype(np.int32),
        height=height,
        width=width,
        splits={"train": np.arange(len(sizes), dtype=np.int32)},
        labels=rng.integers(0, classes, len(sizes)).astype(np.int32) if classes else None,
        names=[str(i) for i in range(len(sizes))],
        report=[],
        spec="synthetic",
        path=folder,
    )
