"""Shapes and types that several losses ask for."""

import math

import jax
import jax.numpy as jnp


def same_shape(name: str, array: jax.Array, other_name: str, other: jax.Array) -> None:
    """Refuse arrays without a batch axis or of different shapes."""
    shape, other_shape = jnp.shape(array), jnp.shape(other)
    if shape != other_shape:
        raise ValueError(f"{name} and {other_name} must have the same shape, got {shape} and {other_shape}.")
    if not shape:
        raise ValueError(f"{name} and {other_name} must have a leading batch axis, got shape {shape}.")


def float_targets(targets: jax.Array) -> None:
    """Refuse integer images, which are usually bytes that somebody forgot to divide by 255."""
    dtype = jnp.asarray(targets).dtype
    if not (jnp.issubdtype(dtype, jnp.floating) or dtype == jnp.bool_):
        raise ValueError(f"targets must be float or bool, got {dtype}; divide 8-bit images by 255.")


def flat_location_scale(
    mean: jax.Array, log_scale: jax.Array | float, targets: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Check that a mean, a scalar or equal log-scale and targets fit, and flatten each example."""
    same_shape("mean", mean, "targets", targets)
    float_targets(targets)
    log_scale = jnp.asarray(log_scale, jnp.float32)
    if log_scale.shape not in ((), jnp.shape(mean)):
        raise ValueError(
            f"log_scale must be a scalar or have the shape of mean {jnp.shape(mean)}, got {log_scale.shape}."
        )
    return flat(mean), flat(log_scale) if log_scale.ndim else log_scale, flat(targets)


def flat(array: jax.Array) -> jax.Array:
    """Give `[B, ...]` as `[B, n]`.

    Flattening before the arithmetic matters: XLA's CPU back end takes up to 40 times as long for an
    elementwise function fused with a sum over several axes.
    """
    array = jnp.asarray(array)
    return array.reshape(array.shape[0], math.prod(array.shape[1:]))
