"""Between stored integers and floating-point images in [0, 1].

All rounding here is half up, `floor(x + 0.5)`, which for images is what MATLAB's `uint8()` and `round()` do;
`jnp.round` and `numpy.round` go to the even neighbour instead and move benchmark figures in the fifth
decimal.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from vaesr.imaging._checks import as_float_image

Array = jax.Array


def to_float(image: ArrayLike) -> Array:
    """Maps stored 8-bit or 16-bit images to [0, 1].

    Args:
        image: uint8 or uint16 array of any shape.

    Returns:
        float32 array of the same shape: the value over 255 or 65535.

    Raises:
        TypeError: for any other dtype, because its range is not known.
    """
    dtype = jnp.result_type(image)
    if dtype not in (jnp.uint8, jnp.uint16):
        raise TypeError(f"to_float takes uint8 or uint16, whose range is known, but was given {dtype}.")
    return jnp.asarray(image).astype(jnp.float32) / float(jnp.iinfo(dtype).max)


def to_uint8(image: ArrayLike) -> Array:
    """Clips to [0, 1] and rounds half up to 8 bits, as MATLAB's `uint8()` does.

    Args:
        image: floating-point array of any shape, nominally in [0, 1].

    Returns:
        uint8 array of the same shape. NaN becomes 0.

    Raises:
        TypeError: if the image is not floating point.
    """
    x = as_float_image(image, function="to_uint8", minimum_rank=0)
    return jnp.where(jnp.isnan(x), 0.0, _levels(x, 255)).astype(jnp.uint8)


def quantise(image: ArrayLike, *, bits: int = 8) -> Array:
    """Clips to [0, 1] and rounds half up to the grid of `bits`-bit images, staying in floating point.

    The gradient is zero almost everywhere, so this belongs in measurements, not in losses.

    Args:
        image: floating-point array of any shape, nominally in [0, 1].
        bits: bits per channel, 1 to 16.

    Returns:
        float32 array of the same shape with values k / (2**bits - 1). NaN stays NaN.

    Raises:
        TypeError: if the image is not floating point.
        ValueError: if `bits` is outside 1 to 16.
    """
    x = as_float_image(image, function="quantise", minimum_rank=0)
    if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= 16:
        raise ValueError(f"quantise: bits must be an integer from 1 to 16, but was {bits!r}.")
    top = 2**bits - 1
    return _levels(x, top) / top


def _levels(x: Array, top: int) -> Array:
    return jnp.floor(jnp.clip(x, 0.0, 1.0) * top + 0.5)
