"""Super-resolution patches cut from photographs and degraded inside the compiled step."""

from __future__ import annotations

import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vaesr.data.bank import Bank, Entry
from vaesr.data.sampling import Sampler, Tree, check_batch_size, random_words
from vaesr.imaging import dihedral, imresize, quantise, to_float

# MATLAB's bicubic reaches 2 * scale pixels of HR from an LR pixel's centre: within two LR pixels.
MARGIN = 2


class PairSampler(Sampler):
    """Random LR/HR patch pairs, the LR being exactly the crop of the whole photo's MATLAB-bicubic reduction.

    Every patch position of the split is equally likely: a photo is drawn with a probability proportional to
    its number of positions, then a position. Offsets are multiples of the scale, so that the LR grid is that
    of the whole photo, and a margin of two LR pixels keeps the photo's edge out. A batch is {"x_lr":
    `[B, patch, patch, C]`, "x_hr": `[B, patch*scale, patch*scale, C]`}, float32 in [0, 1].

    `batch_size` (over all devices), `scale` and `patch` (the side of the LR patch in pixels) are integers of
    at least 1. `augment` applies one of the eight symmetries of the square, at random; `quantise_lr` rounds
    the LR patch to 8 bits, as LR files are. A ValueError if no photo of the split is large enough.
    """

    bank: Bank

    def __init__(
        self,
        bank: Bank,
        split: str,
        batch_size: int,
        *,
        scale: int,
        patch: int,
        augment: bool = True,
        quantise_lr: bool = True,
    ) -> None:
        check_batch_size(batch_size)
        for name, value in (("scale", scale), ("patch", patch)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"PairSampler: {name} must be an integer >= 1, got {value!r}")
        self.bank, self.split, self.batch_size, self.scale, self.patch = bank, split, batch_size, scale, patch
        self.augment, self.quantise_lr = augment, quantise_lr
        self.region = (patch + 2 * MARGIN) * scale
        index = bank.split(split)
        height, width = bank.height[index], bank.width[index]
        large = (height >= self.region) & (width >= self.region)
        self.report = [
            Entry(
                bank.names[i],
                "skipped",
                f"{bank.width[i]}x{bank.height[i]} is less than {self.region}x{self.region}",
            )
            for i in index[~large]
        ]
        if not large.any():
            raise ValueError(
                f"PairSampler: no photo in {split} of {bank.spec!r} is {self.region} pixels a side, "
                f"which patches of {patch} LR pixels at scale {scale} need; the largest is "
                f"{width.max()}x{height.max()}"
            )
        if self.report:
            names = ", ".join(entry.name for entry in self.report[:5])
            print(
                f"{bank.spec}: {len(self.report)} photos too small for these patches ({names})",
                file=sys.stderr,
            )
        self._index = index[large]
        self._places = np.stack([height[large] - self.region, width[large] - self.region], 1) // scale + 1
        self._start = np.concatenate([[0], np.cumsum(height[large][:-1])]).astype(np.int32)
        self._threshold = _thresholds(self._places)

    @property
    def size(self) -> int:
        """Photos that patches are cut from."""
        return len(self._index)

    @property
    def nbytes(self) -> int:
        """Bytes of `source()`."""
        rows = int(self.bank.height[self._index].sum(dtype=np.int64))
        return rows * int(self.bank.width[self._index].max()) * self.bank.channels

    def resident(self) -> dict[str, np.ndarray]:
        """The photos of the split, one below the other: "rows" `[R, W, C]` uint8; "start" `[n]` int32."""
        width = int(self.bank.width[self._index].max())
        first, height = self.bank.start[self._index], self.bank.height[self._index]
        blocks = [self.bank.rows[row : row + count, :width] for row, count in zip(first, height, strict=True)]
        return {"rows": np.concatenate(blocks), "start": self._start}

    def draw(self, key: Array, step: Array, position: Array) -> dict[str, Array]:
        """Which patches: "photo" in [0, size), "top", "left" of the region in HR pixels, "symmetry" 0..7."""
        words = random_words(key, step, position, 4)
        photo = jnp.searchsorted(self._threshold, words[:, 0], side="right").astype(jnp.int32)
        places = jnp.asarray(self._places.astype(np.uint32))[photo]
        corner = ((words[:, 1:3] % places) * np.uint32(self.scale)).astype(jnp.int32)
        symmetry = (words[:, 3] >> 29).astype(jnp.int32) if self.augment else jnp.zeros_like(photo)
        return {"photo": photo, "top": corner[:, 0], "left": corner[:, 1], "symmetry": symmetry}

    def gather(self, source: Tree, draw: dict[str, Array]) -> Array:
        """The HR patches and their margins: `[B, region, region, C]` uint8."""
        row = source["start"][draw["photo"]] + draw["top"]
        size = (self.region, self.region, self.bank.channels)

        def one(row: Array, left: Array) -> Array:
            return jax.lax.dynamic_slice(source["rows"], (row, left, jnp.zeros_like(row)), size)

        return jax.vmap(one)(row, draw["left"])

    def gather_host(self, draw: dict[str, np.ndarray]) -> np.ndarray:
        """The same as `gather`, as numpy."""
        row = self.bank.start[self._index[draw["photo"]]] + draw["top"]
        out = np.empty((len(row), self.region, self.region, self.bank.channels), np.uint8)
        for number, (top, left) in enumerate(zip(row, draw["left"], strict=True)):
            out[number] = self.bank.rows[top : top + self.region, left : left + self.region]
        return out

    def finish(self, raw: Tree, draw: dict[str, Array]) -> dict[str, Array]:
        """HR regions to a batch of pairs."""
        if self.augment:  # before the reduction, with which it commutes: over bytes, once
            raw = jax.vmap(dihedral)(raw, draw["symmetry"])
        region = to_float(raw)
        x_lr = imresize(region, 1 / self.scale)[:, MARGIN:-MARGIN, MARGIN:-MARGIN]
        border = MARGIN * self.scale
        x_lr = quantise(x_lr) if self.quantise_lr else x_lr
        return {"x_lr": x_lr, "x_hr": region[:, border:-border, border:-border]}


def _thresholds(places: np.ndarray) -> np.ndarray:
    """Cumulative shares of the photos' numbers of positions in 2^32, exact by Python's integers."""
    counts = [int(rows) * int(columns) for rows, columns in places]
    total, running, out = sum(counts), 0, []
    for count in counts[:-1]:
        running += count
        out.append((running << 32) // total)
    return np.array(out, np.uint32)
