"""Crops of one image for a training on that image alone: more of them where there is something to see."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vaesr.data.sampling import Sampler, Tree, check_batch_size, random_words
from vaesr.imaging import imresize, rgb_to_grey, to_float

_QUANTILES = 1 << 14  # places of an image that crops are drawn from
_WINDOW, _SHARE = 5, 0.97  # of the authors' gradient maps


class SelfPatchSampler(Sampler):
    """Crops for KernelGAN, of as many images as there are trainings side by side.

    An example is one training's: {"x_g": `[1, large, large, C]`, what the generator shrinks, "x_d": `[1,
    small, small, C]`, what the discriminator takes for real}, in [0, 1]. Both are drawn where the gradients
    are among the image's largest, the first in the image made `scale` times smaller; corners are at even
    pixels.

    `images` are `[H, W, C]` uint8, of any sizes from `large` up; `owners` `[B]` says which of them each
    training is on. `margin` pixels of every edge are left out where the image is large enough.
    """

    def __init__(
        self,
        images: Sequence[np.ndarray],
        owners: Sequence[int] | np.ndarray,
        *,
        scale: int = 2,
        large: int = 64,
        small: int = 26,
        margin: int = 10,
    ) -> None:
        check_batch_size(len(owners))
        self.batch_size, self.scale, self.large, self.small = len(owners), scale, large, small
        inner = [_inner(image, large, margin, scale) for image in images]
        height, width = (max(image.shape[axis] for image in inner) for axis in (0, 1))
        around = [((0, height - image.shape[0]), (0, width - image.shape[1]), (0, 0)) for image in inner]
        self._pixels = np.stack([np.pad(image, pads) for image, pads in zip(inner, around, strict=True)])
        # `[images, quantiles, 2]` int32: corners.
        self._large = np.stack([_corners(image, large, scale, shrunk=True) for image in inner])
        self._small = np.stack([_corners(image, small, scale, shrunk=False) for image in inner])
        self._owners = np.asarray(owners, np.int32)

    @property
    def nbytes(self) -> int:
        """Bytes of `source()`."""
        return self._pixels.nbytes + self._large.nbytes + self._small.nbytes

    def resident(self) -> dict[str, np.ndarray]:
        """All images, at the upper left of planes of one size; the places; and whose image is whose."""
        return {
            "pixels": self._pixels, "large": self._large, "small": self._small, "owners": self._owners,
        }  # fmt: skip

    def draw(self, key: Array, step: Array, position: Array) -> dict[str, Array]:
        """Which of its image's places each training takes: "large" and "small" `[B]`; "training" is it."""
        return draw_places(key, step, position) | {"training": position}

    def gather(self, source: Tree, draw: dict[str, Array]) -> Tree:
        """Two crops an example, `[B, 1, side, side, C]` uint8."""
        return gather_crops(source, draw, large=self.large, small=self.small)

    def gather_host(self, draw: dict[str, np.ndarray]) -> Tree:
        """The same as `gather`, as numpy."""
        source = self.resident()

        def crops(name: str, side: int) -> np.ndarray:
            found = []
            for training, place in zip(draw["training"], draw[name], strict=True):
                image = source["owners"][training]
                top, left = source[name][image, place]
                found.append(source["pixels"][image, top : top + side, left : left + side])
            return np.stack(found)[:, None]

        return {"large": crops("large", self.large), "small": crops("small", self.small)}

    def finish(self, raw: Tree, draw: dict[str, Array]) -> dict[str, Array]:
        """Crops to a batch."""
        del draw
        return {"x_g": to_float(raw["large"]), "x_d": to_float(raw["small"])}


def draw_places(key: Array, step: Array, position: Array) -> dict[str, Array]:
    """Which places the trainings take that a step's key and their positions `[B]` tell apart."""
    words = random_words(key, step, position, 2) % np.uint32(_QUANTILES)
    return {"large": words[:, 0].astype(jnp.int32), "small": words[:, 1].astype(jnp.int32)}


def gather_crops(source: Tree, draw: dict[str, Array], *, large: int, small: int) -> Tree:
    """The crops of `SelfPatchSampler.source()` that were drawn, `[B, 1, side, side, C]` uint8."""
    image = source["owners"][draw["training"]]

    def crops(name: str, side: int) -> Array:
        corner = source[name][image, draw[name]]
        size = (1, side, side, source["pixels"].shape[-1])

        def one(image: Array, corner: Array) -> Array:
            start = (image, corner[0], corner[1], jnp.zeros_like(image))
            return jax.lax.dynamic_slice(source["pixels"], start, size)

        return jax.vmap(one)(image, corner)

    return {"large": crops("large", large), "small": crops("small", small)}


def _inner(image: np.ndarray, large: int, margin: int, scale: int) -> np.ndarray:
    """Without a margin, where enough is left, and of sides that the scale divides."""
    if image.ndim != 3 or image.dtype != np.uint8 or min(image.shape[:2]) < large:
        raise ValueError(
            f"SelfPatchSampler: image has shape {image.shape} and type {image.dtype}; expected [H, W, C] of "
            f"uint8 with sides of at least {large}."
        )
    if margin and min(image.shape[:2]) >= large + 2 * margin:
        image = image[margin:-margin, margin:-margin]
    height, width = (n - n % scale for n in image.shape[:2])
    return image[:height, :width]


def has_gradients(image: np.ndarray) -> bool:
    """Whether an image `[H, W, C]` uint8 shows anything that a kernel could be told by."""
    grey = _grey(image)
    return bool(np.ptp(grey) > 0)


def _grey(image: np.ndarray) -> np.ndarray:
    pixels = image.astype(np.float32) / 255
    if image.shape[-1] == 3:
        return np.asarray(rgb_to_grey(pixels), np.float64)[..., 0]
    return pixels[..., 0].astype(np.float64)


def _corners(image: np.ndarray, side: int, scale: int, *, shrunk: bool) -> np.ndarray:
    """Places of crops, equally likely each: the quantiles of a density that follows the gradients."""
    if shrunk:  # where the generator's result will show something
        small = np.asarray(imresize(image.astype(np.float32) / 255, 1 / scale))
        weight = np.kron(_gradient_map(_grey_of_float(small)), np.ones((scale, scale)))
    else:
        weight = _gradient_map(_grey(image))
    half = side // 2
    density = np.zeros_like(weight)
    density[half:-half, half:-half] = _box(weight, half)[half:-half, half:-half]
    if density.sum() <= 0:  # a flat image, or all that there is to see is too near its edge
        density = np.ones_like(density)
    cumulative = np.cumsum(density.ravel())
    wanted = (np.arange(_QUANTILES) + 0.5) / _QUANTILES * cumulative[-1]
    row, column = np.divmod(np.searchsorted(cumulative, wanted), image.shape[1])
    corners = [
        np.clip(centre - half, 0, length - side) // 2 * 2
        for centre, length in ((row, image.shape[0]), (column, image.shape[1]))
    ]
    return np.stack(corners, axis=-1).astype(np.int32)


def _grey_of_float(pixels: np.ndarray) -> np.ndarray:
    grey = rgb_to_grey(pixels) if pixels.shape[-1] == 3 else pixels
    return np.asarray(grey, np.float64)[..., 0]


def _gradient_map(grey: np.ndarray) -> np.ndarray:
    """Where gradients are among the largest, blurred a little; the authors' `create_gradient_map`."""
    down, across = np.gradient(grey)
    parts = [np.abs(down), np.abs(across), np.hypot(down, across)]
    total = np.zeros_like(grey)
    for part in parts:
        inner = np.zeros_like(part)
        inner[_WINDOW:-_WINDOW, _WINDOW:-_WINDOW] = part[_WINDOW:-_WINDOW, _WINDOW:-_WINDOW]
        ordered = np.sort(inner.ravel())
        place = int(_SHARE * ordered.size)
        low, high = ordered[place], ordered[min(place + 1, ordered.size - 1)]
        clipped = np.clip(inner, low, max(high, low + 1e-5)) - low
        if clipped.sum() > 0:
            total += clipped / clipped.sum()
    return _box(total, _WINDOW)


def _box(plane: np.ndarray, side: int) -> np.ndarray:
    """The mean over a square window around each pixel, zeros beyond the edge."""
    for axis in (0, 1):
        around = [(0, 0), (0, 0)]
        around[axis] = (side - 1 - (side - 1) // 2 + 1, (side - 1) // 2)
        total = np.cumsum(np.pad(plane, around), axis=axis)
        length = plane.shape[axis]
        ends = np.take(total, np.arange(side, side + length), axis=axis)
        plane = (ends - np.take(total, np.arange(length), axis=axis)) / side
    return np.maximum(plane, 0)
