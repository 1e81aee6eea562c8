"""Finite scalar quantisation: every dimension rounded to a few levels; there is no codebook to learn."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from vaesr.quantisation.gradients import straight_through


def finite_scalar(z: jax.Array, levels: Sequence[int]) -> tuple[jax.Array, jax.Array]:
    """Bound every dimension and round it to one of its levels.

    Args:
        z: `[..., d]`.
        levels: of each of the d dimensions, at least 2.

    Returns:
        Values `[..., d]` in [-1, 1], float32, with the gradient of the bounding function; and the codes
        `[...]`, int32 in [0, product of the levels), the first dimension the fastest.

    Raises:
        ValueError: if the levels are out of range or don't fit `z`.

    Source: Mentzer et al. 2023 (FSQ), section 3 and appendix A.1.
    """
    count = code_count(levels)
    if z.shape[-1] != len(levels):
        raise ValueError(f"z must end in the {len(levels)} dimensions of levels, got shape {z.shape}.")
    grid = jnp.asarray(levels, jnp.float32).reshape((1,) * (z.ndim - 1) + (-1,))
    # Even numbers of levels lie half a step off zero: the shift makes tanh's zero a boundary.
    half = (grid - 1) * (1 + 1e-3) / 2
    offset = jnp.where(grid % 2 == 0, 0.5, 0.0)
    bounded = jnp.tanh(z.astype(jnp.float32) + jnp.arctanh(offset / half)) * half - offset
    rounded = straight_through(bounded, jnp.round(bounded))
    whole = jnp.floor(grid / 2)
    places = (jax.lax.stop_gradient(rounded) + whole).astype(jnp.int32)
    strides = np.concatenate([[1], np.cumprod(levels)[:-1]]).astype(np.int32)
    codes = (places * jnp.asarray(strides).reshape((1,) * (z.ndim - 1) + (-1,))).sum(-1)
    assert count <= 2**31
    return rounded / whole, codes.astype(jnp.int32)


def finite_scalar_values(codes: jax.Array, levels: Sequence[int]) -> jax.Array:
    """Give the values of codes.

    Args:
        codes: `[...]` integers, from `finite_scalar`.
        levels: as there.

    Returns:
        `[..., d]` in [-1, 1], float32.

    Raises:
        ValueError: if the levels are out of range.
    """
    code_count(levels)
    strides = np.concatenate([[1], np.cumprod(levels)[:-1]]).astype(np.int32)
    grid = jnp.asarray(levels, jnp.int32).reshape((1,) * codes.ndim + (-1,))
    places = codes[..., None].astype(jnp.int32) // jnp.asarray(strides).reshape(grid.shape) % grid
    whole = grid // 2
    return (places - whole).astype(jnp.float32) / whole.astype(jnp.float32)


def code_count(levels: Sequence[int]) -> int:
    """Count the codes of a grid.

    Args:
        levels: of each dimension, at least 2.

    Returns:
        Their product.

    Raises:
        ValueError: if there are no dimensions, a level is below 2, or the product exceeds 2^31.
    """
    if not len(levels) or min(levels) < 2 or math.prod(levels) > 2**31:
        raise ValueError(
            f"levels must be numbers of at least 2 with a product of at most 2^31, got {tuple(levels)}."
        )
    return math.prod(levels)
