"""Writing a bank: stream images into a temporary folder, then rename it into place in one step."""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar, cast

import numpy as np

from vaesr.data.bank import BANK_FORMAT, Bank, Entry, load_bank
from vaesr.data.hashes import hashes_of
from vaesr.data.splits import SPLITS, assign_splits, content_hash
from vaesr.data.squares import Square

T = TypeVar("T")

_STALE_SECONDS = 24 * 3600
_MAX_ROWS = 2**31 - 1


class BankWriter:
    """Collects the images of one source. Use inside `with bank_writer(...)`, then `commit`."""

    def __init__(
        self, folder: pathlib.Path, spec: str, *, progress: bool = False, square: Square | None = None
    ) -> None:
        self.folder, self.spec, self._progress, self._square = folder, spec, progress, square
        self.report: list[Entry] = []
        self._raw = open(folder / "pixels.bin", "wb")  # noqa: SIM115 - closed by bank_writer
        self._sizes: list[np.ndarray] = []
        self._codes: list[np.ndarray] = []
        self._hashes: list[int] = []
        self._labels: list[np.ndarray] = []
        self._names: list[str] = []
        self._channels: int | None = None

    def track(self, items: Iterable[T], total: int) -> Iterable[T]:
        """`items` with a progress bar, where one is wanted and tqdm is there."""
        if not self._progress:
            return items
        try:
            from tqdm import tqdm
        except ImportError:
            return items
        return tqdm(items, total=total, desc=f"decoding {self.spec}"[:60], unit="", leave=False, disable=None)

    def note(self, name: str, action: str, reason: str) -> None:
        """Add a line on a file or example to the report; the action is "skipped", "converted" or "note"."""
        self.report.append(Entry(name, action, reason))

    def add(
        self, images: np.ndarray, *, split: str | None = None, labels: Sequence[int] | None = None,
        names: Sequence[str] | None = None,
    ) -> None:  # fmt: skip
        """Append images of one size, `[n, H, W, C]` uint8, with the channels of those before.

        `split` is the official one they belong to, or None to let their content decide; labels and names are
        n each, for all blocks or for none.
        """
        if images.dtype != np.uint8 or images.ndim != 4 or 0 in images.shape[1:]:
            raise ValueError(f"images must be uint8 [n, H, W, C], got {images.dtype} {list(images.shape)}")
        if self._square is not None:
            images = self._square.apply(images)
        count, height, width, channels = images.shape
        if self._channels not in (None, channels):
            raise ValueError(f"data source {self.spec!r} mixes {self._channels} and {channels} channels")
        self._channels = channels
        images = np.ascontiguousarray(images)
        self._raw.write(images.data)
        self._sizes.append(np.tile(np.array([[height, width]], np.int32), (count, 1)))
        self._codes.append(np.full(count, 0 if split is None else SPLITS.index(split), np.int8))
        self._hashes.extend(content_hash(image) for image in images)
        if labels is not None:
            self._labels.append(np.asarray(labels, np.int32))
        if names is not None:
            self._names.extend(names)

    def commit(self, target: pathlib.Path) -> Bank:
        """Pack, sync to disk and rename to `target`; if another process was faster, use its bank.

        A ValueError if no image was added, or the training split would be empty.
        """
        if not self._hashes:
            reasons = "".join(f"\n  {entry}" for entry in self.report[:50])
            raise ValueError(
                f"data source {self.spec!r} holds no usable image{':' if reasons else ''}{reasons}"
            )
        self._raw.flush()
        self._raw.close()
        size = np.concatenate(self._sizes)
        table = self._table(size)
        shape = [int(size[:, 0].sum(dtype=np.int64)), int(size[:, 1].max()), self._channels or 1]
        if shape[0] > _MAX_ROWS:
            raise ValueError(
                f"data source {self.spec!r} has {shape[0]} pixel rows, more than the {_MAX_ROWS} allowed"
            )
        if (size != size[0]).any():
            _pad_rows(self.folder, size, shape)
        with open(self.folder / "table.npz", "wb") as file:
            np.savez(file, **cast(Any, table))  # its stub takes every name for `allow_pickle`
        index = {
            "format": BANK_FORMAT,
            "spec": self.spec,
            "shape": shape,
            "names": self._names or None,
            "report": [list(entry) for entry in self.report],
            "hashes": hashes_of([self.folder / "pixels.bin", self.folder / "table.npz"]),
        }
        (self.folder / "index.json").write_text(json.dumps(index))
        for name in ("pixels.bin", "table.npz", "index.json", "."):
            _sync(self.folder / name)
        return _publish(self.folder, target)

    def _table(self, size: np.ndarray) -> dict[str, np.ndarray]:
        hashes = np.array(self._hashes, np.uint64)
        splits, left_out = assign_splits(np.concatenate(self._codes), hashes)
        if "train" not in splits:
            raise ValueError(
                f"data source {self.spec!r} has nothing to train on: {len(hashes)} images, {len(left_out)} "
                "of them left out as duplicates of validation or test images"
            )
        for index in left_out[:1000]:
            name = self._names[index] if self._names else f"{index:07d}"
            self.note(name, "note", "left out of its split: the same pixels are also in validation or test")
        start = np.concatenate([[0], np.cumsum(size[:-1, 0], dtype=np.int64)]).astype(np.int32)
        table = {"start": start, "height": size[:, 0], "width": size[:, 1]}
        table |= {f"split_{name}": index for name, index in splits.items()}
        if self._labels:
            table["labels"] = np.concatenate(self._labels)
        return table


def _pad_rows(folder: pathlib.Path, size: np.ndarray, shape: list[int]) -> None:
    """Images back to back -> stacked rows of the largest width."""
    os.replace(folder / "pixels.bin", folder / "raw.bin")
    with open(folder / "raw.bin", "rb") as raw, open(folder / "pixels.bin", "wb") as out:
        for height, width in size:
            block = np.zeros((height, shape[1], shape[2]), np.uint8)
            count = int(height) * int(width) * shape[2]
            block[:, :width] = np.frombuffer(raw.read(count), np.uint8).reshape(height, width, shape[2])
            out.write(block.data)
    os.remove(folder / "raw.bin")


def _sync(path: pathlib.Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    with contextlib.suppress(OSError):  # some file systems refuse it for folders
        os.fsync(descriptor)
    os.close(descriptor)


def _publish(folder: pathlib.Path, target: pathlib.Path) -> Bank:
    for _ in range(10):
        try:
            os.replace(folder, target)
            _sync(target.parent)
        except OSError:  # a folder is there already
            if (bank := load_bank(target)) is not None:
                return bank
            # Damaged: move it away in one step, so that nobody else meets it half deleted.
            away = pathlib.Path(tempfile.mkdtemp(prefix=".tmp-", dir=target.parent))
            with contextlib.suppress(OSError):
                os.replace(target, away)
            shutil.rmtree(away, ignore_errors=True)
            continue
        if (bank := load_bank(target)) is not None:
            return bank
        raise OSError(f"the bank just written to {target} cannot be read back")
    raise OSError(f"cannot put the decoded data in place at {target}: other processes keep replacing it")


@contextlib.contextmanager
def bank_writer(
    parent: pathlib.Path, spec: str, *, progress: bool = False, square: Square | None = None
) -> Iterator[BankWriter]:
    """A writer in a fresh temporary folder beside the banks, removed again unless it was committed.

    `parent` is the folder of the banks (created).
    """
    parent.mkdir(parents=True, exist_ok=True)
    for old in parent.glob(".tmp-*"):  # left by processes that were killed
        with contextlib.suppress(OSError):
            if time.time() - old.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(old, ignore_errors=True)
    folder = pathlib.Path(tempfile.mkdtemp(prefix=".tmp-", dir=parent))
    os.chmod(folder, 0o755)  # mkdtemp's 0700 would keep a shared cache to one user
    writer = BankWriter(folder, spec, progress=progress, square=square)
    try:
        yield writer
    finally:
        writer._raw.close()
        shutil.rmtree(folder, ignore_errors=True)
