"""The type that densities, divergences and statistics are computed in."""

from typing import Any

import jax
import jax.numpy as jnp


def at_least_float32(value: Any) -> jax.Array:
    """Give a number or an array in float32, or in float64 where it is that and JAX is told to have it."""
    array = jnp.asarray(value)
    return array.astype(jnp.promote_types(array.dtype, jnp.float32))
