"""The importance-weighted bound with doubly reparameterised gradients."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vaesr.losses import iwae_bound
from vaesr.objectives.posterior import log_ratio_slope, posterior_noise, standard_log_ratio

SampledNll = Callable[[Any, jax.Array, jax.Array], jax.Array]
"""`nll(params, z [S, B, latent...], images [B, ...]) -> [S, B]` nats."""


def dreg_bound(
    nll_of: SampledNll,
    params: Any,
    posterior: tuple[jax.Array, jax.Array],
    images: jax.Array,
    keys: jax.Array,
    indices: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Compute the importance-weighted bound; its gradient is the doubly reparameterised estimate.

    With w the normalised weights, the decoder's gradient is `Σ_k w_k ∂log w_k/∂θ`, as without, and the
    encoder's is `Σ_k w_k² ∂log w_k/∂z_k dz_k/dφ`: the same expectation as the plain gradient of the bound,
    and a signal-to-noise ratio that rises with K instead of falling.

    One pass through the decoder and one back serve both: the pass back from the weighted log-weights gives
    `w_k ∂log w_k/∂z_k`, to which one more factor `w_k` belongs.

    Args:
        nll_of: decodes and measures; reverse-mode differentiable in `params` and `z`.
        params: what it takes; its gradient is the decoder's.
        posterior: `mean_q` and `log_var_q`, each `[B, latent...]`.
        images: `[B, ...]`; no gradient.
        keys: random keys `[B]`.
        indices: `[K]` int32, the samples' numbers.

    Returns:
        The bound `[B]`, the log-weights `[B, K]` and `-log p(x | z_k)` `[K, B]`, in nats. Only the bound
        has a gradient.

    Source:
        Tucker, Lawson, Gu and Maddison 2019, equation 8; Rainforth et al. 2018 (signal-to-noise ratio).
    """
    mean_q, log_var_q = posterior
    noise = posterior_noise(keys, indices, mean_q.shape[1:])
    z = mean_q[None] + jnp.exp(0.5 * log_var_q)[None] * noise
    log_ratio = standard_log_ratio(z, noise, log_var_q).sum(axis=tuple(range(2, z.ndim)))
    slope = log_ratio_slope(z, noise, log_var_q)
    # q's parameters act through z alone: what else depends on them is a constant.
    log_ratio, slope = jax.lax.stop_gradient((log_ratio, slope))
    bound, log_weights, nll = _bound(nll_of, params, z, log_ratio, slope, images)
    return bound, *jax.lax.stop_gradient((log_weights, nll))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _bound(
    nll_of: SampledNll, params: Any, z: jax.Array, log_ratio: jax.Array, slope: jax.Array, images: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The bound, the log-weights and the nll; `slope` is the derivative of `log_ratio` by z."""
    nll = nll_of(params, z, images)
    log_weights = (log_ratio - nll).T
    return iwae_bound(log_weights), log_weights, nll


def _forward(
    nll_of: SampledNll, params: Any, z: jax.Array, log_ratio: jax.Array, slope: jax.Array, images: jax.Array
) -> tuple[tuple[jax.Array, jax.Array, jax.Array], Any]:
    nll, pull_back = jax.vjp(lambda params, z: nll_of(params, z, images), params, z)
    log_weights = (log_ratio - nll).T
    return (iwae_bound(log_weights), log_weights, nll), (pull_back, log_weights, slope)


def _backward(nll_of: SampledNll, residuals: Any, cotangents: tuple[jax.Array, ...]) -> tuple[Any, ...]:
    pull_back, log_weights, slope = residuals
    normalised = jax.nn.softmax(log_weights, axis=1).T  # [K, B]
    weights = normalised * cotangents[0][None]
    by_params, by_z = pull_back(-weights)

    def per_latent(x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape, *(1,) * (slope.ndim - 2))

    by_z = per_latent(normalised) * (by_z + per_latent(weights) * slope)
    return by_params, by_z, None, None, None


_bound.defvjp(_forward, _backward)
