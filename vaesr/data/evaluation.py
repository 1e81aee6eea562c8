"""Reading a bank in order, for measurements."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from vaesr.data.bank import Bank
from vaesr.data.sampling import check_batch_size

_BATCH = 250
_BATCH_PIXELS = 2**22  # a network's maps of them take gigabytes


def evaluation_batches(
    bank: Bank, split: str, batch_size: int, *, limit: int | None = None
) -> Iterator[dict[str, np.ndarray]]:
    """All images of a split in the bank's order, in batches of one shape; the last is padded and masked.

    `batch_size` images each, at least 1; at most `limit` (at least 1; None is all), spread evenly over the
    split. Yields {"image": `[B, H, W, C]` float32 in [0, 1], "index": `[B]` int32 places in the bank,
    "label": `[B]` int32 if any, "mask": `[B]` float32, 1 for an image and 0 for padding}. A ValueError if the
    images have different sizes.
    """
    check_batch_size(batch_size)
    if limit is not None and limit < 1:
        raise ValueError(f"evaluation_batches: limit must be at least 1 or None, got {limit}")
    index = bank.split(split)
    return _batches(bank, bank.pixels, index[evenly_spread(len(index), limit)], batch_size)


def evaluation_batch_size(bank: Bank) -> int:
    """Images of a batch in memory's reach: at most 250, four million pixels, or the largest split.

    The same for all splits, so that one program is compiled. The images of `bank` have one size.
    """
    most = max(len(index) for index in bank.splits.values())
    return max(1, min(_BATCH, most, _BATCH_PIXELS // math.prod(bank.pixels.shape[1:3])))


def evenly_spread(count: int, limit: int | None) -> np.ndarray:
    """At most `limit` (None: all) of the places 0 to `count` - 1, ascending."""
    kept = count if limit is None else min(limit, count)
    return np.arange(kept) * count // max(kept, 1)


def _batches(
    bank: Bank, pixels: np.ndarray, index: np.ndarray, batch_size: int
) -> Iterator[dict[str, np.ndarray]]:
    for first in range(0, len(index), batch_size):
        chosen = index[first : first + batch_size]
        mask = np.zeros(batch_size, np.float32)
        mask[: len(chosen)] = 1
        chosen = np.pad(chosen, (0, batch_size - len(chosen)), mode="edge")
        image = pixels[chosen].astype(np.float32) / np.float32(255)
        batch = {"image": image, "index": chosen.astype(np.int32), "mask": mask}
        if bank.labels is not None:
            batch["label"] = bank.labels[chosen]
        yield batch


def photos(bank: Bank, split: str) -> Iterator[tuple[str, np.ndarray]]:
    """The images of a split in the bank's order: (name, `[H, W, C]` uint8 view of the memory map)."""
    return ((bank.names[index], bank.image(int(index))) for index in bank.split(split))
