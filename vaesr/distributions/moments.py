"""Mean and second moment of a function of a Gaussian variable."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np


def gaussian_moments(
    mean: jax.Array,
    variance: jax.Array,
    *,
    activation: Callable[[jax.Array], jax.Array] | str = "relu",
    nodes: int = 32,
) -> tuple[jax.Array, jax.Array]:
    """Compute E[f(a)] and E[f(a)²] for Gaussian a, elementwise.

    Args:
        mean: means, any shape.
        variance: variances of the same shape, at least 0.
        activation: "relu", whose moments are closed forms, or any elementwise function, whose moments are
            taken by Gauss-Hermite quadrature.
        nodes: of the quadrature, at least 1; exact for polynomials whose square has a degree below 2 · nodes.

    Returns:
        Two float32 arrays of the shape of `mean`.

    Raises:
        ValueError: if the shapes differ, `activation` is an unknown name or `nodes` is below 1.

    Source: Hinton and van Camp 1993, section 5; for the ReLU, the first moments of a truncated Gaussian.
    """
    if jnp.shape(mean) != jnp.shape(variance):
        raise ValueError(
            f"mean and variance must have the same shape, got {jnp.shape(mean)} and {jnp.shape(variance)}."
        )
    if nodes < 1:
        raise ValueError(f"nodes must be at least 1, got {nodes}.")
    mean, variance = jnp.asarray(mean, jnp.float32), jnp.asarray(variance, jnp.float32)
    # The gradient of a square root at 0 is infinite; this floor is far below what float32 adds to a mean.
    scale = jnp.sqrt(jnp.maximum(variance, 1e-30))
    if callable(activation):
        return _quadrature(activation, mean, scale, nodes)
    if activation != "relu":
        raise ValueError(f'activation must be "relu" or a function, got {activation!r}.')
    ratio = mean / scale
    below = jax.scipy.special.ndtr(ratio)
    density = jnp.exp(-0.5 * jnp.square(ratio)) * (1.0 / math.sqrt(2.0 * math.pi))
    first = mean * below + scale * density
    return first, mean * first + variance * below


def _quadrature(
    function: Callable[[jax.Array], jax.Array], mean: jax.Array, scale: jax.Array, nodes: int
) -> tuple[jax.Array, jax.Array]:
    """Weigh the function's values at the roots of a Hermite polynomial."""
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    weights = weights / weights.sum()
    first, second = jnp.zeros_like(mean), jnp.zeros_like(mean)
    for point, weight in zip(points, weights, strict=True):
        value = function(mean + scale * float(point))
        first, second = first + float(weight) * value, second + float(weight) * jnp.square(value)
    return first, second
