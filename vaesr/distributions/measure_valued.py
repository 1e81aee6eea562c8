"""The measure-valued gradient of Gaussian expectations: a difference of two expectations per parameter."""

import functools
import math

import jax
import jax.numpy as jnp

from vaesr.distributions.estimators import Function, draw_samples, evaluate_samples, with_gradient
from vaesr.distributions.keys import keys_shape
from vaesr.distributions.normal import Normal


def measure_valued(
    f: Function, q: Normal, key: jax.Array, *, samples: int = 1, coupled: bool = True
) -> jax.Array:
    """Estimate E_q[f] with the measure-valued (weak) gradient of a diagonal Gaussian.

    The derivative of the density with respect to one parameter is a constant times the difference of two
    densities; `f` is averaged under both. `f` needn't be differentiable, and the variance doesn't grow with
    the dimension as the score function's does; but a gradient costs 4 D evaluations of `f` a sample, with D
    elements per value of `f`, all in memory at once.

    Args:
        f: `f(z) -> [...]`, from values of the shape of `q` to the leading axes of that shape.
        q: normal distributions.
        key: one random key, or `[B]` keys from `example_keys`, one per element of the leading axis of `q`.
        samples: S, at least 1.
        coupled: draw the two densities' values from common random numbers, which lowers the variance.

    Returns:
        `[S, ...]` float32, `f` at S samples; gradients flow to `q.mean` and `q.log_var`.

    Raises:
        ValueError: if `q` is no `Normal`, `samples` is below 1, or `f`'s result doesn't fit `q`.

    Source: Mohamed et al. 2020 (Monte Carlo gradient estimation), section 6 and table 1: Weibull(√2, 2) for
      the mean; double-sided Maxwell against the Gaussian itself for the scale.
    """
    if not isinstance(q, Normal):
        raise ValueError(f"measure_valued is known for Normal only, got {type(q).__name__}.")
    z = jax.lax.stop_gradient(draw_samples(q, key, samples))
    values = evaluate_samples(f, z)
    event = z.shape[values.ndim :]
    log_var = jnp.broadcast_to(jnp.asarray(q.log_var, jnp.float32), z.shape[1:])
    mean = jnp.asarray(q.mean, jnp.float32)
    centre, scale = (jax.lax.stop_gradient(x)[None] for x in (mean, jnp.exp(0.5 * log_var)))
    rayleigh, rayleigh_other, maxwell, gaussian = _noise(key, q, samples, coupled)

    def difference(upper: jax.Array, lower: jax.Array) -> jax.Array:
        """f with one element after the other replaced by `upper`, less f with it replaced by `lower`."""

        def one(chosen: jax.Array) -> jax.Array:
            chosen = jnp.broadcast_to(chosen, z.shape)
            return evaluate_samples(f, jnp.where(chosen, upper, z)) - evaluate_samples(
                f, jnp.where(chosen, lower, z)
            )

        size = math.prod(event)
        chosen = jnp.eye(size, dtype=bool).reshape(size, *(1,) * values.ndim, *event)
        found = jnp.moveaxis(jax.vmap(one)(chosen), 0, -1)
        return jax.lax.stop_gradient(found.reshape(z.shape))

    by_mean = difference(centre + scale * rayleigh, centre - scale * rayleigh_other)
    by_mean /= math.sqrt(2.0 * math.pi) * scale
    # The derivative by the scale has the constant 1 / scale, and d scale / d log_var = scale / 2.
    by_log_var = 0.5 * difference(centre + scale * maxwell, centre + scale * gaussian)
    surrogate = by_mean * mean[None] + by_log_var * log_var[None]
    return with_gradient(values, surrogate.sum(axis=tuple(range(values.ndim, z.ndim))))


def _noise(key: jax.Array, q: Normal, samples: int, coupled: bool) -> tuple[jax.Array, ...]:
    """Two Rayleigh variables, a double-sided Maxwell one and a Gaussian, each `[S, ...]`."""
    standard = Normal(jnp.zeros_like(q.mean), jnp.zeros(()))
    per_example = len(keys_shape(key)) == 1

    def normal(stream: int) -> jax.Array:
        # Streams of their own, which sample numbers (below 2^31) never reach.
        fold = functools.partial(jax.random.fold_in, data=0xFFFF0000 + stream)
        return draw_samples(standard, jax.vmap(fold)(key) if per_example else fold(key), samples)

    def length(*streams: int) -> jax.Array:
        return jnp.sqrt(sum(jnp.square(normal(stream)) for stream in streams))

    rayleigh = length(0, 1)  # Weibull(√2, 2)
    maxwell = length(2, 3, 4) * jnp.sign(normal(5))
    if not coupled:
        return rayleigh, length(6, 7), maxwell, normal(8)
    # A double-sided Maxwell variable times a uniform one is Gaussian.
    return rayleigh, rayleigh, maxwell, maxwell * jax.scipy.stats.norm.cdf(normal(6))
