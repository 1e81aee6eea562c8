"""The importance-weighted bound with many samples in little memory, for evaluation."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vaesr.distributions import example_keys
from vaesr.objectives.likelihoods import Likelihood
from vaesr.objectives.posterior import (
    Decode,
    Draw,
    Encode,
    draw_and_decode,
    gaussian_layer,
)

_Sums = tuple[jax.Array, jax.Array, jax.Array, jax.Array]


class BoundEstimate(NamedTuple):
    """Lower bounds on log p(x), each array `[B]` float32.

    Attributes:
        bound_nats: the importance-weighted bound.
        elbo_nats: the ELBO, its KL term in closed form where there is one.
        reconstruction_nats: `-log p(x | z)`, averaged over the samples.
        kl_nats: KL(q(z | x) || p(z)).
        effective_samples: `(Σw)² / Σw²`, between 1 and the number of samples; near 1, one sample
            carries the bound and more are needed.
    """

    bound_nats: jax.Array
    elbo_nats: jax.Array
    reconstruction_nats: jax.Array
    kl_nats: jax.Array
    effective_samples: jax.Array


def evaluate_bound(
    encode: Encode,
    decode: Decode,
    likelihood: Likelihood,
    params: Any,
    images: jax.Array,
    *,
    key: jax.Array,
    draw: Draw | None = None,
    samples: int = 100,
    chunk: int = 50,
    position: jax.Array | None = None,
) -> BoundEstimate:
    """Estimate the importance-weighted bound and the ELBO of every example.

    Runs over the samples in chunks with a streaming logsumexp: memory grows with `chunk`, not with
    `samples`, and the result doesn't depend on `chunk`. Compile it with `encode`, `decode`, `likelihood` and
    `draw` bound by `functools.partial`.

    Args:
        encode: `encode(params, x) -> (mean_q, log_var_q)`, or features for `draw`; called once.
        decode: `decode(params, z) -> outputs`.
        likelihood: what the outputs mean.
        params: the first argument of all three (one player's tree).
        images: `[B, ...]`, float.
        key: one random key.
        draw: `draw(params, features, keys, indices) -> Draws` of a model with several layers of latents,
            called for `chunk` samples at a time; None is one Gaussian layer.
        samples: K, at least 1 and static; 5000 is customary in papers.
        chunk: samples decoded at a time, at least 1 and static.
        position: `[B]` int32, each example's index in the whole set, so that its noise doesn't depend on
            how the set is cut into batches; `arange(B)` if absent.

    Returns:
        A `BoundEstimate` of `[B]` arrays.

    Raises:
        ValueError: if `samples` or `chunk` is below 1, or shapes don't fit.

    Source: Burda, Grosse and Salakhutdinov 2016, equation 8.
    """
    if samples < 1 or chunk < 1:
        raise ValueError(f"samples and chunk must be at least 1, got {samples} and {chunk}.")
    chunk = min(chunk, samples)
    images = jnp.asarray(images)
    if images.ndim < 2 or not jnp.issubdtype(images.dtype, jnp.floating):
        raise ValueError(f"images must be float [B, ...], got shape {images.shape} and dtype {images.dtype}.")
    images = images.astype(jnp.float32)
    keys = example_keys(key, jnp.arange(images.shape[0]) if position is None else position)
    if draw is None:
        encode, draw = gaussian_layer(encode)
    features = encode(params, images)

    def add_chunk(carry: _Sums, start: jax.Array) -> tuple[_Sums, None]:
        indices = start + jnp.arange(chunk)
        wanted = (indices < samples)[:, None]  # the last chunk may be longer than what is left
        draws, nll = draw_and_decode(draw, decode, likelihood, params, features, images, keys, indices)
        log_weights = jnp.where(wanted, draws.log_ratio - nll, -jnp.inf)
        log_sum, log_sum_squares, nll_sum, kl_mean = carry
        log_sum = jnp.logaddexp(log_sum, jax.nn.logsumexp(log_weights, axis=0))
        log_sum_squares = jnp.logaddexp(log_sum_squares, jax.nn.logsumexp(2.0 * log_weights, axis=0))
        nll_sum = nll_sum + jnp.where(wanted, nll, 0.0).sum(axis=0)
        # A running mean: a KL that is the same for every draw comes out unchanged.
        kl = draws.kl.sum(axis=2)  # [chunk or 1, B]
        new = wanted.astype(jnp.float32) if kl.shape[0] == chunk else jnp.ones((1, 1))
        step = jnp.minimum(chunk, samples - start) / jnp.minimum(start + chunk, samples)
        kl_mean = kl_mean + ((kl * new).sum(axis=0) / new.sum() - kl_mean) * step
        return (log_sum, log_sum_squares, nll_sum, kl_mean), None

    zeros = jnp.zeros(images.shape[0], jnp.float32)
    starts = jnp.arange(0, samples, chunk)
    (log_sum, log_sum_squares, nll_sum, kl), _ = jax.lax.scan(
        add_chunk, (zeros - jnp.inf, zeros - jnp.inf, zeros, zeros), starts
    )
    reconstruction = nll_sum / samples
    return BoundEstimate(
        bound_nats=log_sum - math.log(samples),
        elbo_nats=-reconstruction - kl,
        reconstruction_nats=reconstruction,
        kl_nats=kl,
        effective_samples=jnp.exp(2.0 * log_sum - log_sum_squares),
    )
