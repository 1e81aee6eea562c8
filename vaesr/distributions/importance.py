"""Importance-weighted bounds and their gradients: plain, sticking the landing, doubly reparameterised."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from vaesr.distributions.estimators import Function, draw_samples, evaluate_samples

_GRADIENTS = ("pathwise", "stl", "dreg")


def importance_weighted(
    f: Function,
    q: Any,
    key: jax.Array,
    *,
    samples: int = 1,
    importance_samples: int = 5,
    gradient: str = "dreg",
) -> jax.Array:
    """Estimate log E_q[exp(f(z)) / q(z)] from below, as importance-weighted autoencoders do.

    Args:
        f: log of an unnormalised density, `f(z) -> [...]` (an autoencoder's `log p(x, z)`), from values of
            the shape of `q` to the leading axes of that shape.
        q: a reparameterisable distribution such as `Normal`.
        key: one random key, or `[B]` keys from `example_keys`, one per element of the leading axis of `q`.
        samples: S, independent bounds, at least 1.
        importance_samples: K, samples per bound, at least 1.
        gradient: how gradients reach `q`: "pathwise" differentiates the bound; its signal-to-noise ratio
            falls as 1/√K. "stl" leaves out the score of q, unbiased for K = 1 only. "dreg", doubly
            reparameterised, is unbiased, and its ratio rises as √K.

    Returns:
        `[S, ...]` float32, `log 1/K Σ_k exp(f(z_k)) / q(z_k)`; gradients flow to `q` through the samples,
        and to what `f` holds as usual.

    Raises:
        ValueError: if `gradient` is unknown, `q` can't be reparameterised, a number is below 1, or `f`'s
            result doesn't fit `q`.

    Source: Burda et al. 2016, equation 8; Roeder et al. 2017 (stl); Tucker et al. 2019, equation 8 (dreg);
      Rainforth et al. 2018 (signal-to-noise ratio).
    """
    if gradient not in _GRADIENTS:
        raise ValueError(f"gradient must be one of {', '.join(_GRADIENTS)}, got {gradient!r}.")
    if importance_samples < 1:
        raise ValueError(f"importance_samples must be at least 1, got {importance_samples}.")
    if not q.reparameterised:
        raise ValueError(f"importance_weighted needs a reparameterisable q, got {type(q).__name__}.")
    density = q if gradient == "pathwise" else jax.lax.stop_gradient(q)

    def log_weight(z: jax.Array) -> jax.Array:
        log_p = evaluate_samples(f, z)
        log_q = jax.vmap(density.log_prob)(z)
        return log_p - log_q.sum(axis=tuple(range(log_p.ndim, z.ndim)))

    z = draw_samples(q, key, samples * importance_samples)
    z = z.reshape(samples, importance_samples, *z.shape[1:])
    if gradient == "dreg":
        return jax.vmap(lambda z: doubly_reparameterised_bound(log_weight, z)[0])(z)
    return jax.vmap(lambda z: _log_mean(log_weight(z)))(z)


def doubly_reparameterised_bound(
    log_weight: Callable[[jax.Array], jax.Array], z: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Compute the importance-weighted bound of samples whose gradient is the doubly reparameterised one.

    One forward pass and one backward pass: the gradient of each sample, `w_k` times that of its log-weight
    in the plain bound, is multiplied by its normalised weight `w_k` once more.

    Args:
        log_weight: `log p(x, z) - log q(z)` of samples `[K, ..., event...]`, giving `[K, ...]`; q's
            parameters must be stopped inside. Parameters that it holds get the plain bound's gradient.
        z: samples `[K, ..., event...]`, differentiable functions of q's parameters.

    Returns:
        The bound `[...]`, `logsumexp over K - log K`, and the log-weights `[K, ...]`, which carry no
        gradient; both float32.

    Source: Tucker, Lawson, Gu and Maddison 2019 (doubly reparameterised gradient estimators), equation 8.
    """
    function, held = jax.closure_convert(log_weight, z)

    @jax.custom_vjp
    def bound(z: jax.Array, *held: Any) -> tuple[jax.Array, jax.Array]:
        log_weights = function(z, *held).astype(jnp.float32)
        return _log_mean(log_weights), log_weights

    def forward(z: jax.Array, *held: Any) -> tuple[tuple[jax.Array, jax.Array], Any]:
        log_weights, pull_back = jax.vjp(lambda *args: function(*args).astype(jnp.float32), z, *held)
        return (_log_mean(log_weights), log_weights), (pull_back, jax.nn.softmax(log_weights, axis=0))

    def backward(residuals: Any, cotangents: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, ...]:
        pull_back, normalised = residuals
        by_z, *by_held = pull_back(cotangents[0][None] * normalised)
        return by_z * normalised.reshape(normalised.shape + (1,) * (z.ndim - normalised.ndim)), *by_held

    bound.defvjp(forward, backward)
    return bound(z, *held)


def _log_mean(log_weights: jax.Array) -> jax.Array:
    """`log 1/K Σ exp` over the first axis."""
    return jax.nn.logsumexp(log_weights, axis=0) - jnp.log(jnp.float32(log_weights.shape[0]))
