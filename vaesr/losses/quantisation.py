"""The two losses that tie an encoder and a codebook together, one value per example."""

import jax
import jax.numpy as jnp
from jax import lax

from vaesr.losses.checks import flat, same_shape


def codebook_loss(z: jax.Array, quantised: jax.Array) -> jax.Array:
    """Pull the codes towards the vectors that chose them.

    Args:
        z: the encoder's vectors `[B, ..., D]`; no gradient reaches them.
        quantised: the codes they chose, as read from the codebook, same shape.

    Returns:
        `[B]` mean squared differences over all axes but the first, float32: neither the batch's size nor the
        code map's changes the weight of a code's error.

    Raises:
        ValueError: if the shapes differ or there is no batch axis.

    Source: van den Oord et al. 2017, equation 3, second term.
    """
    same_shape("z", z, "quantised", quantised)
    return _mean_square(lax.stop_gradient(z), quantised)


def commitment_loss(z: jax.Array, quantised: jax.Array) -> jax.Array:
    """Keep the encoder's vectors near the codes they choose.

    Args:
        z: the encoder's vectors `[B, ..., D]`.
        quantised: the codes they chose, same shape; no gradient reaches them.

    Returns:
        `[B]` mean squared differences over all axes but the first, float32, to be weighted by beta.

    Raises:
        ValueError: if the shapes differ or there is no batch axis.

    Source: van den Oord et al. 2017, equation 3, third term.
    """
    same_shape("z", z, "quantised", quantised)
    return _mean_square(z, lax.stop_gradient(quantised))


def _mean_square(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.square(flat(a).astype(jnp.float32) - flat(b).astype(jnp.float32)).mean(axis=1)
