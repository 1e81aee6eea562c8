"""What gradient passes a quantiser."""

import jax
import jax.numpy as jnp
from jax import lax


def straight_through(z: jax.Array, quantised: jax.Array) -> jax.Array:
    """Give the quantised values, with the gradient of the identity.

    Args:
        z: what was quantised, any shape.
        quantised: the same shape.

    Returns:
        `quantised`; its gradient goes to `z` unchanged, and none to `quantised`.

    Raises:
        ValueError: if the shapes differ.

    Source: Bengio et al. 2013; van den Oord et al. 2017, section 3.2.
    """
    if z.shape != quantised.shape:
        raise ValueError(f"z and quantised must have the same shape, got {z.shape} and {quantised.shape}.")
    # Not z + stop_gradient(quantised - z), whose rounding would let the decoder see other values than those
    # of the code.
    return _identity_gradient(z, lax.stop_gradient(quantised))


@jax.custom_vjp
def _identity_gradient(z: jax.Array, quantised: jax.Array) -> jax.Array:
    return quantised


def _forward(z: jax.Array, quantised: jax.Array) -> tuple[jax.Array, jax.Array]:
    return quantised, jnp.zeros((), z.dtype)


def _backward(like: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    return g.astype(like.dtype), jnp.zeros_like(g)


_identity_gradient.defvjp(_forward, _backward)


def rotate_to(z: jax.Array, quantised: jax.Array) -> jax.Array:
    """Give the quantised values as a rotation and scaling of what was quantised: the rotation trick.

    The gradient is turned and scaled with them, so that it points apart for vectors on different sides of
    their code, where the straight-through gradient is one for all.

    Args:
        z: what was quantised, `[..., D]`.
        quantised: the same shape.

    Returns:
        `quantised`, up to rounding; float32. The gradient goes to `z` alone.

    Raises:
        ValueError: if the shapes differ.

    Source: Fifty et al. 2024, "Restructuring vector quantization with the rotation trick", section 4.
    """
    if z.shape != quantised.shape:
        raise ValueError(f"z and quantised must have the same shape, got {z.shape} and {quantised.shape}.")
    z, q = z.astype(jnp.float32), lax.stop_gradient(quantised.astype(jnp.float32))
    fixed = lax.stop_gradient(z)
    length_z, length_q = (jnp.sqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-12) for x in (fixed, q))
    from_, to = fixed / length_z, q / length_q
    middle = from_ + to
    middle = middle / jnp.sqrt(jnp.square(middle).sum(-1, keepdims=True) + 1e-12)
    # R z = z - 2 r (r·z) + 2 to (from·z), with r the middle of both directions.
    along_middle = (z * middle).sum(-1, keepdims=True)
    along_from = (z * from_).sum(-1, keepdims=True)
    return (length_q / length_z) * (z - 2 * middle * along_middle + 2 * to * along_from)
