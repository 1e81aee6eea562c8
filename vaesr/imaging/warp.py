"""Affine warps: what an image looks like turned, scaled and sheared, one matrix for each."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from vaesr.imaging._checks import as_float_image

Array = jax.Array
_APRON = 3  # zeros around an image, so that no tap of a place near its edge needs a question


def warp_affine(
    image: ArrayLike, matrix: ArrayLike, size: tuple[int, int], *, sharpness: float = -0.75
) -> Array:
    """Samples images bicubically at places that an affine map says, zero where there is no image.

    Output pixel (x, y), counted from the first pixel's centre, shows input place A (x, y) + b. Where that is
    a pixel's centre the result is that pixel exactly. Nothing is low-passed before.

    Args:
        image: `[..., H, W, C]` floating point.
        matrix: `[..., 2, 3]`, (A | b), one for each image, x before y; a `[2, 3]` is for all of them.
        size: (height, width) of the output.
        sharpness: Keys' a; -0.75 is OpenCV's, -0.5 MATLAB's.

    Returns:
        `[..., height, width, C]` float32.

    Raises:
        TypeError: if the image is not floating point.
        ValueError: if the shapes don't fit.

    Source: Keys 1981; the weights are those of OpenCV's `INTER_CUBIC`, its coordinates are not rounded.
    """
    x = as_float_image(image, function="warp_affine")
    m = jnp.asarray(matrix, jnp.float32)
    leading = x.shape[:-3]
    if m.shape[-2:] != (2, 3) or m.shape[:-2] not in ((), leading):
        raise ValueError(f"warp_affine: matrix has shape {m.shape}; expected {[*leading, 2, 3]} or [2, 3].")
    m = jnp.broadcast_to(m, (*leading, 2, 3)).reshape(-1, 2, 3)
    flat = x.reshape(-1, *x.shape[-3:])
    apron = jnp.pad(flat, ((0, 0), (_APRON, _APRON), (_APRON, _APRON), (0, 0)))
    index = jnp.arange(flat.shape[0])
    y = warp_padded(apron, index, m, size, apron=_APRON, sharpness=sharpness)
    return y.reshape(*leading, *y.shape[1:])


def warp_padded(
    images: Array, index: Array, matrix: Array, size: tuple[int, int], *, apron: int, sharpness: float = -0.75
) -> Array:
    """`warp_affine` of some of many images, around which there are `apron` (3 or more) zeros already.

    Args:
        images: `[N, H, W, C]`, apron and all.
        index: `[B]`, which of them.
        matrix: `[B, 2, 3]`, to places of the images without apron.
        size: (height, width) of the output.
        apron: pixels of zeros on each side.
        sharpness: see `warp_affine`.

    Returns:
        `[B, height, width, C]` float32.
    """
    height, width = size
    columns, rows = jnp.arange(width, dtype=jnp.float32), jnp.arange(height, dtype=jnp.float32)

    def places(row: int) -> Array:
        along, down, start = (matrix[:, row, i, None, None] for i in range(3))
        return along * columns[None, None, :] + down * rows[None, :, None] + start

    taps = []
    for place, length in ((places(1), images.shape[1]), (places(0), images.shape[2])):
        # Rotations by quarter turns in float32 miss the centres by rounding: they are meant.
        nearest = jnp.round(place)
        place = jnp.where(jnp.abs(place - nearest) < 1e-3, nearest, place)
        place = jnp.clip(place, -2.0, length - 2 * apron + 1.0)
        first = jnp.floor(place)
        taps.append((first.astype(jnp.int32) + apron - 1, _weights(place - first, sharpness)))
    (top, down), (left, across) = taps
    channels = images.shape[3]

    def row_of_taps(image: Array, top: Array, left: Array) -> Array:
        return jax.lax.dynamic_slice(images, (image, top, left, 0), (1, 1, 4, channels))[0, 0]

    gather = jax.vmap(jax.vmap(jax.vmap(row_of_taps, (None, 0, 0)), (None, 0, 0)))
    total = jnp.zeros((*top.shape, channels), jnp.float32)
    for i in range(4):
        four = gather(index, top + i, left).astype(jnp.float32)  # [B, height, width, 4, C]
        for j in range(4):
            total = total + (down[..., i] * across[..., j])[..., None] * four[..., j, :]
    return total


def _weights(t: Array, a: float) -> Array:
    """Keys' weights of the four pixels around a place that is `t` in [0, 1) behind the second: `[..., 4]`."""
    near, far = 1 - t, 2 - t
    return jnp.stack(
        [
            ((a * (t + 1) - 5 * a) * (t + 1) + 8 * a) * (t + 1) - 4 * a,
            ((a + 2) * t - (a + 3)) * t * t + 1,
            ((a + 2) * near - (a + 3)) * near * near + 1,
            ((a * far - 5 * a) * far + 8 * a) * far - 4 * a,
        ],
        axis=-1,
    )
