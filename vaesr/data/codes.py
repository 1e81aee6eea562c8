"""The codes of a data set, encoded once and kept beside the run that made them."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import numpy as np

from vaesr.data.hashes import hashes_of, is_whole

_INDEX = "codes.json"


@dataclasses.dataclass(frozen=True)
class CodeBank:
    """Code maps of every split, memory-mapped.

    `splits` are `{split: {name: [n, ...]}}`: "codes_0" (the coarsest level), "codes_1", ... `[n, h, w]`,
    "index" `[n]`, the examples' places in the bank of images, and "label" `[n]` if there are labels. `origin`
    says what made them, as JSON holds it.
    """

    splits: dict[str, dict[str, np.ndarray]]
    origin: dict[str, Any]
    path: pathlib.Path

    @property
    def levels(self) -> int:
        """The number of code maps per example."""
        return sum(name.startswith("codes_") for name in next(iter(self.splits.values())))


def write_codes(
    path: pathlib.Path, splits: Mapping[str, Mapping[str, np.ndarray]], origin: Mapping[str, Any]
) -> CodeBank:
    """Keep codes in a folder, whole or not at all; an earlier folder is replaced.

    The arrays are as `CodeBank.splits`, all splits with the same names; `origin` says what made them, ready
    for JSON. Returns the codes as `read_codes` gives them.
    """
    for split, arrays in splits.items():
        lengths = {name: len(array) for name, array in arrays.items()}
        if "codes_0" not in arrays or len(set(lengths.values())) != 1:
            raise ValueError(f"split {split!r} must hold codes_0 and arrays of one length, got {lengths}")
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for split, arrays in splits.items():
        for name, array in arrays.items():
            np.save(temporary / f"{split}-{name}.npy", array)
    index = {
        "origin": dict(origin),
        "splits": {split: sorted(arrays) for split, arrays in splits.items()},
        "hashes": hashes_of(sorted(temporary.iterdir())),
    }
    (temporary / _INDEX).write_text(json.dumps(index, indent=2) + "\n")
    shutil.rmtree(path, ignore_errors=True)
    temporary.rename(path)
    written = read_codes(path)
    assert written is not None
    return written


def read_codes(path: pathlib.Path) -> CodeBank | None:
    """Open the folder that `write_codes` made.

    None if it is missing or damaged: then the codes are to be made again.
    """
    try:
        index = json.loads((path / _INDEX).read_text())
        if not is_whole(path, index.get("hashes", {}), "the images are encoded again"):
            return None
        splits = {
            split: {name: np.load(path / f"{split}-{name}.npy", mmap_mode="r") for name in names}
            for split, names in index["splits"].items()
        }
        return CodeBank(splits, index["origin"], path)
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError):
        return None


def read_origin(path: pathlib.Path) -> Any:
    """What made the codes of a folder, also where they are damaged; None if nothing says so."""
    try:
        return json.loads((path / _INDEX).read_text())["origin"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def smallest_integers(count: int) -> np.dtype:
    """The smallest of uint8, uint16 and int32 that holds 0 to `count` - 1, with count in [1, 2^31]."""
    if not 1 <= count <= 2**31:
        raise ValueError(f"count must lie in [1, 2^31], got {count}")
    return np.dtype(np.uint8 if count <= 256 else np.uint16 if count <= 65_536 else np.int32)
