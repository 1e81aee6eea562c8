"""Gradient magnitude similarity deviation (GMSD)."""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from vaesr.metrics import filters
from vaesr.metrics.protocol import GREY, Protocol, prepare_maps

Array = jax.Array

_T = 170.0


def gmsd(reference: ArrayLike, distorted: ArrayLike, *, protocol: Protocol = GREY) -> Array:
    """Returns the spread of the local similarity of gradients: the lower, the better.

    Prewitt gradients of the halved image on the 8-bit scale, T = 170, standard deviation over all pixels (N -
    1). With `protocol=MATLAB_GREY` this is the authors' `GMSD.m`; piq takes the population's deviation and
    another rounding, up to 0.0002 away. With RGB the channels are measured one by one and averaged.

    Args:
        reference: `[B, H, W, C]` floating-point images in [0, `protocol.data_range`].
        distorted: `[B, H, W, C]`, the same shape.
        protocol: what is compared; by default grey.

    Returns:
        `[B]` float32, at least 0; 0 for identical images. There the gradient is 0.

    Raises:
        TypeError: if an image is not floating point.
        ValueError: if the shapes differ, are not `[B, H, W, C]`, or fewer than 4 pixels per side remain.

    Source: Xue et al., "Gradient Magnitude Similarity Deviation: A Highly Efficient Perceptual Image Quality
      Index", 2014, equations 4 and 6.
    """
    return _gmsd(*prepare_maps(reference, distorted, protocol, function="gmsd", minimum=4))


@jax.jit
def _gmsd(x: Array, y: Array) -> Array:
    """GMSD `[B]` of maps `[B, C, H, W]` whose white is 1."""

    def magnitude(maps: Array) -> Array:
        halved = filters.box_downsample(255.0 * maps, 2, mode="constant")
        return filters.gradient_magnitude(halved, (1.0, 1.0, 1.0), 1 / 3)

    a, b = magnitude(x), magnitude(y)
    # What similarity lacks of 1 has the same spread, and is exactly 0 where nothing differs.
    lack = jnp.square(a - b) / (a * a + b * b + _T)
    count = lack.shape[-1] * lack.shape[-2]
    deviations = lack - lack.mean(axis=(-2, -1), keepdims=True)
    variance = jnp.square(deviations).sum(axis=(-2, -1)) / (count - 1)
    return filters.safe_sqrt(variance).mean(axis=-1)
