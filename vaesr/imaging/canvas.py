"""Images of sizes that only the compiled program knows: each in the upper left of a canvas of one fixed size.

What a random degradation does to an image's size is drawn inside the compiled step, where shapes are fixed.
An image of height h and width w, both traced, is then rows 0 to h - 1 and columns 0 to w - 1 of a canvas,
whose rest repeats the image's last row and column.
"""

import functools

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from vaesr.imaging._checks import as_float_image
from vaesr.imaging.blur import correlate

Array = jax.Array
RESIZE_MODES = ("area", "bilinear", "bicubic")
_HIGHEST = jax.lax.Precision.HIGHEST


def resize_on_canvas(
    image: ArrayLike, size: ArrayLike, new_size: ArrayLike, mode: ArrayLike, canvas: tuple[int, int]
) -> Array:
    """Resizes images of traced sizes to other traced sizes, without low-pass filtering, as PyTorch does.

    Args:
        image: `[B, H, W, C]` floating point, canvases of images.
        size: `[B, 2]` integers, height and width of each image; at most H and W.
        new_size: `[B, 2]` integers; at most the new canvas.
        mode: `[B]` integers, places in `RESIZE_MODES`.
        canvas: height and width of the new canvas.

    Returns:
        `[B, *canvas, C]` float32.

    Raises:
        TypeError: if the image is not floating point.
        ValueError: if the shapes don't fit.

    Source: PyTorch's `interpolate(align_corners=False)`, its `area` and its bicubic with a = -0.75.
    """
    x = as_float_image(image, function="resize_on_canvas", minimum_rank=4)
    size, new_size, mode = (jnp.asarray(value, jnp.int32) for value in (size, new_size, mode))
    if x.ndim != 4 or size.shape != (len(x), 2) or new_size.shape != (len(x), 2) or mode.shape != (len(x),):
        raise ValueError(
            f"resize_on_canvas: image has shape {x.shape}, size {size.shape}, new_size {new_size.shape} and "
            f"mode {mode.shape}; expected [B, H, W, C], [B, 2], [B, 2] and [B]."
        )
    rows = jax.vmap(functools.partial(_matrix, length=x.shape[1], out=canvas[0]))(
        size[:, 0], new_size[:, 0], mode
    )
    columns = jax.vmap(functools.partial(_matrix, length=x.shape[2], out=canvas[1]))(
        size[:, 1], new_size[:, 1], mode
    )
    y = jnp.einsum("boh,bhwc->bowc", rows, x, precision=_HIGHEST)
    return jnp.einsum("bpw,bowc->bopc", columns, y, precision=_HIGHEST)


def blur_on_canvas(image: ArrayLike, size: ArrayLike, kernel: ArrayLike) -> Array:
    """Correlates images of traced sizes with a kernel each, their borders reflected.

    Args:
        image: `[B, H, W, C]` floating point, canvases.
        size: `[B, 2]` integers, height and width of each image, more than half of the kernel's side.
        kernel: `[B, K, K]`, K odd.

    Returns:
        float32 of the image's shape; again canvases.

    Raises:
        TypeError: if the image is not floating point.
        ValueError: if the shapes don't fit.
    """
    x, k = as_float_image(image, function="blur_on_canvas", minimum_rank=4), jnp.asarray(kernel, jnp.float32)
    if k.ndim != 3 or len(k) != len(x) or k.shape[1] % 2 == 0 or k.shape[1] != k.shape[2]:
        raise ValueError(f"blur_on_canvas: kernel has shape {k.shape}; expected [{len(x)}, K, K] with odd K.")
    reach = k.shape[1] // 2

    def padded(x: Array, size: Array) -> Array:
        for axis in (0, 1):
            last = size[axis] - 1
            place = jnp.arange(-reach, x.shape[axis] + reach)
            # Beyond the image first the reflected edge, then, where nobody looks, the edge of that.
            place = jnp.abs(jnp.minimum(place, last + reach))
            place = jnp.where(place > last, jnp.maximum(2 * last - place, 0), place)
            x = jnp.take(x, place, axis=axis)
        return x

    y = correlate(jax.vmap(padded)(x, jnp.asarray(size, jnp.int32)), k)
    return fill_canvas(y, size)


def fill_canvas(image: ArrayLike, size: ArrayLike) -> Array:
    """Repeats each image's last row and column over the rest of its canvas.

    Args:
        image: `[B, H, W, C]` floating point, canvases.
        size: `[B, 2]` integers, height and width of each image.

    Returns:
        float32 of the image's shape.

    Raises:
        TypeError: if the image is not floating point.
    """

    def one(x: Array, size: Array) -> Array:
        for axis in (0, 1):
            x = jnp.take(x, jnp.minimum(jnp.arange(x.shape[axis]), size[axis] - 1), axis=axis)
        return x

    x = as_float_image(image, function="fill_canvas", minimum_rank=4)
    return jax.vmap(one)(x, jnp.asarray(size, jnp.int32))


def _matrix(size: Array, new_size: Array, mode: Array, *, length: int, out: int) -> Array:
    """`[out, length]`: what makes an axis of `new_size` of one of `size`; rows beyond repeat the last."""
    i = jnp.minimum(jnp.arange(out), new_size - 1).astype(jnp.float32)[:, None]
    j = jnp.arange(length, dtype=jnp.float32)[None, :]
    old, new = size.astype(jnp.float32), new_size.astype(jnp.float32)
    # Whole numbers: a quotient that is one must not fall below it by rounding.
    first = jnp.floor((i * old + 0.5) / new)
    end = jnp.ceil(((i + 1) * old - 0.5) / new)
    covered = ((j >= first) & (j < end)).astype(jnp.float32)
    area = covered / (end - first)
    place = (i + 0.5) * (old / new) - 0.5

    def taps(place: Array, weights: list[Array], first: int) -> Array:
        base = jnp.floor(place)
        total = jnp.zeros((out, length), jnp.float32)
        for tap, weight in enumerate(weights):
            total = total + weight * (jnp.clip(base + (first + tap), 0, old - 1) == j)
        return total

    inside = jnp.maximum(place, 0)
    t = inside - jnp.floor(inside)
    bilinear = taps(inside, [1 - t, t], 0)
    t, a = place - jnp.floor(place), -0.75

    def far(d: Array) -> Array:
        return ((a * d - 5 * a) * d + 8 * a) * d - 4 * a

    def near(d: Array) -> Array:
        return ((a + 2) * d - (a + 3)) * d * d + 1

    bicubic = taps(place, [far(t + 1), near(t), near(1 - t), far(2 - t)], -1)
    return jnp.where(mode == 0, area, jnp.where(mode == 1, bilinear, bicubic))
