"""1x1 convolution as one product of matrices, whose kernel's gradient CPUs are fast at too."""

import functools

import jax
import jax.numpy as jnp
from jax import lax

from vaesr.forms import by_platform
from vaesr.layers.conv import PRECISIONS, check_types, lax_precision


def pointwise_conv2d(x: jax.Array, kernel: jax.Array, *, precision: str = "default") -> jax.Array:
    """Multiply every pixel's channels with one matrix; derivatives are in reverse mode only.

    Args:
        x: images `[B, H, W, C]`, floating point.
        kernel: `[1, 1, C, F]`, same type as `x`.
        precision: of float32 multiplications on accelerators, see `conv2d`.

    Returns:
        `[B, H, W, F]` in the type of `x`.

    Raises:
        ValueError: if the shapes or types don't fit or a word is unknown.
    """
    if x.ndim != 4 or kernel.ndim != 4 or kernel.shape[:3] != (1, 1, x.shape[-1]):
        raise ValueError(
            f"x has shape {x.shape} and kernel {kernel.shape}; expected [B, H, W, C] and [1, 1, C, F]."
        )
    check_types(x, kernel)
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}.")
    inputs, outputs = kernel.shape[2:]
    flat = _product(x.reshape(-1, inputs), kernel.reshape(inputs, outputs), precision)
    return flat.reshape(*x.shape[:-1], outputs)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _product(x: jax.Array, matrix: jax.Array, precision: str) -> jax.Array:
    return jnp.dot(x, matrix, precision=lax_precision(precision))


def _forward(
    x: jax.Array, matrix: jax.Array, precision: str
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    return _product(x, matrix, precision), (x, matrix)


def _backward(precision: str, kept: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, matrix = kept
    dot = functools.partial(jnp.dot, precision=lax_precision(precision))

    def plain(x: jax.Array, g: jax.Array) -> jax.Array:
        return dot(x.T, g)

    def turned(x: jax.Array, g: jax.Array) -> jax.Array:
        # XLA's CPU back end takes a third of the time where the result has few rows. Without the barrier
        # the compiler would take the transposition into the product.
        return lax.optimization_barrier(dot(g.T, x)).T

    few_rows = matrix.shape[0] <= matrix.shape[1]
    slope = plain(x, g) if few_rows else by_platform(x, g, cpu=turned, default=plain)
    return dot(g, matrix.T), slope


_product.defvjp(_forward, _backward)
