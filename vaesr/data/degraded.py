"""Pairs of photographs and what a degradation of one's own makes of them, inside the compiled step."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vaesr.data.bank import Bank
from vaesr.data.pairs import PairSampler
from vaesr.data.sampling import Tree, random_words
from vaesr.imaging import crappify, rgb_to_grey
from vaesr.imaging.crappify import QUALITIES

# `(x_hr [B, H, W, 3] in [0, 1], words [B, 4] random uint32) -> x_lr`.
Degradation = Callable[[Array, Array], Array]
WORDS = 4
# Folded into the run's data key, so that the degradation's randomness is not that of the patches' places.
_TAG = 0x64656772


class DegradedSampler(PairSampler):
    """`PairSampler` with a degradation in place of the bicubic reduction.

    A batch is {"x_lr": what the degradation makes, "x_hr": `[B, patch*scale, patch*scale, C]`}, in [0, 1].
    `batch_size` (over all devices), `patch` (the side of the degraded patch) and `shrink` are at least 1;
    `scale` is the sides of the photo's patch by those. The degradation is random through its words alone, of
    which each example of each step has its own. Photos are made `shrink` times smaller first, by MATLAB's
    bicubic: a patch then shows as much more of them. `augment` applies one of the eight symmetries of the
    square, at random. A ValueError if no photo of the split is large enough.
    """

    def __init__(
        self,
        bank: Bank,
        split: str,
        batch_size: int,
        *,
        scale: int,
        patch: int,
        degradation: Degradation,
        shrink: int = 1,
        augment: bool = True,
    ) -> None:
        # What is a pair's small half to the base is the photo's patch here.
        super().__init__(bank, split, batch_size, scale=shrink, patch=patch * scale, augment=augment)
        self.degradation = degradation

    def draw(self, key: Array, step: Array, position: Array) -> dict[str, Array]:
        """As `PairSampler.draw`, and "words" `[B, 4]` uint32."""
        own = jax.random.fold_in(key, _TAG)
        return super().draw(key, step, position) | {"words": random_words(own, step, position, WORDS)}

    def finish(self, raw: Tree, draw: dict[str, Array]) -> dict[str, Array]:
        """Regions of photos to a batch of pairs."""
        x_hr = super().finish(raw, draw)["x_lr"]
        return {"x_lr": self.degradation(x_hr, draw["words"]), "x_hr": x_hr}


def crappification(scale: int, *, text: bool = True) -> Degradation:
    """fastai's crappification; its quality is random and, if `text`, written in the upper left quarter."""
    low, high = QUALITIES

    def degrade(x_hr: Array, words: Array) -> Array:
        height, width = (n // scale for n in x_hr.shape[1:3])
        quality = low + (words[:, 0] % np.uint32(high - low + 1)).astype(jnp.int32)
        top, left = (
            (words[:, i] % np.uint32(n // 2 + 1)).astype(jnp.int32) for i, n in ((1, height), (2, width))
        )
        return crappify(x_hr, quality, top, left, scale=scale, text=text)

    return degrade


def fading(x_hr: Array, words: Array) -> Array:
    """A colour photo `[B, H, W, 3]` in [0, 1] as a grey one: its luma in all three channels."""
    return jnp.broadcast_to(rgb_to_grey(x_hr), x_hr.shape)


def words_of(number: int) -> Array:
    """The words of the photo `number` of a bank when it is measured, always the same: `[1, 4]` uint32."""
    return jnp.asarray(np.random.default_rng(number).integers(0, 2**32, (1, WORDS), np.uint32))
