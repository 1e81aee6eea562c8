"""The packed uint8 bank: a source decoded once, on disk, memory-mapped; and the function that opens one."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import zipfile
from typing import NamedTuple

import numpy as np

from vaesr.data.hashes import is_whole

BANK_FORMAT = 1


class Entry(NamedTuple):
    """One line of a report: the file or example, what was done ("skipped", "converted", "note"), and why."""

    name: str
    action: str
    reason: str

    def __str__(self) -> str:
        return f"{self.action} {self.name}: {self.reason}"


@dataclasses.dataclass(frozen=True)
class Bank:
    """Images of one source, packed.

    Photos of different sizes stand one below the other, each at the left edge, in `rows`
    `[sum of heights, largest width, C]`, uint8, memory-mapped, read-only: one two-dimensional slice takes any
    patch, and no index exceeds int32. Images of one size fill it without gaps, so the same memory is also
    `pixels` `[N, H, W, C]`. `start` is the first row of each image; it, `height`, `width` and the labels are
    `[N]` int32. `splits` are {"train" | "validation" | "test": `[n]` int32 example indices}; `report` says
    what was skipped or converted, and why; `spec` is the source string, and `path` the bank's folder.
    """

    rows: np.ndarray
    start: np.ndarray
    height: np.ndarray
    width: np.ndarray
    splits: dict[str, np.ndarray]
    labels: np.ndarray | None
    names: list[str]
    report: list[Entry]
    spec: str
    path: pathlib.Path

    def __len__(self) -> int:
        return len(self.start)

    @property
    def channels(self) -> int:
        """Colour channels, 1 or 3 as a rule."""
        return self.rows.shape[-1]

    @property
    def kind(self) -> str:
        """`"fixed"` if all images have one size, else `"photos"`."""
        same = (self.height == self.height[0]).all() and (self.width == self.width[0]).all()
        return "fixed" if same else "photos"

    @property
    def nbytes(self) -> int:
        """Bytes of packed pixels."""
        return self.rows.nbytes

    @property
    def pixels(self) -> np.ndarray:
        """`[N, H, W, C]` uint8 view of a bank of one size."""
        if self.kind != "fixed":
            raise ValueError(
                f"data source {self.spec!r} holds images of different sizes; this needs images of one size"
            )
        return self.rows.reshape(len(self), int(self.height[0]), int(self.width[0]), self.channels)

    def image(self, index: int) -> np.ndarray:
        """Image `index` in [0, N), a `[H, W, C]` uint8 view of the memory map."""
        if not 0 <= index < len(self):
            raise IndexError(f"image index {index} is outside [0, {len(self)}) of data source {self.spec!r}")
        first = int(self.start[index])
        return self.rows[first : first + int(self.height[index]), : int(self.width[index])]

    def split(self, name: str) -> np.ndarray:
        """The example indices of "train", "validation" or "test", `[n]` int32."""
        if name not in self.splits:
            sizes = ", ".join(f"{key} ({len(value)})" for key, value in self.splits.items())
            raise ValueError(
                f"data source {self.spec!r} has no split {name!r}; it has {sizes}"
                + (f": splits need at least 3 different pictures, found {len(self)}" if len(self) < 3 else "")
            )
        return self.splits[name]


def load_bank(path: pathlib.Path) -> Bank | None:
    """Open the folder that `BankWriter.commit` made.

    None if it is missing, of another format or damaged: then it is to be made again.
    """
    try:
        index = json.loads((path / "index.json").read_text())
        shape = tuple(index["shape"])
        size = (path / "pixels.bin").stat().st_size
        if index["format"] != BANK_FORMAT or size != int(np.prod(shape, dtype=np.int64)):
            return None
        if not is_whole(path, index.get("hashes", {}), "the data is decoded again"):
            return None
        with open(path / "table.npz", "rb") as file, np.load(file, allow_pickle=False) as table:
            arrays = {name: table[name] for name in table.files}
        rows = np.memmap(path / "pixels.bin", dtype=np.uint8, mode="r", shape=shape)
    # Whatever is wrong with a cache file, the answer is to decode again.
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile):
        return None
    names = index["names"]
    if names is None:
        names = [f"{number:07d}" for number in range(len(arrays["start"]))]
    return Bank(
        rows=rows,
        **{name: arrays[name] for name in ("start", "height", "width")},
        splits={key[6:]: value for key, value in arrays.items() if key.startswith("split_")},
        labels=arrays.get("labels"),
        names=names,
        report=[Entry(*entry) for entry in index["report"]],
        spec=index["spec"],
        path=path,
    )
