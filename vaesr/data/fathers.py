"""ZSSR's examples: random views of one image, each of which is then made small to be learned from."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vaesr.data.sampling import Sampler, Tree, check_batch_size, random_words
from vaesr.imaging.warp import warp_padded

_APRON = 3
_WORDS = 10


class Views(NamedTuple):
    """How ZSSR's views differ from the image.

    Attributes:
        as_is: share of plain crops.
        turned: share of crops turned by quarters and mirrored; the rest are affine.
        turns: allow turning and mirroring at all; not where the kernel knows directions.
        least_scale: of affine views; the largest is that of the largest image there is.
        stretch: standard deviation of the difference between the two axes' scales.
        shear: standard deviation.
    """

    as_is: float = 0.05
    turned: float = 0.45
    turns: bool = True
    least_scale: float = 0.5
    stretch: float = 0.25
    shear: float = 0.1


class FatherSampler(Sampler):
    """Views of each training's image: "x_hr" `[1, side, side, 3]` in [0, 1], and what else there is of it.

    `sources` are the image and, if it has been enlarged already, its enlargements by `scales` (the first is
    1, they grow): `[trainings, scales]` of `[H, W, 3]` float32 in [0, 1]. An affine view is of the smallest
    one that is larger than it. `own` are arrays `[trainings, ...]` that go into every batch, by name.
    """

    def __init__(
        self,
        sources: Sequence[Sequence[np.ndarray]],
        *,
        scales: Sequence[float] = (1.0,),
        side: int = 128,
        views: Views = Views(),  # noqa: B008  (immutable)
        own: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        check_batch_size(len(sources))
        self.batch_size, self.side, self.scales, self.views = len(sources), side, tuple(scales), views
        height, width = (max(image.shape[axis] for images in sources for image in images) for axis in (0, 1))
        shape = (len(sources), len(scales), height + 2 * _APRON, width + 2 * _APRON, 3)
        self._images = np.zeros(shape, np.float32)
        self._sizes = np.zeros((len(sources), len(scales), 2), np.float32)
        self._own = dict(own or {})
        for i, images in enumerate(sources):
            for j, image in enumerate(images):
                rows, columns = image.shape[:2]
                self._images[i, j, _APRON : _APRON + rows, _APRON : _APRON + columns] = image
                self._sizes[i, j] = rows, columns

    @property
    def nbytes(self) -> int:
        """Bytes of `source()`."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self.resident()))

    def resident(self) -> Tree:
        """All images, with zeros around, and their sizes; and "own"."""
        return {"images": self._images, "sizes": self._sizes, "own": self._own}

    def draw(self, key: Array, step: Array, position: Array) -> dict[str, Array]:
        """Random numbers `[B, 10]` in [0, 1), and "training" `[B]`."""
        return draw_views(key, step, position) | {"training": position}

    def source(self, sharding: jax.sharding.Sharding | None = None) -> Tree:
        """The arrays of `resident` on the default device, or as the sharding says."""
        return jax.device_put(self.resident(), sharding)

    def gather(self, source: Tree, draw: dict[str, Array]) -> Tree:
        """Each training's images and its own."""
        return jax.tree.map(lambda leaf: leaf[draw["training"]], source)

    def gather_host(self, draw: dict[str, np.ndarray]) -> Tree:
        """The same as numpy."""
        return jax.tree.map(lambda leaf: leaf[draw["training"]], self.resident())

    def finish(self, raw: Tree, draw: dict[str, Array]) -> dict[str, Array]:
        """Images to views."""
        mine = {**draw, "training": jnp.arange(len(draw["uniform"]))}
        view = gather_views(raw, mine, scales=self.scales, side=self.side, views=self.views)
        return {"x_hr": view} | {name: value[:, None] for name, value in raw["own"].items()}


def draw_views(key: Array, step: Array, position: Array) -> dict[str, Array]:
    """Random numbers in [0, 1) of a step, `[B, 10]`, by the trainings' positions `[B]`."""
    words = random_words(key, step, position, _WORDS)
    return {"uniform": (words >> 8).astype(jnp.float32) / 2**24}


def gather_views(
    source: Tree, draw: dict[str, Array], *, scales: Sequence[float], side: int, views: Views
) -> Array:
    """The views of `FatherSampler.source()` that were drawn, `[B, 1, side, side, 3]`."""
    u, training = draw["uniform"], draw["training"]
    mode, level, mirror, turn, across, down = (u[:, i] for i in range(6))
    affine = mode >= views.as_is + views.turned
    turning = (mode >= views.as_is) & views.turns
    top = max(scales)
    wanted = jnp.where(mode < views.as_is, 1.0, views.least_scale + level * (top - views.least_scale))
    # The smallest image larger than the view.
    sizes_there = jnp.asarray(scales, jnp.float32)
    number = jnp.minimum((sizes_there[None] <= wanted[:, None] - 1e-6).sum(1), len(scales) - 1)
    base = sizes_there[number]
    size = source["sizes"][training, number]  # [B, 2]: height, width
    normal = jnp.sqrt(-2 * jnp.log1p(-u[:, 6:8])) * jnp.cos(2 * jnp.pi * u[:, 8:10])  # Box and Muller
    also = jnp.sqrt(-2 * jnp.log1p(-u[:, 6])) * jnp.sin(2 * jnp.pi * u[:, 8])
    scale = jnp.where(affine, wanted / base, 1.0)
    stretch = jnp.where(affine, views.stretch * normal[:, 0], 0.0)
    shears = [jnp.where(affine, views.shear * value, 0.0) for value in (normal[:, 1], also)]
    flip = jnp.where(turning & (mirror < 0.5), -1.0, 1.0)
    quarters = jnp.floor(turn * 4) * (math.pi / 2)
    angle = jnp.where(turning, jnp.where(affine, turn * 2 * math.pi, quarters), 0.0)
    sx = flip * jnp.maximum(scale + stretch / 2, 0.1)
    sy = jnp.maximum(scale - stretch / 2, 0.1)
    # From the image to the view: scaled and mirrored, turned, sheared; what is sampled is the inverse.
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    turned = _matrices(cos * sx, sin * sy, -sin * sx, cos * sy)
    there = _product(_matrices(jnp.ones_like(sx), shears[0], shears[1], jnp.ones_like(sx)), turned)
    back = _inverse(there)
    # The view's middle is at a place of the image around which there is enough of it, if there is any such.
    middle = (side - 1) / 2
    at = []
    for share, length, factor in ((across, size[:, 1], jnp.abs(sx)), (down, size[:, 0], sy)):
        half = side / (2 * factor)
        room = jnp.maximum(length - 2 * half, 0.0)
        place = (length - room) / 2 - 0.5 + share * room
        at.append(jnp.where(affine, place, jnp.floor(place - middle + 1e-3) + middle))
    offset = jnp.stack(at, axis=1) - middle * back.sum(2)
    matrix = jnp.concatenate([back, offset[:, :, None]], axis=2)
    flat = source["images"].reshape(-1, *source["images"].shape[2:])
    view = warp_padded(flat, training * len(scales) + number, matrix, (side, side), apron=_APRON)
    return jnp.clip(view, 0.0, 1.0)[:, None]


def _matrices(a: Array, b: Array, c: Array, d: Array) -> Array:
    return jnp.stack([jnp.stack([a, b], axis=-1), jnp.stack([c, d], axis=-1)], axis=-2)


def _product(a: Array, b: Array) -> Array:
    return jnp.einsum("bij,bjk->bik", a, b, precision=jax.lax.Precision.HIGHEST)


def _inverse(m: Array) -> Array:
    a, c, b, d = m[:, 0, 0], m[:, 1, 0], m[:, 0, 1], m[:, 1, 1]
    determinant = a * d - b * c
    return _matrices(d, -b, -c, a) / determinant[:, None, None]
