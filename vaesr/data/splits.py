"""Which example is for train, validation or test: by content, so no picture is on two sides."""

from __future__ import annotations

import hashlib

import numpy as np

SPLITS = ("train", "validation", "test")
CARVED_FRACTION = 0.1  # of the training pictures, for each split a source does not bring itself

_ALIASES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}


def split_name(name: str) -> str | None:
    """The split that a folder or TFDS split is called after, in any case of letters; None if after none."""
    return _ALIASES.get(name.lower())


def content_hash(image: np.ndarray) -> int:
    """A 64-bit hash of `[H, W, C]` uint8 and its shape: equal pictures of different files have the same."""
    digest = hashlib.blake2b(repr(image.shape).encode(), digest_size=8)
    digest.update(np.ascontiguousarray(image).data)
    return int.from_bytes(digest.digest(), "little")


def assign_splits(official: np.ndarray, hashes: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Keep the splits a source brings, carve the missing ones out of train by hash, part the duplicates.

    A picture that is in test is left out of validation and train, one that is in validation out of train.
    Carving orders the distinct pictures of train by hash: it depends on the pictures alone, never on names or
    order, and copies go together. Three distinct pictures at least are needed to carve two splits, two for
    one.

    `official` is `[N]` int, 0 train (or none said), 1 validation, 2 test; `hashes` `[N]` uint64 of
    `content_hash`. Returns {split: sorted `[n]` int32 example indices, empty splits left out}, and the sorted
    indices of examples left out.
    """
    code = np.array(official, dtype=np.int8)
    for higher in (2, 1):
        taken = np.unique(hashes[code == higher])
        lower = (code >= 0) & (code < higher) & np.isin(hashes, taken)
        code[lower] = -1
    left_out = np.flatnonzero(code < 0).astype(np.int32)
    missing = [number for number in (2, 1) if not np.any(code == number)]
    groups = np.unique(hashes[code == 0])
    if missing and len(groups) > len(missing):
        count = max(1, round(CARVED_FRACTION * len(groups)))
        for place, number in enumerate(missing):
            chosen = groups[place * count : (place + 1) * count]
            code[(code == 0) & np.isin(hashes, chosen)] = number
    found = {name: np.flatnonzero(code == number).astype(np.int32) for number, name in enumerate(SPLITS)}
    return {name: index for name, index in found.items() if len(index)}, left_out
