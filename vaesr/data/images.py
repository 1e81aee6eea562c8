"""Batches of whole images of one size."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vaesr.data.bank import Bank
from vaesr.data.sampling import Tree, random_words
from vaesr.data.tables import ArraySampler
from vaesr.imaging import to_float


class ImageSampler(ArraySampler):
    """Whole images of one size; every epoch visits each example once, in its own order.

    A batch is {"image": `[B, H, W, C]` float32 in [0, 1], "index": `[B]` int32 places in the bank, which say
    which image it is whatever the split, "label": `[B]` int32 if there are labels}. `batch_size`, at least 1,
    is over all devices; `flips` mirrors half of the images left-right.
    """

    bank: Bank

    def __init__(self, bank: Bank, split: str, batch_size: int, *, flips: bool = False) -> None:
        if bank.kind != "fixed":
            raise ValueError(
                f"ImageSampler: data source {bank.spec!r} holds images of different sizes; "
                "use PairSampler, or resize the files to one size"
            )
        arrays = {"image": bank.pixels, "index": np.arange(len(bank), dtype=np.int32)}
        arrays |= {} if bank.labels is None else {"label": bank.labels}
        super().__init__(arrays, batch_size, members=bank.split(split))
        self.bank, self.split, self.flips = bank, split, flips

    def draw(self, key: Array, step: Array, position: Array) -> dict[str, Array]:
        """As `ArraySampler.draw`, and "flip": `[B]` int32 0 or 1 if `flips`."""
        draw = super().draw(jax.random.fold_in(key, 0), step, position)
        if self.flips:
            bits = random_words(jax.random.fold_in(key, 1), step, position, 1)[:, 0]
            draw["flip"] = (bits >> 31).astype(jnp.int32)
        return draw

    def finish(self, raw: Tree, draw: dict[str, Array]) -> dict[str, Array]:
        """The images mirrored where drawn, as floats."""
        image = raw["image"]
        if self.flips:
            image = jnp.where(draw["flip"][:, None, None, None] == 1, jnp.flip(image, 2), image)
        return raw | {"image": to_float(image)}
