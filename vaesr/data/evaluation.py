"""Reading a bank in order, for measurements."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from vaesr.data.bank import Bank
from vaesr.data.sampling import check_batch_size


def evaluation_batches(
    bank: Bank, split: str, batch_size: int, *, limit: int | None = None
) -> Iterator[dict[str, np.ndarray]]:
    """All images of a split in the bank's order, in batches of one shape; the last is padded and masked.

    Args:
        bank: a bank whose images have one size.
        split: "train", "validation" or "test".
        batch_size: images a batch, >= 1.
        limit: at most so many images, >= 1; None is all. They are spread evenly over the split.

    Yields:
        {"image": `[B, H, W, C]` float32 in [0, 1], "index": `[B]` int32 places in the bank, "label": `[B]`
        int32 if any, "mask": `[B]` float32, 1 for an image and 0 for padding}.

    Raises:
        ValueError: if a number is out of range or the images have different sizes.
    """
    check_batch_size(batch_size)
    if limit is not None and limit < 1:
        raise ValueError(f"evaluation_batches: limit must be at least 1 or None, got {limit}")
    index = bank.split(split)
    if limit is not None and limit < len(index):
        index = index[np.arange(limit) * len(index) // limit]
    return _batches(bank, bank.pixels, index, batch_size)


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
    """The whole images of a split, one by one, in the bank's order.

    Args:
        bank: any bank.
        split: "train", "validation" or "test".

    Yields:
        (name, `[H, W, C]` uint8 view of the memory map).

    Raises:
        ValueError: if the bank has no such split.
    """
    return ((bank.names[index], bank.image(int(index))) for index in bank.split(split))
