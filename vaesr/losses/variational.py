"""The terms of variational bounds, one value per example, in nats."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from vaesr.distributions import Bernoulli, Normal, kl_normal, kl_standard_normal
from vaesr.distributions.casting import at_least_float32
from vaesr.losses.checks import flat, flat_location_scale, float_targets, same_shape

_LEAST_KL = 0.01  # nats: of no group the weight vanishes


def gaussian_kl_standard(mean_q: jax.Array, log_var_q: jax.Array) -> jax.Array:
    """Compute KL(q || N(0, I)) of a diagonal Gaussian q in closed form.

    Args:
        mean_q: means `[B, ...]`.
        log_var_q: natural logarithms of the variances, same shape.

    Returns:
        `[B]` nats, float32, summed over all axes but the first.

    Raises:
        ValueError: if the shapes differ or there is no batch axis.

    Source: Kingma and Welling 2014, appendix B.
    """
    same_shape("mean_q", mean_q, "log_var_q", log_var_q)
    return kl_standard_normal(Normal(flat(mean_q), flat(log_var_q))).sum(axis=1)


def gaussian_kl(
    mean_q: jax.Array, log_var_q: jax.Array, mean_p: jax.Array, log_var_p: jax.Array
) -> jax.Array:
    """Compute KL(q || p) of two diagonal Gaussians in closed form.

    Args:
        mean_q: means of q, `[B, ...]`.
        log_var_q: natural logarithms of q's variances, same shape.
        mean_p: means of p, same shape.
        log_var_p: natural logarithms of p's variances, same shape.

    Returns:
        `[B]` nats, float32, summed over all axes but the first.

    Raises:
        ValueError: if the shapes differ or there is no batch axis.

    Source: Kullback-Leibler divergence of two univariate normals, e.g. Bishop 2006, exercise 1.30.
    """
    same_shape("mean_q", mean_q, "log_var_q", log_var_q)
    same_shape("mean_q", mean_q, "mean_p", mean_p)
    same_shape("mean_p", mean_p, "log_var_p", log_var_p)
    q, p = Normal(flat(mean_q), flat(log_var_q)), Normal(flat(mean_p), flat(log_var_p))
    return kl_normal(q, p).sum(axis=1)


def bernoulli_nll(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Compute the negative log-likelihood of binary data under Bernoulli logits.

    Args:
        logits: log-odds of a one, `[B, ...]`.
        targets: zeros and ones (or grey values in [0, 1]) of the same shape; float or bool.

    Returns:
        `[B]` nats, float32, summed over all axes but the first; finite, with finite gradients, for every
        finite logit.

    Raises:
        ValueError: if the shapes differ, there is no batch axis or the targets are integers.

    Source: Kingma and Welling 2014, appendix C.1, in the form `softplus(l) - x·l`.
    """
    same_shape("logits", logits, "targets", targets)
    float_targets(targets)
    return -Bernoulli(flat(logits)).log_prob(flat(targets)).sum(axis=1)


def gaussian_nll(mean: jax.Array, targets: jax.Array, *, log_scale: jax.Array | float = 0.0) -> jax.Array:
    """Compute the negative log-likelihood of real-valued data under a diagonal Gaussian.

    Args:
        mean: means `[B, ...]`.
        targets: data of the same shape, float or bool.
        log_scale: natural logarithm of the standard deviation; a scalar, or the shape of `mean`. It may be
            a parameter that is learned.

    Returns:
        `[B]` nats, float32, summed over all axes but the first, normalising constant included. It is a
        density: it can be negative.

    Raises:
        ValueError: if the shapes differ, there is no batch axis or the targets are integers.

    Source: Kingma and Welling 2014, appendix C.2.
    """
    mean, log_scale, targets = flat_location_scale(mean, log_scale, targets)
    return -Normal(mean, 2.0 * log_scale).log_prob(targets).sum(axis=1)


def free_bits(kl: jax.Array, *, nats: float, over: str = "example") -> jax.Array:
    """Sum KL terms per example, none of them counting for less than a floor.

    A term below the floor is constant, so no gradient pushes it further down.

    Args:
        kl: `[B, G]` nats, at least 0: one term per example and per latent dimension or group.
        nats: the floor per term, at least 0.
        over: "example" compares every term with the floor, and does not depend on the rest of the batch;
            "batch" compares each group's mean over the batch, as the paper does. Its mean over the
            batch is the paper's `Σ_j max(nats, E[KL_j])`, but it depends on how the batch is split.

    Returns:
        `[B]` nats, float32.

    Raises:
        ValueError: if `kl` is not `[B, G]`, the floor is negative or `over` is unknown.

    Source: Kingma et al. 2016 (inverse autoregressive flow), equation 15.
    """
    if jnp.ndim(kl) != 2:
        raise ValueError(f"kl must be [B, G] (example, latent group), got shape {jnp.shape(kl)}.")
    if nats < 0:
        raise ValueError(f"nats must be at least 0, got {nats}.")
    if over not in ("example", "batch"):
        raise ValueError(f'over must be "example" or "batch", got {over!r}.')
    kl = jnp.asarray(kl, jnp.float32)
    judged = kl if over == "example" else jnp.broadcast_to(kl.mean(axis=0, keepdims=True), kl.shape)
    return jnp.where(judged > nats, kl, jnp.float32(nats)).sum(axis=1)


def balanced_kl(kl: jax.Array, *, scales: Sequence[float], axis_name: str | None = None) -> jax.Array:
    """Sum KL terms per example, weighted so that all groups of latents come into use.

    A group's weight is in proportion to its mean KL over the batch and to one over its scale; their mean is
    1, and no gradient goes through them. It depends on the rest of the batch.

    Args:
        kl: `[B, G]` nats, one term per example and group of latents.
        scales: G numbers above 0, to which the groups' KLs are to be in proportion.
        axis_name: of the devices under `pmap`, for the means over all of them.

    Returns:
        `[B]` nats, float32.

    Raises:
        ValueError: if `kl` is not `[B, G]` or the scales are not G numbers above 0.

    Source: Vahdat and Kautz 2020 (NVAE), appendix A, "KL balancing", with the authors' code's 0.01.
    """
    if jnp.ndim(kl) != 2:
        raise ValueError(f"kl must be [B, G] (example, latent group), got shape {jnp.shape(kl)}.")
    if len(scales) != kl.shape[1] or not all(scale > 0 for scale in scales):
        raise ValueError(f"scales must be {kl.shape[1]} numbers above 0, one a group, got {tuple(scales)}.")
    kl = at_least_float32(kl)
    mean = jnp.abs(jax.lax.stop_gradient(kl)).mean(axis=0)
    if axis_name is not None:
        mean = jax.lax.pmean(mean, axis_name)
    weights = (mean + _LEAST_KL) / jnp.asarray(scales, kl.dtype)
    return (kl * (weights / weights.mean())[None]).sum(axis=1)


def negative_elbo(reconstruction: jax.Array, kl: jax.Array, *, beta: jax.Array | float = 1.0) -> jax.Array:
    """Add reconstruction and KL term to the loss of a VAE.

    Args:
        reconstruction: `[B]` nats, the negative log-likelihood of the data given the latents.
        kl: `[B]` nats, the divergence of the posterior from the prior.
        beta: weight of the KL, at least 0, a float or a traced scalar; 1 gives the negative ELBO.

    Returns:
        `[B]` nats, float32: `reconstruction + beta * kl`.

    Raises:
        ValueError: if the shapes differ or are not `[B]`, or `beta` is not a scalar or negative.

    Source: Kingma and Welling 2014, equation 3; Higgins et al. 2017 (beta-VAE), equation 4.
    """
    same_shape("reconstruction", reconstruction, "kl", kl)
    if jnp.ndim(kl) != 1:
        raise ValueError(f"kl must have one value per example [B], got shape {jnp.shape(kl)}.")
    if jnp.ndim(beta) != 0 or (isinstance(beta, (int, float)) and beta < 0):
        raise ValueError(f"beta must be a scalar of at least 0, got {beta}.")
    weighted = jnp.asarray(beta, jnp.float32) * jnp.asarray(kl, jnp.float32)
    return jnp.asarray(reconstruction, jnp.float32) + weighted


def importance_weighted_bound(log_weights: jax.Array) -> jax.Array:
    """Compute the importance-weighted lower bound on log p(x) from log-weights.

    Args:
        log_weights: `[B, K]` nats, `log p(x | z_k) + log p(z_k) - log q(z_k | x)` for K samples of the
            posterior.

    Returns:
        `[B]` nats, float32: `logsumexp over K - log K`, a lower bound in expectation that rises with K.

    Raises:
        ValueError: if `log_weights` is not `[B, K]` with K at least 1.

    Source: Burda, Grosse and Salakhutdinov 2016, equation 8.
    """
    if jnp.ndim(log_weights) != 2 or log_weights.shape[1] < 1:
        raise ValueError(f"log_weights must be [B, K] with K at least 1, got shape {jnp.shape(log_weights)}.")
    log_weights = jnp.asarray(log_weights, jnp.float32)
    return jax.nn.logsumexp(log_weights, axis=1) - math.log(log_weights.shape[1])
