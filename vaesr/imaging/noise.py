"""Noise as cameras make it, grey or in each colour, normal or that of few photons; and sharpening."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from vaesr.imaging._checks import as_float_image
from vaesr.imaging.colour import rgb_to_grey

Array = jax.Array


def gaussian_noise(image: ArrayLike, normal: ArrayLike, sigma: ArrayLike, grey: ArrayLike) -> Array:
    """Adds normal noise, not clipped.

    Args:
        image: `[B, H, W, 3]` in [0, 1].
        normal: the same shape, standard normal numbers; of grey noise the first channel's count.
        sigma: `[B]`, standard deviation in [0, 1].
        grey: `[B]` bool, the same noise in all channels.

    Returns:
        float32 of the image's shape.

    Raises:
        TypeError: if the image is not floating point.
    """
    x, z = as_float_image(image, function="gaussian_noise", minimum_rank=4), jnp.asarray(normal, jnp.float32)
    same = jnp.asarray(grey, bool).reshape(-1, 1, 1, 1)
    z = jnp.where(same, z[..., :1], z)
    return x + jnp.asarray(sigma, jnp.float32).reshape(-1, 1, 1, 1) * z


def poisson_noise(
    image: ArrayLike, keys: Array, scale: ArrayLike, grey: ArrayLike, *, size: ArrayLike | None = None
) -> Array:
    """Adds the noise of counted photons, times a factor, not clipped.

    An image of n different levels is taken for 2^ceil(log2 n) counts at white.

    Args:
        image: `[B, H, W, 3]` in [0, 1].
        keys: random keys `[B]`.
        scale: `[B]`, factor on the noise.
        grey: `[B]` bool, the noise of the luma in all channels.
        size: `[B, 2]`, height and width of images on canvases, whose rest counts for nothing; None: whole.

    Returns:
        float32 of the image's shape.

    Raises:
        TypeError: if the image is not floating point.

    Source: BasicSR, `generate_poisson_noise_pt`.
    """
    x = as_float_image(image, function="poisson_noise", minimum_rank=4)
    levels = jnp.round(jnp.clip(x, 0, 1) * 255)
    luma = jnp.round(jnp.clip(rgb_to_grey(x), 0, 1) * 255)
    same = jnp.asarray(grey, bool).reshape(-1, 1, 1, 1)
    chosen = jnp.where(same, luma, levels)
    inside = jnp.ones(x.shape[:3], bool)
    if size is not None:
        rows, columns = (jnp.arange(n) for n in x.shape[1:3])
        limit = jnp.asarray(size, jnp.int32)
        inside = (rows[None, :, None] < limit[:, :1, None]) & (columns[None, None, :] < limit[:, 1:, None])

    def one(levels: Array, inside: Array, key: Array) -> Array:
        where = jnp.broadcast_to(inside[..., None], levels.shape)
        place = jnp.where(where, levels, 256).astype(jnp.int32).ravel()
        seen = jnp.zeros(257, bool).at[place].set(True)[:256].sum()
        counts = 2.0 ** jnp.ceil(jnp.log2(seen.astype(jnp.float32)))
        rate = levels / 255
        drawn = jax.random.poisson(key, rate * counts).astype(jnp.float32)
        return drawn / counts - rate

    noise = jax.vmap(one)(chosen, inside, keys)
    noise = jnp.where(same, noise[..., :1], noise)
    return x + jnp.asarray(scale, jnp.float32).reshape(-1, 1, 1, 1) * noise


def unsharp_mask(
    image: ArrayLike, *, radius: int = 50, weight: float = 0.5, threshold: float = 10.0
) -> Array:
    """Sharpens where there is something sharp: what Real-ESRGAN's targets go through.

    Args:
        image: `[..., H, W, C]` in [0, 1], sides of more than `radius` / 2.
        radius: side of the Gaussian, one more where it is even.
        weight: of what is added.
        threshold: of the difference to the blurred image, in levels of 255, above which it counts.

    Returns:
        float32 of the image's shape.

    Raises:
        TypeError: if the image is not floating point.

    Source: Real-ESRGAN, `USMSharp`.
    """
    x = as_float_image(image, function="unsharp_mask")
    side = radius + 1 - radius % 2
    sigma = 0.3 * ((side - 1) * 0.5 - 1) + 0.8  # OpenCV's for a given side
    at = jnp.arange(side, dtype=jnp.float32) - (side - 1) / 2
    taps = jnp.exp(-jnp.square(at) / (2 * sigma**2))
    taps = taps / taps.sum()

    def blurred(x: Array) -> Array:
        for axis in (-3, -2):
            length = x.shape[axis]
            reach = side // 2
            around = [(0, 0)] * x.ndim
            around[axis] = (reach, reach)
            wide = jnp.pad(x, around, mode="reflect")
            place = jnp.arange(length)[:, None] + jnp.arange(side)[None, :]
            matrix = jnp.zeros((length, length + 2 * reach), jnp.float32)
            matrix = matrix.at[jnp.arange(length)[:, None], place].set(jnp.broadcast_to(taps, (length, side)))
            moved = jnp.tensordot(matrix, jnp.moveaxis(wide, axis, 0), 1, precision=jax.lax.Precision.HIGHEST)
            x = jnp.moveaxis(moved, 0, axis)
        return x

    rest = x - blurred(x)
    soft = blurred((jnp.abs(rest) * 255 > threshold).astype(jnp.float32))
    sharp = jnp.clip(x + weight * rest, 0, 1)
    return soft * sharp + (1 - soft) * x
